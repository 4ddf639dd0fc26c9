"""A run folder, read: the plan that it was started with, and the search or training that its journal tells."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katuna.errors import InputRefused, RunNotFound
from katuna.launch.local_options import LocalOptions
from katuna.manifest.build import job_from_manifest
from katuna.manifest.edit import unsuspended
from katuna.manifest.experiment import NOTHING_TO_COMPARE, Experiment, Manifest
from katuna.manifest.job import Job
from katuna.manifest.render import render
from katuna.manifest.sources import read_source
from katuna.manifest.yamltext import parse
from katuna.report.job_status import condition, status
from katuna.runs import code, journal, rundir
from katuna.runs.code import Code
from katuna.runs.plan import (
    PathLike,
    Plan,
    RunOptions,
    as_training,
    manifests,
    part,
    read_experiment,
    read_job,
    read_sources,
)
from katuna.runs.rundir import RunDir
from katuna.runs.snapshot import in_force
from katuna.search.budget import SUSPENDED, edited
from katuna.search.trials import Edited, Ended, Event, Opened, Resumed, Search, Trial, fold

if TYPE_CHECKING:
    import pandas

    from katuna.launch.workspace import Files


def versions() -> dict[str, str]:
    """Of katuna and of the packages that results depend on, for the journal."""
    found = {}
    for package in ("katuna", "optuna", "torch", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def files_of(options: LocalOptions, folder: RunDir, code: Code | None) -> Files:
    """Files of its own for each trial or replica of the run in `folder`, with the code that it keeps."""
    from katuna.launch.workspace import Files, Kept
    from katuna.runs.code import unpack

    if code is None or options.files == "shared":
        return Files(options, folder.path)
    # Where a folder was moved and a link is in its place, the link leads to the folder whose code it is.
    kept = Kept([Path(root.path).resolve() for root in code.roots], code.paths, lambda target: unpack(folder, code, target))
    return Files(options, folder.path, kept)


def load(run: PathLike | None = None, *, home: PathLike | None = None) -> Run:
    """A run by its name, a unique prefix of it or its path; without one the latest. Raises RunNotFound."""
    return opened(rundir.find(None if run is None else os.fspath(run), None if home is None else Path(home)))


def opened(folder: RunDir) -> Run:
    """The run in a folder, which is a Training where it is of a job without a search."""
    return Training(folder) if folder.is_training else Run(folder)


def searched(folder: RunDir) -> Run:
    """The search in a folder. Raises InputRefused for a training, which has no trials to choose from."""
    if folder.is_training:
        raise InputRefused(f"{folder.name} is the run of a job, which has no trials; `katuna show {folder.name}` shows it")
    return Run(folder)


class Run:
    """A run folder, read: the Experiment as it was run and the search as its journal tells it when first asked. See `Training` for a
    job without a search.

    Make a new one to see what has happened since. `planned` is what it runs with and `digest` of which code, where the caller knows
    that already.
    """

    def __init__(self, folder: RunDir, planned: Plan | None = None, digest: str | None = None) -> None:
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
        """The journal. Raises JournalDamaged, and RunNotFound when it is there no more."""
        try:
            return tuple(event for event, _ in journal.read(self.folder.journal))
        except FileNotFoundError as error:
            raise RunNotFound(f"{self.path} is gone: it was removed or moved; `katuna ls` lists what is there") from error

    @cached_property
    def opened(self) -> Opened:
        """The first event. Raises InputRefused for a journal without it, which katuna does not leave."""
        first = self.events[0] if "events" in self.__dict__ and self.events else None
        if first is None:
            first = next((event for event, _ in journal.read(self.folder.journal)), None)
        if not isinstance(first, Opened):
            raise InputRefused(
                f"{self.folder.journal} does not begin as a journal does; start the search anew with `katuna tune` or `katuna train`"
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

    @property
    def began_at(self) -> float:
        """When it was last taken up."""
        return next(event.at for event in reversed(self.events) if isinstance(event, Opened | Resumed))

    @property
    def took_s(self) -> float:
        """How long it has run in all, without the time in which it was stopped."""
        ran = sum(after.at - event.at for event, after in pairwise(self.events) if not isinstance(after, Resumed | Edited))
        return ran + (max(0.0, time.time() - self.events[-1].at) if self.state == "Running" else 0.0)

    def job_of(self, trial: Trial | None) -> Job:
        """What a trial ran, without what only a Secret knows."""
        assert trial is not None, "a search has no job of its own"
        manifest = render(self.experiment, trial.name, trial.assignments)
        return job_from_manifest(manifest, self.experiment.template.primary_container, self.plan.loaded.references, trial.name)

    def command(self, trial: Trial) -> str:
        """One shell line that runs a trial again as it was run, in a new folder (`launch.shell_line`)."""
        from katuna.launch.shell_line import again
        from katuna.runs.measured import needs_of
        from katuna.search.contracts import PARENT_LABEL

        parent = trial.labels.get(PARENT_LABEL)
        return again(
            self.job_of(trial),
            self.folder.trial(trial.name).absolute(),
            self.options.local,
            needs_of(self.experiment),
            parent=self.folder.trial(parent).absolute() if parent else None,
            beside=self.folder.sources[1:],
            parallel=self.experiment.parallel_trials,
        )

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a trial; see `katuna.report.tables.to_dataframe` for the columns."""
        from katuna.report.tables import to_dataframe

        return to_dataframe(self.experiment, self.search)


