"""A run, read: what it was started with, and the search as its journal tells it, for whoever shows it or goes on with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from katuna.errors import Finding, InputRefused
from katuna.launch.local_options import LocalOptions
from katuna.search.budget import edited
from katuna.search.known_points import UNTAUGHT, Taken, completed
from katuna.runs.snapshot import in_force
from katuna.manifest.overrides import Instead
from katuna.lint.load import Loaded, Source, load_experiment
from katuna.manifest.experiment import Experiment
from katuna.manifest.render import render
from katuna.manifest.sources import read_source
from katuna.runs import code, journal, rundir
from katuna.runs.code import Code
from katuna.runs.rundir import RunDir
from katuna.search.trials import Assignments, Event, Known, Opened, Search, Trial, fold

if TYPE_CHECKING:
    import pandas

    from katuna.launch.workspace import Files

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class RunOptions:
    """What a user may say of a run beside the file; recorded in the journal, so that a resume means the same.

    `keep` is the number of trials whose artefacts stay, the best ones; None keeps all. `algorithm` and `early_stopping` stand for
    the file's ("none" is no early stopping), `settings` and `stopping_settings` for single settings of theirs. With
    `let_running_finish` the trials that still run when the search ends are waited for. `tries` are points to begin with,
    each perhaps of some parameters only.
    """

    local: LocalOptions = field(default_factory=LocalOptions)
    keep: int | None = None
    algorithm: str | None = None
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    early_stopping: str | None = None
    stopping_settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    let_running_finish: bool = False
    tries: tuple[Assignments, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "local": self.local.as_json(),
            "keep": self.keep,
            "algorithm": self.algorithm,
            "settings": dict(self.settings),
            "earlyStopping": self.early_stopping,
            "stoppingSettings": dict(self.stopping_settings),
            "letRunningFinish": self.let_running_finish,
            "tries": [dict(point) for point in self.tries],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunOptions:
        """The inverse of `as_json`; what a journal of an earlier version does not say is as it was then."""
        return cls(
            LocalOptions.from_json(data["local"]),
            data["keep"],
            data.get("algorithm"),
            dict(data.get("settings", {})),
            data.get("earlyStopping"),
            dict(data.get("stoppingSettings", {})),
            data.get("letRunningFinish", False),
            tuple(dict(point) for point in data.get("tries", ())),
        )

    @property
    def overrides(self) -> list[str]:
        """What stands in for the file's own words, as the command line says it."""
        said = [f"--algorithm {self.algorithm}"] if self.algorithm else []
        said += [f"--setting {name}={value}" for name, value in self.settings.items()]
        said += [f"--early-stopping {self.early_stopping}"] if self.early_stopping else []
        said += [f"--stopping-setting {name}={value}" for name, value in self.stopping_settings.items()]
        said += ["--let-running-finish"] if self.let_running_finish else []
        return said + ["--try " + ",".join(f"{name}={value}" for name, value in point.items()) for point in self.tries]


