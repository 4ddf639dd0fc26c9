"""Trials as values: events, the one place where a trial's state changes, observations, and which trial is best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal

from katuna.jobs.lifecycle import ContainerExited, ContainerStarted
from katuna.manifest.experiment import Experiment, Objective, ObjectiveType
from katuna.metric_line import Report, is_diverged, number

Assignments = Mapping[str, str]
"""Search parameter name to value text, in the Experiment's order."""

UNAVAILABLE = "unavailable"

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""The one empty mapping that all trials without labels or reports share."""

EARLY_STOPPED = "TrialEarlyStopped"
"""The reason of a Stopping by which the trial counts as early stopped; with any other it is killed."""


class TrialState(Enum):
    """Katib's trial conditions, by the same names."""

    CREATED = "Created"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    KILLED = "Killed"
    EARLY_STOPPED = "EarlyStopped"
    METRICS_UNAVAILABLE = "MetricsUnavailable"

    @property
    def is_final(self) -> bool:
        return self not in (TrialState.CREATED, TrialState.RUNNING)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a metric's reports come to; Katib's `observation.metrics` entry. All values are the trial's own texts."""

    minimum: str = UNAVAILABLE
    maximum: str = UNAVAILABLE
    latest: str = UNAVAILABLE
    latest_us: int | None = None
    count: int = 0

    def add(self, report: Report) -> Summary:
        """The greater timestamp wins `latest`, the later report among equals (katib.md 2.5)."""
        value = number(report.value)
        latest = self.latest_us is None or (report.time_us is not None and report.time_us >= self.latest_us)
        minimum, maximum = self.minimum, self.maximum
        if value is not None:
            if self.minimum == UNAVAILABLE or value < float(self.minimum):
                minimum = report.value
            if self.maximum == UNAVAILABLE or value > float(self.maximum):
                maximum = report.value
        return Summary(
            minimum=minimum,
            maximum=maximum,
            latest=report.value if latest else self.latest,
            latest_us=report.time_us if latest else self.latest_us,
            count=self.count + 1,
        )

    def pick(self, strategy: str) -> str:
        """The text that the strategy names; min and max fall back to latest, as Katib's do."""
        if strategy == "latest":
            return self.latest
        chosen = self.minimum if strategy == "min" else self.maximum
        return self.latest if chosen == UNAVAILABLE else chosen


UNREPORTED = Summary()


@dataclass(frozen=True, slots=True)
class StopRule:
    """Katib's `earlyStoppingRules` entry: at report `start_step` of `metric`, stop when its value is `comparison` than `value`."""

    metric: str
    value: str
    comparison: Literal["less", "greater", "equal"]
    start_step: int


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluation of one point. Times are seconds since the epoch; `attempt` counts starts from 1."""

    number: int
    name: str
    assignments: Assignments
    created_at: float
    state: TrialState = TrialState.CREATED
    attempt: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    stop_reason: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    rules: tuple[StopRule, ...] = ()
    summaries: Mapping[str, Summary] = field(default_factory=lambda: NOTHING)
    warnings: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float | None:
        """From its (last) start to its end; None while it has not had both."""
        return None if self.started_at is None or self.ended_at is None else self.ended_at - self.started_at

    def summary(self, metric: str) -> Summary:
        return self.summaries.get(metric, UNREPORTED)

    @property
    def remark(self) -> str:
        """What a person should read of its end: its message, and what is doubtful about its value."""
        return "; ".join(filter(None, (self.message, *(f"warning: {each}" for each in self.warnings))))

    def value(self, objective: Objective) -> float | None:
        """The number that the search compares; None for a trial that did not come to an end of its own (running, failed, killed)."""
        if self.state not in (TrialState.SUCCEEDED, TrialState.EARLY_STOPPED):
            return None
        return number(self.summary(objective.metric).pick(objective.strategy))


_FIELDS = tuple(field.name for field in fields(Trial))
_VALUES = attrgetter(*_FIELDS)


def _changed(trial: Trial, **changes: Any) -> Trial:
    """As dataclasses.replace, in a third of its time: each event of a search comes through here."""
    return Trial(**dict(zip(_FIELDS, _VALUES(trial), strict=True), **changes))


# Events: the journal is a list of these and nothing else. `at` is seconds since the epoch.


@dataclass(frozen=True, slots=True)
class Opened:
    """The first event of a run: what the search was started with and cannot change later, but for its budget and its code.

    `code` is the digest of the files that trials read, "" where none are kept; `no_code` says why they are not.
    """

    at: float
    experiment: str
    seed: int
    digest: str
    versions: Mapping[str, str]
    options: Mapping[str, Any]
    code: str = ""
    no_code: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """A result from elsewhere that the search begins with; no trial of this run. `source` says where from."""

    at: float
    assignments: Assignments
    value: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """`labels` are the algorithm's, `rules` the early stopping's for this trial."""

    at: float
    number: int
    name: str
    assignments: Assignments
    labels: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    rules: tuple[StopRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The container that trains has been started. `process` is plain data by which the launcher finds it again: pids, or a pod."""

    at: float
    number: int
    attempt: int
    process: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reported:
    at: float
    number: int
    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class Noted:
    """A remark on a trial for a person: the reason why it waits, or why a container starts again."""

    at: float
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """The engine decided to stop a running trial; its Exited follows."""

    at: float
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A trial's job is over. `code` is the exit code as a container reports it (128 + signal), None when it never ran.

    `reason` is a CamelCase word (`Completed`, `Error`, `OOMKilled`, `DeadlineExceeded`, `StartError`, ...), `message` the
    sentence for a person. `nearest` are log lines that look like the objective metric, kept when it was not found. `warnings` say
    what is doubtful about its reports.
    """

    at: float
    number: int
    code: int | None
    reason: str
    message: str = ""
    nearest: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resumed:
    """A new katuna process took the run over; `restarted` trials begin again from their assignments."""

    at: float
    restarted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Edited:
    """The budget or the code was changed; `counts` are Katib's field names (parallelTrialCount, maxTrialCount, maxFailedTrialCount)
    to their new values, `code` the digest of what trials read from now on, "" for what they read before. After Ended the search
    goes on again."""

    at: float
    counts: Mapping[str, int]
    code: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The search is over. `succeeded`, `reason` and `message` become the Experiment's last condition."""

    at: float
    succeeded: bool
    reason: str
    message: str