class Training(Run):
    """A run of a job without a search: a search that asked once (`manifest.experiment.training`). Its trial has number 0 and the run
    folder for its own."""

    def __repr__(self) -> str:
        return f"Training({str(self.path)!r})"

    @cached_property
    def manifest(self) -> Manifest:
        """The job as it runs here: the file's, with --nproc and --set. Raises InputRefused when it is gone or no longer read."""
        with self._as_written():
            documents, findings = parse(read_source(self.folder.as_run))
            if findings:
                raise InputRefused(str(findings[0]))
            return {**documents[0].value}

    @cached_property
    def job(self) -> Job:
        """As the manifest says, without what only a Secret knows. Raises InputRefused as `manifest` does."""
        manifest = self.manifest
        with self._as_written():
            beside = [each for path in self.folder.sources for each in manifests(read_source(path))]
            return job_from_manifest(manifest, references=beside)

    def job_of(self, trial: Trial | None) -> Job:
        del trial
        return self.job

    @contextmanager
    def _as_written(self) -> Iterator[None]:
        """For files that katuna has written and somebody has changed since."""
        try:
            yield
        except (InputRefused, TypeError) as error:
            what = str(error) if isinstance(error, InputRefused) else f"{self.folder.as_run} holds no job"
            again = f"`katuna train {self.folder.job}`"
            raise InputRefused(
                f"{what}. katuna wrote the files of {self.path}: put back what was there, or begin anew with {again}"
            ) from error

    @cached_property
    def plan(self) -> Plan:
        """What it was started with, read anew, its Secrets from where they were; a job that was suspended is so no more."""
        if self._planned is not None:
            return self._planned
        options = self.options
        try:
            secrets = [part(read_source(path), secrets=True) for path in options.secrets]
        except InputRefused as error:
            raise InputRefused(f"{error}; it was given with the job, and a Secret is not kept in the run folder") from error
        planned = read_job((*map(read_source, self.folder.sources), *filter(None, secrets)), options)
        if not any(isinstance(event, Ended) and event.reason == SUSPENDED for event in self.events):
            return planned
        return replace(planned, experiment=as_training(unsuspended(planned.experiment.manifest)))

    @cached_property
    def search(self) -> Search:
        return fold(self.events, NOTHING_TO_COMPARE)

    @cached_property
    def experiment(self) -> Experiment:
        return as_training(self.manifest) if self._planned is None else self._planned.experiment

    @property
    def ended(self) -> Ended | None:
        return self.search.ended

    @property
    def state(self) -> str:
        """Running, Interrupted or Suspended (it can be resumed), Succeeded or Failed."""
        return super().state if self.ended is None else condition(self.ended)

    @cached_property
    def status(self) -> dict[str, Any]:
        """The job's status as the operator writes it; one whose katuna was stopped or killed does not run."""
        return status(self.job, self.events, stopped=self.state == "Interrupted")

    @property
    def metrics(self) -> dict[str, str]:
        """The latest value of each metric that rank 0 printed, as text."""
        trial = self.search.trials.get(0)
        return {name: summary.latest for name, summary in trial.summaries.items()} if trial else {}
