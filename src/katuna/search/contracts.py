"""The three nouns of the search loop (suggester, launcher, store) and the clock, as protocols with their promises.

`tests/contracts/` holds one suite for each, which the real implementations and the fakes both pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from katuna.manifest.experiment import Manifest
from katuna.search.trials import NOTHING, Assignments, Event, Exited, Reported, Started, StopRule, Told, Trial, TrialEvent


class NoSuggestion(Enum):
    """An answer to `ask` that is not a point."""

    WAIT = "wait"
    """Nothing now; ask again once a running trial has ended."""
    EXHAUSTED = "exhausted"
    """Nothing, now or ever: the space has been tried."""


PARENT_LABEL = "pbt.suggestion.katib.kubeflow.org/parent"
"""Label of a trial that begins with the checkpoints of another: that one's name."""


@dataclass(frozen=True)
class Suggestion:
    """A point, and the labels that the algorithm gives its trial (katib.md 2.2)."""

    assignments: Assignments
    labels: Mapping[str, str] = field(default_factory=lambda: NOTHING)


class Suggester(Protocol):
    """What to try next. The answer for a number depends on what was learnt, asked and told before, and on the seed, on nothing else."""

    def learn(self, assignments: Assignments, value: float) -> None:
        """A result from elsewhere; only before the first ask. It is no trial of this search."""

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        """The point for trial `number`; numbers are asked in order, each once. A NoSuggestion leaves the number unasked."""

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """Trial `number` has `suggestion`, from an earlier process or from the user; called in the place of its `ask`. Later
        answers are as if it had been asked for here."""

    def tell(self, trial: Trial) -> None:
        """Called once for each trial when it has ended, in the order in which trials ended."""


@dataclass(frozen=True)
class TrialRequest:
    """A trial ready to run: `manifest` is the rendered job, as it would be sent to a cluster. `parent` names the trial with a copy
    of whose checkpoints it begins, "" for none."""

    number: int
    name: str
    manifest: Manifest
    parent: str = ""


LaunchEvent = Started | Reported | Exited | Told


CLOSE_GRACE_S = 10.0
"""What trials have between SIGTERM and SIGKILL when their launcher is closed."""


class Stopper(Protocol):
    """Which running trials to stop early. Rebuilt by showing it a journal's events again."""

    def rules(self) -> tuple[StopRule, ...]:
        """The rules that a trial asked for now is given."""

    def see(self, event: TrialEvent, trial: Trial) -> bool:
        """Told of every trial event in journal order, with the trial after it. True: stop this trial now; said once an attempt."""

    def forget(self, number: int) -> None:
        """Trial `number` begins again: what it has reported so far counts for nothing. A Started says the same."""


class Launcher(Protocol):
    """How trials run. Events of one trial come in order: Started, any number of Reported, then exactly one Exited.

    A restart that the job itself asks for (backoffLimit) is another Started with the next attempt, without an Exited between. What
    happens to each container of the trial, and what it waits for, is Told, before its Exited.

    Whatever a trial writes, one `poll` brings a bounded amount of it. Its Exited, or next Started, comes once all was brought; of a
    trial that was told to stop what had not come by then is left out.
    """

    def start(self, request: TrialRequest) -> None:
        """Starts the trial or queues it: returns at once, and the trial may wait for a device first, which it is Noted for. Raises
        nothing for a trial that cannot start: that is an Exited."""

    def attach(self, trial: Trial) -> bool:
        """After katuna died: True when the trial still runs and its events will come. Here the guard has ended it: this waits
        until nothing of it is left and answers False."""

    def poll(self, timeout_s: float) -> Sequence[LaunchEvent]:
        """What happened since the last call; waits up to `timeout_s` when nothing has, without spinning.

        Raises StoreFailed when a trial's files cannot be written, or the machine is short of what a process needs, or the trial has most
        likely failed for that reason: it gets no Exited.
        """

    def stop(self, number: int, grace_s: float) -> None:
        """Ask the trial to end, then make it, `grace_s` later. Idempotent; returns at once; its Exited comes through poll."""

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """Ends whatever still runs. When it returns, no process that this launcher started is left. Idempotent; called again with
        a shorter grace period, as after an interruption of the first call, it hurries."""


@dataclass(frozen=True)
class Output:
    """What the training container prints in the latest attempt of a trial: the bytes of `log` from `start` on. `ended_at` is when the
    container ended, None while it runs."""

    log: Path
    start: int
    ended_at: float | None


class JobLauncher(Launcher, Protocol):
    """A launcher that reads no metrics: its events are a Launcher's but for Reported. `runs.measured` makes a Launcher of it.

    It tells the end of a trial's training container, and starts that anew, only after `was_read`.
    """

    def output(self, number: int) -> Output | None:
        """None for a trial whose training container has not been started, or that has ended."""

    def was_read(self, number: int) -> None:
        """All that the training container printed was read, or is not wanted: its end may be told."""


class Store(Protocol):
    """The journal. One writer."""

    def append(self, event: Event) -> None:
        """Adds the event. What the search decides (all but LaunchEvents) is on disk when this returns, with all that came before;
        what trials tell is there after the next decision or `sync`. Raises StoreFailed, and then nothing was added."""

    def replay(self) -> Iterator[Event]:
        """All events in order. A torn last line is not an event. Raises JournalDamaged at the first line that cannot be trusted."""

    def sync(self) -> None:
        """Puts on disk what has waited for half a second; called at least every half second while trials run."""


class Clock(Protocol):
    """Neither goes back or jumps when somebody sets the machine's clock."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def elapsed(self) -> float:
        """Seconds from some moment on, without those in which the machine slept."""