TrialEvent = Asked | Started | Reported | Stopping | Exited
"""What changes a trial."""
Told = ContainerStarted | ContainerExited | Noted
"""What happens around a trial, and changes none."""
Event = Opened | Known | Edited | Resumed | Ended | TrialEvent | Told


def advance(trial: Trial | None, event: TrialEvent, objective: Objective) -> Trial:
    """The trial after `event`: the one place where trial states change.

    A final state is never left but by Resumed, so replaying a journal twice gives the same trials. A trial that is being
    stopped takes no more values and no more starts until it exits. So its value does not depend on how soon it ends.
    """
    if isinstance(event, Asked):
        assert trial is None, f"trial {event.number} was asked twice"
        return Trial(event.number, event.name, event.assignments, event.at, labels=event.labels, rules=event.rules)
    assert trial is not None, f"{type(event).__name__} of trial {event.number}, which was never asked"
    if trial.state.is_final or (trial.stop_reason and not isinstance(event, Exited)):
        return trial
    match event:
        case Started():
            return _changed(
                trial,
                state=TrialState.RUNNING,
                attempt=event.attempt,
                started_at=event.at,
                summaries=NOTHING,
            )
        case Reported():
            summaries = dict(trial.summaries)
            for report in event.reports:
                summaries[report.metric] = summaries.get(report.metric, UNREPORTED).add(report)
            return _changed(trial, summaries=MappingProxyType(summaries))
        case Stopping():
            return _changed(trial, stop_reason=event.reason)
        case Exited():
            return _ended(trial, event, objective)


def _ended(trial: Trial, event: Exited, objective: Objective) -> Trial:
    metric = objective.metric
    reason, message = event.reason, event.message
    picked = trial.summary(metric).pick(objective.strategy)
    if trial.stop_reason == EARLY_STOPPED:
        state, reason = TrialState.EARLY_STOPPED, EARLY_STOPPED
        message = _diverged(trial, objective)
    elif trial.stop_reason:
        state, reason = TrialState.KILLED, trial.stop_reason
        message = message or "stopped by the search"
    elif event.code != 0:
        state = TrialState.FAILED
    elif metric and (picked == UNAVAILABLE or is_diverged(picked)):
        state, reason = TrialState.METRICS_UNAVAILABLE, "MetricsUnavailable"
        message = _diverged(trial, objective) or f"it never reported a number for {metric!r}"
        if event.nearest:
            message += "; nearest: " + " | ".join(event.nearest)
    else:
        state = TrialState.SUCCEEDED
    end = {"state": state, "reason": reason, "message": message, "exit_code": event.code, "ended_at": event.at}
    return _changed(trial, **end, warnings=event.warnings)


