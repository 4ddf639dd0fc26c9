"""The run of a job without a search, read: what it was started with, and how it stands as its journal tells it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katuna.errors import Finding, InputRefused, RunNotFound
from katuna.jobs.lifecycle import (
    COMPLETED,
    STOPPED,
    ContainerExited,
    ContainerStarted,
    JobEnded,
    JobEvent,
    JobOpened,
    JobReported,
    JobResumed,
)
from katuna.jobs.conditions import status
from katuna.launch.local_options import LocalOptions
from katuna.runs.snapshot import in_force
from katuna.lint.documents import walked

from katuna.manifest.job import Job
from katuna.manifest.build import job_from_manifest
from katuna.lint.load_job import LoadedJob
from katuna.manifest.experiment import Manifest
from katuna.manifest.sources import read_source
from katuna.manifest.yamltext import Source, parse
from katuna.runs import code, journal
from katuna.runs.code import Code
from katuna.runs.rundir import RunDir

if TYPE_CHECKING:
    from katuna.launch.workspace import Files


@dataclass(frozen=True)
class TrainOptions:
    """What a user may say of a job beside its file; recorded in the journal, so that a resume means the same.

    `name` picks one of several jobs. `nproc` and `changes` (path, value) stand for what the file says. `secrets` are the files that
    hold a Secret: they are not kept in the run folder, and read where they are.
    """

    local: LocalOptions = field(default_factory=LocalOptions)
    name: str | None = None
    nproc: str | None = None
    changes: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "local": self.local.as_json(),
            "name": self.name,
            "nproc": self.nproc,
            "changes": [list(pair) for pair in self.changes],
            "secrets": list(self.secrets),
        }

    @property
    def overrides(self) -> list[str]:
        """What stands in for the file's own words, as the command line says it."""
        said = [f"--nproc {self.nproc}"] if self.nproc else []
        return said + [f"--set {path}={value}" for path, value in self.changes]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainOptions:
        """The inverse of `as_json`."""
        return cls(
            LocalOptions.from_json(data["local"]),
            data["name"],
            data["nproc"],
            tuple((path, value) for path, value in data["changes"]),
            tuple(data["secrets"]),
        )


@dataclass(frozen=True)
class JobPlan:
    """A job that can be started: everything checked, nothing written yet."""

    sources: tuple[Source, ...]
    loaded: LoadedJob
    options: TrainOptions
    job: Job

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.loaded.findings


class Training:
    """A job's run folder, read: the job as it runs, and how it stands.

    Make a new one to see what has happened since. `digest` is of the code that it runs with, where the caller knows that already.
    """

    def __init__(self, folder: RunDir, digest: str | None = None) -> None:
        self.folder = folder
        self.files: Files | None = None
        """What gives its replicas files of their own, where it is about to run."""
        self._digest = digest

    def __repr__(self) -> str:
        return f"Training({str(self.path)!r})"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def path(self) -> Path:
        return self.folder.path

    @cached_property
    def events(self) -> tuple[JobEvent, ...]:
        """The journal. Raises JournalDamaged, and RunNotFound when it is there no more."""
        try:
            return tuple(event for event, _ in journal.read_job(self.folder.journal))
        except FileNotFoundError as error:
            raise RunNotFound(f"{self.path} is gone: it was removed or moved; `katuna ls` lists what is there") from error

    @property
    def opened(self) -> JobOpened:
        """The first event. Raises InputRefused for a journal without it, which katuna does not leave."""
        first = next(iter(self.events), None)
        if not isinstance(first, JobOpened):
            raise InputRefused(
                f"{self.folder.journal} does not begin as a job's journal does; start the job anew with `katuna train`"
            )
        return first

    @property
    def options(self) -> TrainOptions:
        """Raises InputRefused for what another version of katuna wrote and this one cannot read."""
        try:
            return TrainOptions.from_json(self.opened.options)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"{self.folder.journal}, line 1: the options of another version of katuna ({error})") from error

    @cached_property
    def code_digest(self) -> str:
        """Of the code that its replicas read now, "" where none is kept."""
        return in_force(self.events) if self._digest is None else self._digest

    @cached_property
    def code(self) -> Code | None:
        """What its replicas read now; None where it is not kept. Raises InputRefused where its list is damaged."""
        return code.read(self.folder, self.code_digest) if self.code_digest else None

    @property
    def why_no_code(self) -> str:
        """Why none is kept; "" where one is, or where the run is older than that."""
        return "" if self.code_digest else self.opened.no_code

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
            return job_from_manifest(manifest, beside=beside)

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

    @property
    def ended(self) -> JobEnded | None:
        """How it ended, if that is the last that was heard of it; a job that was interrupted has not."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, JobEnded) and last.condition != "Stopped" else None

    @property
    def state(self) -> str:
        """Running, Interrupted or Suspended (it can be resumed), Succeeded or Failed."""
        if self.ended is not None:
            return self.ended.condition
        return "Running" if self.folder.holder() is not None else "Interrupted"

    @property
    def began_at(self) -> float:
        """When it was last taken up."""
        return next(event.at for event in reversed(self.events) if isinstance(event, JobOpened | JobResumed))

    @property
    def took_s(self) -> float:
        """How long it has run in all, without the time in which it was stopped or suspended."""
        ran = sum(after.at - event.at for event, after in pairwise(self.events) if not isinstance(after, JobResumed))
        return ran + (max(0.0, time.time() - self.events[-1].at) if self.state == "Running" else 0.0)

    def container(self, pod: str, name: str) -> tuple[ContainerStarted | None, ContainerExited | None]:
        """How a container was last started, and how that ended, as far as it has."""
        started: ContainerStarted | None = None
        exited: ContainerExited | None = None
        for event in self.events:
            if isinstance(event, JobResumed):
                started = exited = None
            elif isinstance(event, ContainerStarted | ContainerExited) and (event.pod, event.container) == (pod, name):
                started, exited = (event, None) if isinstance(event, ContainerStarted) else (started, event)
        return started, exited

    def starts(self, pod: str, name: str) -> int:
        """How often a container was started since the job was last taken up, in its pod or in one made anew."""
        count = 0
        for event in self.events:
            if isinstance(event, JobResumed):
                count = 0
            elif isinstance(event, ContainerStarted) and (event.pod, event.container) == (pod, name):
                count += 1
        return count

    @property
    def failed(self) -> ContainerExited | None:
        """The first end that was a failure and after which its container did not begin again."""
        failed: ContainerExited | None = None
        for event in self.events:
            if isinstance(event, JobResumed) or (
                isinstance(event, ContainerStarted) and failed and (event.pod, event.container) == (failed.pod, failed.container)
            ):
                failed = None
            elif isinstance(event, ContainerExited) and event.reason not in (COMPLETED, STOPPED):
                failed = failed or event
        return failed

    @cached_property
    def status(self) -> dict[str, Any]:
        """The job's status as the operator writes it; one whose katuna was killed does not run."""
        last = (self.opened, *self.events)[-1]
        cut_off = self.state == "Interrupted" and not isinstance(last, JobEnded)
        end = [JobEnded(last.at, "Stopped", STOPPED)] if cut_off else []
        return status(self.job, [*self.events, *end])

    @property
    def metrics(self) -> dict[str, str]:
        """The latest value of each metric that rank 0 printed, as text."""
        told = (event for event in self.events if isinstance(event, JobReported))
        return {report.metric: report.value for event in told for report in event.reports}


def manifests(source: Source) -> list[Manifest]:
    """The documents of a file that was read before, those in lists too."""
    found = (each.value for document in parse(source)[0] for each in walked(document))
    return [value for value in found if isinstance(value, dict)]
