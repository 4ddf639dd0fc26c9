"""A job that runs without a search: what happened to its containers, as events that a journal holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from katuna.metrics.line import Report


@dataclass(frozen=True)
class JobOpened:
    """`file_sha256` is of the files as given; `options` what the user said about running them here."""

    at: float
    job: str
    file_sha256: str
    versions: Mapping[str, str]
    options: Mapping[str, object]


@dataclass(frozen=True)
class JobResumed:
    """katuna takes the job up again; every pod begins anew."""

    at: float


@dataclass(frozen=True)
class ContainerStarted:
    """`restarts` counts from 0 within the pod; `process` has `pid`, `guard`, and how it was started."""

    at: float
    pod: str
    container: str
    restarts: int
    process: Mapping[str, object]


@dataclass(frozen=True)
class ContainerExited:
    """`code` is 128 + signal for a signal, None when nothing was executed; `reason` is a word as a kubelet's (Completed, Error,
    OOMKilled, StartError), or Stopped when katuna ended it."""

    at: float
    pod: str
    container: str
    restarts: int
    code: int | None
    reason: str
    message: str = ""


@dataclass(frozen=True)
class JobReported:
    """Metric lines of the replica whose rank is 0."""

    at: float
    reports: tuple[Report, ...]


@dataclass(frozen=True)
class JobEnded:
    """`condition` is Succeeded, Failed, Suspended, or Stopped for one that can be resumed; `reason` a CamelCase word."""

    at: float
    condition: str
    reason: str
    message: str = ""


JobEvent = JobOpened | JobResumed | ContainerStarted | ContainerExited | JobReported | JobEnded
