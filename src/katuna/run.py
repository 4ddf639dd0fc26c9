"""From files to a run and back: puts spec, suggester, launcher and store together, and reads runs for whoever shows them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katuna.errors import Finding, InputRefused
from katuna.launch.options import LocalOptions
from katuna.spec.dump import to_yaml
from katuna.spec.load import Loaded, Source, load_experiment
from katuna.spec.model import Experiment, Manifest
from katuna.spec.render import render
from katuna.store import journal, rundir
from katuna.store.rundir import RunDir
from katuna.trials import Event, Exited, Opened, Search, Trial, fold, ranking, trial_name

if TYPE_CHECKING:
    import pandas

    from katuna.launch.local import LocalLauncher
    from katuna.search.budget import End
    from katuna.search.engine import Watcher

PathLike = str | os.PathLike[str]


class SystemClock:
    def now(self) -> float:
        return time.time()


@dataclass(frozen=True)
class RunOptions:
    """What a user may say of a run beside the file; recorded in the journal, so that a resume means the same.

    `keep` is the number of trials whose artefacts stay, the best ones; None keeps all.
    """

    local: LocalOptions = field(default_factory=LocalOptions)
    keep: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {"local": self.local.as_json(), "keep": self.keep}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunOptions:
        """The inverse of `as_json`."""
        return cls(LocalOptions.from_json(data["local"]), data["keep"])


@dataclass(frozen=True)
class Plan:
    """A search that can be started: everything checked, nothing written yet."""

    sources: tuple[Source, ...]
    loaded: Loaded
    options: RunOptions
    seed: int

    @property
    def experiment(self) -> Experiment:
        return self.loaded.experiment

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.loaded.findings


def read_sources(paths: Sequence[PathLike]) -> tuple[Source, ...]:
    """The files as text. Raises InputRefused for one that cannot be read."""
    sources = []
    for path in map(Path, paths):
        try:
            sources.append(Source(str(path), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError as error:
            raise InputRefused(f"{path}: not UTF-8 text (byte {error.start}); is it a manifest?") from error
        except OSError as error:
            raise InputRefused(f"{path}: {error.strerror or error}") from error
    return tuple(sources)


def plan(
    paths: Sequence[PathLike], *, options: RunOptions | None = None, name: str | None = None, seed: int | None = None
) -> Plan:
    """Reads and checks everything that can be checked before a trial runs.

    `name` picks one of several Experiments; `seed` overrides the file's `random_state`. Raises SpecRefused with all findings of
    all files, or InputRefused when this machine cannot run the trials (a command that does not exist, GPUs that are not there).
    """
    options = options or RunOptions()
    sources = read_sources(paths)
    loaded = load_experiment(sources, name, pass_env=options.local.pass_env)
    if seed is None:
        written = loaded.experiment.settings.get("random_state")
        seed = int(written) if written is not None else secrets.randbelow(2**31)
    return Plan(sources, loaded, options, seed)


def first_trials(planned: Plan, count: int) -> list[tuple[str, Mapping[str, str], Manifest]]:
    """(name, assignments, rendered job) of the first trials, as they will be asked before any result is known."""
    from katuna.contracts import NoSuggestion
    from katuna.search.suggest import suggester_for

    suggester = suggester_for(planned.experiment, planned.seed)
    trials = []
    for number in range(count):
        point = suggester.ask(number)
        if isinstance(point, NoSuggestion):
            break
        name = trial_name(planned.experiment.name, planned.seed, number)
        trials.append((name, point, render(planned.experiment, name, point)))
    return trials


def start(
    planned: Plan,
    *,
    timeout_s: float | None = None,
    home: Path | None = None,
    interruptions: Callable[[], int] = lambda: 0,
    watch: Callable[[Run], Watcher] | None = None,
) -> Run:
    """Makes the run folder and runs the search to its end, or until it is interrupted. Returns the run either way."""
    experiment = planned.experiment
    _preflight(planned)
    text = "\n---\n".join(source.text for source in planned.sources).encode()
    opened = Opened(
        time.time(), experiment.name, planned.seed, hashlib.sha256(text).hexdigest(), _versions(), planned.options.as_json()
    )
    files = {
        "experiment.yaml": text,
        "defaulted.yaml": to_yaml(experiment.manifest).encode(),
        "journal.jsonl": journal.encode(opened),
    }
    folder = rundir.create(experiment.name, files, home)
    with folder.locked(), contextlib.closing(journal.Journal(folder.journal)) as store:
        _search(Run(folder), store, timeout_s, interruptions, watch)
    return Run(folder)


def resume(
    run: str | None = None,
    *,
    timeout_s: float | None = None,
    home: Path | None = None,
    drop_after: int | None = None,
    interruptions: Callable[[], int] = lambda: 0,
    watch: Callable[[Run], Watcher] | None = None,
) -> Run:
    """Goes on with a search that was interrupted or killed; one that has ended is returned as it is.

    `drop_after` keeps that many lines of a damaged journal. Raises RunNotFound, RunLocked, JournalDamaged.
    """
    folder = rundir.find(run, home)
    with folder.locked():
        if drop_after is not None:
            journal.drop_after(folder.journal, drop_after)
        with contextlib.closing(journal.Journal(folder.journal)) as store:
            found = Run(folder)
            if found.search.ended is None:
                _search(found, store, timeout_s, interruptions, watch)
    return Run(folder)


def _search(
    run: Run,
    store: journal.Journal,
    timeout_s: float | None,
    interruptions: Callable[[], int],
    watch: Callable[[Run], Watcher] | None,
) -> End | None:
    from katuna.search.engine import Engine
    from katuna.search.suggest import suggester_for

    clock = SystemClock()
    watchers = [watch(run)] if watch is not None else []
    if run.options.keep is not None:
        watchers.append(_trimmer(run.folder, run.options.keep))

    def tell_all(event: Event, search: Search) -> None:
        for watcher in watchers:
            watcher(event, search)

    engine = Engine(
        run.experiment,
        suggester_for(run.experiment, run.opened.seed),
        _launcher(run.loaded, run.options, run.folder.trial),
        store,
        clock,
        deadline=None if timeout_s is None else clock.now() + timeout_s,
        interruptions=interruptions,
        watch=tell_all,
    )
    return engine.run()


def tune(
    *paths: PathLike,
    experiment: str | None = None,
    seed: int | None = None,
    timeout_s: float | None = None,
    options: RunOptions | None = None,
    home: PathLike | None = None,
    watch: Watcher | None = None,
) -> Run:
    """Runs the search of an Experiment file to its end and returns the run; prints nothing.

    `paths` are the Experiment and, where its template is kept in one, the ConfigMap; `experiment` picks one of several. `home`
    is where runs are kept, else KATUNA_HOME or `runs`. `watch(event, search)` is called with each event as it happens.
    Raises SpecRefused and InputRefused before anything runs. A KeyboardInterrupt stops the trials; `katuna resume` goes on.
    """
    planned = plan(paths, options=options, name=experiment, seed=seed)
    return start(
        planned,
        timeout_s=timeout_s,
        home=None if home is None else Path(home),
        watch=None if watch is None else lambda _: watch,
    )


def load(run: str | None = None, *, home: PathLike | None = None) -> Run:
    """A run by its name, a unique prefix of it or its path; without one the latest. Raises RunNotFound."""
    return Run(rundir.find(run, None if home is None else Path(home)))


class Run:
    """A run folder, read: the Experiment as it was run and the search as its journal tells it when first asked.

    Make a new one to see what has happened since.
    """

    def __init__(self, folder: RunDir) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r})"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def path(self) -> Path:
        return self.folder.path

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """The journal. Raises JournalDamaged."""
        return tuple(event for event, _ in journal.read(self.folder.journal))

    @property
    def opened(self) -> Opened:
        """Raises InputRefused for a journal without its first event, which katuna does not leave."""
        first = self.events[0] if self.events else None
        if not isinstance(first, Opened):
            raise InputRefused(
                f"{self.folder.journal} does not begin as a journal does; start the search anew with `katuna tune`"
            )
        return first

    @property
    def options(self) -> RunOptions:
        return RunOptions.from_json(self.opened.options)

    @cached_property
    def loaded(self) -> Loaded:
        """Raises SpecRefused when the folder's own Experiment no longer reads, as after an edit by hand."""
        source = Source(str(self.folder.experiment), self.folder.experiment.read_text(encoding="utf-8"))
        return load_experiment([source], self.opened.experiment, pass_env=self.options.local.pass_env)

    @property
    def experiment(self) -> Experiment:
        return self.loaded.experiment

    @cached_property
    def search(self) -> Search:
        return fold(self.events, self.experiment.objective)

    @property
    def trials(self) -> list[Trial]:
        return list(self.search.trials.values())

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective value so far; None while there is none."""
        return self.search.best

    @property
    def state(self) -> str:
        """Running, Interrupted (it can be resumed), Succeeded or Failed."""
        if self.search.ended is not None:
            return "Succeeded" if self.search.ended.succeeded else "Failed"
        return "Running" if self.folder.holder() is not None else "Interrupted"

    def command(self, trial: Trial) -> str:
        """One shell line that runs a trial's command again: its arguments, the variables that the file sets, in the same folder.

        What came from the calling shell (`--pass-env`) is not in it; the shell that runs the line has to have it. Nor are the
        variables of a distributed job: the line is one process.
        """
        from katuna.launch.command import command
        from katuna.spec.job import MASTER_PORT, job_from_manifest

        manifest = render(self.experiment, trial.name, trial.assignments)
        job = job_from_manifest(manifest, self.experiment.template.primary_container, self.loaded.config_maps, trial.name)
        replica = job.replicas[0]
        here = command(job, replica, self.options.local, {}, port=MASTER_PORT, defaults={}, extra={})
        words = [f"{name}={here.env[name]}" for name in dict(replica.container.env)]
        line = shlex.join([*(["env", *words] if words else []), *here.argv])
        return f"cd {shlex.quote(str(here.folder))} && {line}"

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a trial; see `katuna.report.tables.to_dataframe` for the columns."""
        from katuna.report.tables import to_dataframe

        return to_dataframe(self.experiment, self.search)