@dataclass(frozen=True)
class Plan:
    """A search that can be started: everything checked, nothing written yet.

    `experiment` is the file's with the overrides of `options`; `taken` are the results from elsewhere that it begins with.
    """

    sources: tuple[Source, ...]
    loaded: Loaded
    options: RunOptions
    seed: int
    experiment: Experiment
    taken: tuple[Taken, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.loaded.findings

    @property
    def known(self) -> tuple[Known, ...]:
        return tuple(known for each in self.taken for known in each.known)

    @property
    def remarks(self) -> list[str]:
        """What a user is told of the options, a line each."""
        lines = [line for each in self.taken for line in (str(each), *([f"warning: {each.warning}"] if each.warning else []))]
        if self.taken and self.experiment.algorithm in UNTAUGHT:
            lines.append(f"warning: {self.experiment.algorithm} learns nothing from known results; tpe or gp would")
        return lines

    @property
    def tries(self) -> tuple[Assignments, ...]:
        """The points that the search begins with, complete."""
        return completed(self.experiment, self.seed, self.options.tries)


def overridden(experiment: Experiment, options: RunOptions) -> Experiment:
    """The Experiment with the algorithm and the early stopping that the options say. Raises InputRefused for what they cannot be."""
    if options.algorithm is not None or options.settings:
        from katuna.search.choice import with_algorithm

        experiment = with_algorithm(experiment, options.algorithm, options.settings)
    if options.early_stopping is not None or options.stopping_settings:
        from katuna.search.stopping import with_early_stopping

        own = experiment.early_stopping
        name = options.early_stopping or (own.algorithm if own is not None else "")
        if not name:
            raise InputRefused("--stopping-setting: the file asks for no early stopping; say which with --early-stopping NAME")
        kept = own.settings if own is not None and own.algorithm == name else {}
        experiment = with_early_stopping(experiment, name, {**kept, **options.stopping_settings})
    return experiment


def read_experiment(sources: Sequence[Source], options: RunOptions, name: str | None = None) -> tuple[Loaded, Experiment]:
    """The Experiment of the files, checked and made with what the options put in the place of its algorithm and early stopping.

    Raises SpecRefused, and InputRefused for what an option cannot be.
    """
    if options.algorithm is not None:
        from katuna.search.choice import check_name

        check_name(options.algorithm)
    instead = Instead(options.algorithm, options.settings, options.early_stopping, options.stopping_settings)
    loaded = load_experiment(sources, name, pass_env=options.local.pass_env, instead=instead)
    return loaded, overridden(loaded.experiment, options)


def versions() -> dict[str, str]:
    """Of katuna and of the packages that results depend on, for the journal."""
    found = {}
    for package in ("katuna", "optuna", "torch", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def read_sources(paths: Sequence[PathLike]) -> tuple[Source, ...]:
    """The files as text. Raises InputRefused for one that cannot be read."""
    return tuple(map(read_source, paths))


def files_of(options: LocalOptions, folder: RunDir, code: Code | None) -> Files:
    """Files of its own for each trial or replica of the run in `folder`, with the code that it keeps."""
    from katuna.launch.workspace import Files, Kept
    from katuna.runs.code import unpack

    if code is None or options.files == "shared":
        return Files(options, folder.path)
    kept = Kept([Path(root.path) for root in code.roots], code.paths, lambda target: unpack(folder, code, target))
    return Files(options, folder.path, kept)


def load(run: PathLike | None = None, *, home: PathLike | None = None) -> Run:
    """A run by its name, a unique prefix of it or its path; without one the latest. Raises RunNotFound."""
    return Run(rundir.find(None if run is None else os.fspath(run), None if home is None else Path(home)))


class Run:
    """A run folder, read: the Experiment as it was run and the search as its journal tells it when first asked.

    Make a new one to see what has happened since. `planned` is what it runs with and `digest` of which code, where the caller knows
    that already.
    """

    def __init__(self, folder: RunDir, planned: Plan | None = None, digest: str | None = None) -> None:
        """Raises InputRefused for the run of a job, which is no search."""
        if folder.is_job:
            raise InputRefused(f"{folder.name} is the run of a job, which has no trials; `katuna show {folder.name}` shows it")
        self.folder = folder
        self.files: Files | None = None
        """What gives its trials files of their own, where it is about to run."""
        self._planned = planned
        self._digest = digest

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

    @cached_property
    def opened(self) -> Opened:
        """The first event. Raises InputRefused for a journal without it, which katuna does not leave."""
        first = self.events[0] if "events" in self.__dict__ and self.events else None
        if first is None:
            first = next((event for event, _ in journal.read(self.folder.journal)), None)
        if not isinstance(first, Opened):
            raise InputRefused(
                f"{self.folder.journal} does not begin as a journal does; start the search anew with `katuna tune`"
            )
        return first

    @property
    def options(self) -> RunOptions:
        """Raises InputRefused for what another version of katuna wrote and this one cannot read."""
        try:
            return RunOptions.from_json(self.opened.options)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"{self.folder.journal}, line 1: the options of another version of katuna ({error})") from error

    @cached_property
    def plan(self) -> Plan:
        """What the run was started with. Raises InputRefused when its files are gone or no longer read, as after an edit by hand."""
        if self._planned is not None:
            return self._planned
        sources, options = read_sources(self.folder.sources), self.options
        loaded, experiment = read_experiment(sources, options, self.opened.experiment)
        return Plan(sources, loaded, options, self.opened.seed, experiment)

    @cached_property
    def experiment(self) -> Experiment:
        """As it runs: with the overrides, and with the budget as it was last edited."""
        return edited(self.plan.experiment, self.search) if self._planned is None else self._planned.experiment

    @cached_property
    def code_digest(self) -> str:
        """Of the code that its trials read now, "" where none is kept."""
        return in_force(self.events) if self._digest is None else self._digest

    @cached_property
    def code(self) -> Code | None:
        """What its trials read now; None where it is not kept. Raises InputRefused where its list is damaged."""
        return code.read(self.folder, self.code_digest) if self.code_digest else None

    @property
    def why_no_code(self) -> str:
        """Why none is kept; "" where one is, or where the run is older than that."""
        return "" if self.code_digest else self.opened.no_code

    @cached_property
    def search(self) -> Search:
        return fold(self.events, self.plan.experiment.objective)

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
        """One shell line that runs a trial again as it was run, in a new folder (`launch.again`)."""
        from katuna.search.contracts import PARENT_LABEL
        from katuna.launch.shell_line import again
        from katuna.launch.volumes import Volumes
        from katuna.manifest.build import job_from_manifest

        experiment, parent = self.experiment, trial.labels.get(PARENT_LABEL)
        manifest = render(experiment, trial.name, trial.assignments)
        return again(
            job_from_manifest(manifest, experiment.template.primary_container, self.plan.loaded.config_maps, trial.name),
            self.folder.trial(trial.name).absolute(),
            self.options.local,
            Volumes.of(experiment),
            parent=self.folder.trial(parent).absolute() if parent else None,
            beside=self.folder.sources[1:],
            parallel=experiment.parallel_trials,
        )

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a trial; see `katuna.report.tables.to_dataframe` for the columns."""
        from katuna.report.tables import to_dataframe

        return to_dataframe(self.experiment, self.search)
