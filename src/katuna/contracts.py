"""The three nouns of the search loop (suggester, launcher, store) and the clock, as protocols with their promises.

`tests/contracts/` holds one suite for each, which the real implementations and the fakes both pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from katuna.spec.model import Manifest
from katuna.trials import Assignments, Event, Exited, Reported, Started, Trial


class NoSuggestion(Enum):
    """An answer to `ask` that is not a point."""

    WAIT = "wait"
    """Nothing now; ask again once a running trial has ended."""
    EXHAUSTED = "exhausted"
    """Nothing, now or ever: the space has been tried."""


class Suggester(Protocol):
    """What to try next. The answer for a number depends on what was asked and told before, and on the seed, on nothing else."""

    def ask(self, number: int) -> Assignments | NoSuggestion:
        """The point for trial `number`; numbers are asked in order, each once. A NoSuggestion leaves the number unasked."""

    def restore(self, number: int, assignments: Assignments) -> None:
        """Trial `number` was asked in an earlier process and got `assignments`; later answers are as if it had been asked here."""

    def tell(self, trial: Trial) -> None:
        """Called once for each trial when it has ended, in the order in which trials ended."""


@dataclass(frozen=True)
class TrialRequest:
    """A trial ready to run: `manifest` is the rendered job, as it would be sent to a cluster."""

    number: int
    name: str
    manifest: Manifest


LaunchEvent = Started | Reported | Exited


class Launcher(Protocol):
    """How trials run. Events of one trial come in order: Started, any number of Reported, then exactly one Exited.

    A restart that the job itself asks for (backoffLimit) is another Started with the next attempt, without an Exited between.
    """

    def start(self, request: TrialRequest) -> None:
        """Returns at once; the trial may wait for a device first. Raises nothing for a trial that cannot start: that is an Exited."""

    def attach(self, trial: Trial) -> bool:
        """After katuna died: True when the trial still runs and its events will come. Here the guard has ended it: this waits
        until nothing of it is left and answers False."""

    def poll(self, timeout_s: float) -> Sequence[LaunchEvent]:
        """What happened since the last call; waits up to `timeout_s` when nothing has, without spinning.

        Raises StoreFailed when a trial's files cannot be written, or it has most likely failed for that reason: it gets no Exited.
        """

    def stop(self, number: int, grace_s: float) -> None:
        """Ask the trial to end, then make it, `grace_s` later. Idempotent; returns at once; its Exited comes through poll."""

    def close(self, grace_s: float = ...) -> None:
        """Ends whatever still runs. When it returns, no process that this launcher started is left. Idempotent; called again with
        a shorter grace period, as after an interruption of the first call, it hurries."""


class Store(Protocol):
    """The journal. One writer."""

    def append(self, event: Event) -> None:
        """Adds the event. All but Reported are on disk when this returns. Raises StoreFailed, and then nothing was added."""

    def replay(self) -> Iterator[Event]:
        """All events in order. A torn last line is not an event. Raises JournalDamaged at the first line that cannot be trusted."""

    def sync(self) -> None:
        """Puts Reported events on disk that have waited for half a second; called at least every half second while trials run."""


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""