def _launcher(loaded: Loaded, options: RunOptions, trial_dir: Callable[[str], Path]) -> LocalLauncher:
    from katuna.launch.local import Collecting, LocalLauncher
    from katuna.metrics.filters import compile_filter

    experiment = loaded.experiment
    filters = tuple(map(compile_filter, experiment.collector.filters))
    return LocalLauncher(
        trial_dir,
        experiment.template.primary_container,
        Collecting(experiment.objective.metrics, filters),
        SystemClock(),
        options=options.local,
        parallel=experiment.parallel_trials,
        config_maps=loaded.config_maps,
    )


def _preflight(planned: Plan) -> None:
    """Raises InputRefused when the first trial could not start on this machine, whatever its parameters."""
    from katuna.contracts import TrialRequest

    requests = [TrialRequest(number, name, job) for number, (name, _, job) in enumerate(first_trials(planned, 1))]
    launcher = _launcher(planned.loaded, planned.options, Path)
    findings = launcher.preflight(requests)
    if findings:
        raise InputRefused(
            "\n".join(f"{finding.message} ({finding.hint})" if finding.hint else finding.message for finding in findings)
        )


def _trimmer(folder: RunDir, keep: int) -> Watcher:
    """Keeps the artefacts of the best `keep` trials, and of those that have not ended."""

    def trim(event: Event, search: Search) -> None:
        if isinstance(event, Exited):
            ranked = ranking(search.trials.values(), search.objective)
            folder.trim({trial.name for trial in (*ranked[:keep], *search.unfinished)})

    return trim


def _versions() -> dict[str, str]:
    found = {}
    for package in ("katuna", "optuna", "torch", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
