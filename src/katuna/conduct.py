"""Puts spec, suggester, launcher and store together: from files to a search that runs, and from a run folder to one that goes on."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from katuna.errors import InputRefused
from katuna.run import PathLike, Plan, Run, RunOptions, read_sources
from katuna.spec.dump import to_yaml
from katuna.spec.load import load_experiment
from katuna.spec.model import Manifest
from katuna.spec.render import render
from katuna.store import journal, rundir
from katuna.store.rundir import RunDir
from katuna.trials import Event, Exited, Opened, Search, Trial, ranking, trial_name

if TYPE_CHECKING:
    from katuna.launch.local import LocalLauncher
    from katuna.search.engine import Watcher


class SystemClock:
    def now(self) -> float:
        return time.time()


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
        trials.append((name, point.assignments, render(planned.experiment, name, point.assignments)))
    return trials


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


def start(
    planned: Plan,
    *,
    timeout_s: float | None = None,
    home: Path | None = None,
    interruptions: Callable[[], int] = lambda: 0,
    watch: Callable[[Run], Watcher] | None = None,
) -> Run:
    """Makes the run folder and runs the search to its end, or until it is interrupted. Returns the run either way."""
    preflight(planned)
    experiment, files = planned.experiment, _as_given(planned)
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()
    opened = Opened(time.time(), experiment.name, planned.seed, digest, _versions(), planned.options.as_json())
    files |= {"defaulted.yaml": to_yaml(experiment.manifest).encode(), "journal.jsonl": journal.encode(opened)}
    folder = rundir.create(experiment.name, files, home)
    with folder.locked(), contextlib.closing(journal.Journal(folder.journal)) as store:
        _search(Run(folder), planned, store, timeout_s, interruptions, watch)
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

    `drop_after` keeps that many lines of a damaged journal. Raises RunNotFound, RunLocked, JournalDamaged, and InputRefused when
    the trials can no longer run here: then nothing has been changed.
    """
    folder = rundir.find(run, home)
    with folder.locked():
        if drop_after is not None:
            journal.drop_after(folder.journal, drop_after)
        found = Run(folder)
        if found.search.ended is None:
            preflight(found.plan)
            with contextlib.closing(journal.Journal(folder.journal)) as store:
                _search(found, found.plan, store, timeout_s, interruptions, watch)
    return Run(folder)


def preflight(planned: Plan) -> None:
    """Raises InputRefused when the first trial, or the same with any other choice of a parameter, could not start on this machine."""
    from katuna.contracts import TrialRequest

    requests = []
    for name, point, job in first_trials(planned, 1):
        requests.append(TrialRequest(0, name, job))
        for parameter in planned.experiment.parameters:
            for choice in parameter.choices:
                other = render(planned.experiment, name, {**point, parameter.name: choice})
                requests.append(TrialRequest(0, name, other))
    findings = _launcher(planned, Path).preflight(requests)
    if findings:
        raise InputRefused(
            "\n".join(f"{finding.message} ({finding.hint})" if finding.hint else finding.message for finding in findings)
        )


def _as_given(planned: Plan) -> dict[str, bytes]:
    """The files of the run folder that hold the input, byte for byte: the Experiment's own, and the others beside it."""
    files: dict[str, bytes] = {}
    for number, source in enumerate(planned.sources):
        name = "experiment.yaml" if source.name == planned.loaded.file else f"beside/{number:03d}-{Path(source.name).name}"
        files[name] = source.text.encode()
    return files


def _search(
    run: Run,
    planned: Plan,
    store: journal.Journal,
    timeout_s: float | None,
    interruptions: Callable[[], int],
    watch: Callable[[Run], Watcher] | None,
) -> None:
    from katuna.search.engine import Engine
    from katuna.search.suggest import suggester_for

    clock = SystemClock()
    watchers = [watch(run)] if watch is not None else []
    if planned.options.keep is not None:
        watchers.append(_trimmer(run.folder, planned.options.keep))

    def tell_all(event: Event, search: Search) -> None:
        for watcher in watchers:
            watcher(event, search)

    Engine(
        planned.experiment,
        suggester_for(planned.experiment, planned.seed),
        _launcher(planned, run.folder.trial),
        store,
        clock,
        deadline=None if timeout_s is None else clock.now() + timeout_s,
        interruptions=interruptions,
        watch=tell_all,
    ).run()


def _launcher(planned: Plan, trial_dir: Callable[[str], Path]) -> LocalLauncher:
    from katuna.launch.local import Collecting, LocalLauncher
    from katuna.metrics.filters import compile_filter

    experiment = planned.experiment
    filters = tuple(map(compile_filter, experiment.collector.filters))
    return LocalLauncher(
        trial_dir,
        experiment.template.primary_container,
        Collecting(experiment.objective.metrics, filters),
        SystemClock(),
        options=planned.options.local,
        parallel=experiment.parallel_trials,
        config_maps=planned.loaded.config_maps,
    )


def _trimmer(folder: RunDir, keep: int) -> Watcher:
    """Takes a trial's artefacts away when it has ended and is not among the best `keep`, or drops out of them."""
    best: list[Trial] = []

    def trim(event: Event, search: Search) -> None:
        nonlocal best
        if not isinstance(event, Exited):
            return
        ended = search.trials[event.number]
        # After a resume the earlier trials are ranked anew; from then on only the newcomer can change the best.
        before = best or ranking((trial for trial in search.trials.values() if trial is not ended), search.objective)[:keep]
        best = ranking([*before, ended], search.objective)[:keep]
        for trial in (ended, *before):
            if trial not in best:
                folder.trim(trial.name)

    return trim


def _versions() -> dict[str, str]:
    found = {}
    for package in ("katuna", "optuna", "torch", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