def _diverged(trial: Trial, objective: Objective) -> str:
    """That the training diverged, where its reports say so and leave the trial without a value; else nothing."""
    summary = trial.summary(objective.metric)
    if not is_diverged(summary.pick(objective.strategy)):
        return ""
    said = f"{'it reported only' if summary.minimum == UNAVAILABLE else 'its last report is'} {summary.latest}"
    return f"the training diverged: {said} for {objective.metric!r}"


@dataclass
class Search:
    """A whole run as its journal tells it so far; `apply` is the only thing that changes it.

    `trials` maps a trial's number to the trial, in the order of asking. `budget` holds what was edited of the file's counts,
    `restarted_at` is when an edit last took up a search that had ended, `completed_at` when the search last ended. `counts` and `best` are kept along the way, so that the
    engine's questions cost the same however long the search has run.
    """

    objective: Objective
    opened: Opened | None = None
    trials: dict[int, Trial] = field(default_factory=dict)
    ended: Ended | None = None
    known: list[Known] = field(default_factory=list)
    budget: dict[str, int] = field(default_factory=dict)
    restarted_at: float | None = None
    completed_at: float | None = None
    counts: Counter[TrialState] = field(default_factory=Counter)
    best: Trial | None = None
    _unfinished: dict[int, None] = field(default_factory=dict)

    @property
    def unfinished(self) -> list[Trial]:
        return [self.trials[number] for number in self._unfinished]

    @property
    def finished(self) -> int:
        """How many trials have ended, however."""
        return len(self.trials) - len(self._unfinished)

    def apply(self, event: Event) -> None:
        match event:
            case Opened():
                self.opened = event
            case Ended():
                self.ended, self.completed_at = event, event.at
            case Known():
                self.known.append(event)
            case Edited():
                self.budget.update(event.counts)
                if self.ended is not None:
                    self.ended, self.restarted_at = None, event.at
            case Resumed():
                self.ended = None
                for number in event.restarted:
                    self._put(_anew(self.trials[number]))
            case ContainerStarted() | ContainerExited() | Noted():
                pass
            case _:
                self._put(advance(self.trials.get(event.number), event, self.objective))

    def _put(self, trial: Trial) -> None:
        before = self.trials.get(trial.number)
        self.trials[trial.number] = trial
        if before is not None:
            if before.state is trial.state:
                return
            self.counts[before.state] -= 1
        self.counts[trial.state] += 1
        if not trial.state.is_final:
            self._unfinished[trial.number] = None
        elif trial.number in self._unfinished:
            del self._unfinished[trial.number]
            self.best = best_trial([trial] if self.best is None else [self.best, trial], self.objective)


def _anew(trial: Trial) -> Trial:
    fresh = {"state": TrialState.CREATED, "started_at": None, "summaries": NOTHING, "stop_reason": "", "warnings": ()}
    return _changed(trial, **fresh, ended_at=None, reason="", message="", exit_code=None)


def fold(events: Iterable[Event], objective: Objective) -> Search:
    """The search that a journal tells of. The same events give the same value."""
    search = Search(objective)
    for event in events:
        search.apply(event)
    return search


def ranking(trials: Iterable[Trial], objective: Objective) -> list[Trial]:
    """The trials that have an objective value, the best first; of equals the first created (Katib's order is arbitrary there)."""
    sign = 1 if objective.type is ObjectiveType.MINIMIZE else -1
    valued = [(sign * value, trial.number, trial) for trial in trials if (value := trial.value(objective)) is not None]
    return [trial for _, _, trial in sorted(valued, key=lambda entry: entry[:2])]


def best_trial(trials: Iterable[Trial], objective: Objective) -> Trial | None:
    return next(iter(ranking(trials, objective)), None)


NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Katib's: no vowels and no look-alikes, so that no word and no misreading comes out."""


def name_of_trial(experiment: Experiment, seed: int, number: int) -> str:
    """A training's one trial is the job itself, under its own name."""
    return experiment.name if experiment.is_training else trial_name(experiment.name, seed, number)


def trial_name(experiment: str, seed: int, number: int) -> str:
    """`<experiment>-` and 8 characters. Within a seed no two numbers share a name: the code is a permutation of the number."""
    size = len(NAME_ALPHABET) ** 8
    code = (number * 174_628_231_601 + seed * 96_276_493_391 + 61_803_398_875) % size
    letters = []
    for _ in range(8):
        code, digit = divmod(code, len(NAME_ALPHABET))
        letters.append(NAME_ALPHABET[digit])
    return f"{experiment}-{''.join(letters)}"
