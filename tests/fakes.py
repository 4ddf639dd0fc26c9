"""Stateful stand-ins for the search loop's contracts, on a virtual clock; each passes the contract suite of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from katuna.errors import StoreFailed
from katuna.manifest.experiment import Manifest
from katuna.metric_line import Report
from katuna.search.contracts import LaunchEvent, NoSuggestion, Suggestion, TrialRequest
from katuna.search.trials import Assignments, Event, Exited, Reported, Started, Trial

# Launcher


class VirtualClock:
    """Time that passes only when somebody lets it."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def elapsed(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def advance_to(self, moment: float) -> None:
        self._now = max(self._now, moment)


@dataclass(frozen=True)
class Script:
    """What a fake trial does: after each delay it reports, and after the last it exits.

    `code` None is a trial that cannot start. `hangs` never exits by itself, `ignores_term` lasts until the grace period is over.
    `then` is the next attempt, which the job asks for when this one fails.
    """

    steps: tuple[tuple[float, tuple[Report, ...]], ...] = ()
    code: int | None = 0
    hangs: bool = False
    ignores_term: bool = False
    then: Script | None = None
    nearest: tuple[str, ...] = ()


def reports(values: Sequence[float | str], metric: str = "accuracy", every_s: float = 1.0, **other: object) -> Script:
    """A script that reports one value after another."""
    steps = tuple((every_s, (Report(metric, value if isinstance(value, str) else repr(value)),)) for value in values)
    return Script(steps, **other)  # type: ignore[arg-type]


def arguments(manifest: Manifest) -> dict[str, str]:
    """The `--name=value` arguments of a rendered job's first container: how a script may depend on the assignments."""
    container = _first_container(manifest)
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    return dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)


def _first_container(value: object) -> Mapping[str, list[str]]:
    """Depth first: any job kind has its pod template somewhere."""
    if isinstance(value, Mapping):
        if value.get("containers"):
            return value["containers"][0]  # type: ignore[no-any-return]
        for inner in value.values():
            if found := _first_container(inner):
                return found
    return {}


AT_ONCE = 1000
"""Of a trial's reports about so many come in one poll."""


@dataclass
class _Scripted:
    """A running fake trial: what is still to come, with absolute times."""

    request: TrialRequest
    script: Script
    events: list[tuple[float, LaunchEvent]]
    attempt: int = 1


class FakeLauncher:
    """Runs scripts on a virtual clock: `poll` advances it to the next event, or by its timeout. `started` lists all requests."""

    def __init__(self, clock: VirtualClock, script: Callable[[TrialRequest], Script]) -> None:
        self._clock = clock
        self._script = script
        self._running: dict[int, _Scripted] = {}
        self.started: list[TrialRequest] = []
        self.attached: list[Trial] = []
        self.stopped: list[tuple[int, float]] = []
        self.most_at_once = 0
        self.closed = False

    @property
    def running(self) -> tuple[int, ...]:
        return tuple(self._running)

    def start(self, request: TrialRequest) -> None:
        assert request.number not in self._running, f"trial {request.number} runs already"
        assert not self.closed, "started after close"
        self.started.append(request)
        trial = _Scripted(request, self._script(request), [])
        self._running[request.number] = trial
        self.most_at_once = max(self.most_at_once, len(self._running))
        self._plan(trial, self._clock.now())

    def _plan(self, trial: _Scripted, at: float) -> None:
        number, script = trial.request.number, trial.script
        if script.code is None:
            trial.events = [(at, Exited(at, number, None, "StartError", "cannot start"))]
            return
        trial.events = [(at, Started(at, number, trial.attempt, {"pid": 100_000 + number}))]
        for delay_s, values in script.steps:
            at += delay_s
            trial.events.append((at, Reported(at, number, values)))
        if not script.hangs:
            reason = "Completed" if script.code == 0 else "Error"
            message = "" if script.code == 0 else f"exit code {script.code}"
            trial.events.append((at, Exited(at, number, script.code, reason, message, script.nearest)))

    def attach(self, trial: Trial) -> bool:
        self.attached.append(trial)
        return False

    def poll(self, timeout_s: float) -> Sequence[LaunchEvent]:
        give_up = self._clock.now() + timeout_s
        upcoming = [trial.events[0][0] for trial in self._running.values() if trial.events]
        self._clock.advance_to(min([give_up, *upcoming]))
        events: list[LaunchEvent] = []
        for trial in list(self._running.values()):
            told = 0
            while trial.events and trial.events[0][0] <= self._clock.now() and told < AT_ONCE:
                event = trial.events.pop(0)[1]
                told += len(event.reports) if isinstance(event, Reported) else 0
                events += self._happen(trial, event)
        return sorted(events, key=lambda event: event.at)

    def _happen(self, trial: _Scripted, event: LaunchEvent) -> list[LaunchEvent]:
        if not isinstance(event, Exited):
            return [event]
        if event.code and trial.script.then and event.reason == "Error":
            trial.script, trial.attempt = trial.script.then, trial.attempt + 1
            self._plan(trial, event.at)
            return []
        del self._running[event.number]
        return [event]

    def stop(self, number: int, grace_s: float) -> None:
        self.stopped.append((number, grace_s))
        trial = self._running.get(number)
        if trial is None:
            return
        at = self._clock.now()
        if any(isinstance(event, Started) for _, event in trial.events):
            end_at, code = at, None
        else:
            end_at, code = (at + grace_s, 137) if trial.script.ignores_term else (at, 143)
        if trial.events and isinstance(trial.events[-1][1], Exited) and trial.events[-1][0] <= at:
            # It has ended: only what it said is still to be told.
            del trial.events[:-1]
            return
        own_end = next((when for when, event in trial.events if isinstance(event, Exited)), None)
        if own_end is not None and own_end <= end_at:
            return
        trial.script = Script(trial.script.steps, hangs=True, ignores_term=trial.script.ignores_term)
        trial.events = [(when, event) for when, event in trial.events if when <= end_at and isinstance(event, Reported)]
        trial.events.append((end_at, Exited(end_at, number, code, "Stopped", "stopped")))

    def close(self, grace_s: float = 10.0) -> None:
        self._running.clear()
        self.closed = True


# Store


class MemoryStore:
    """A journal in a list. `fail_after` makes the append after so many fail, as a full disk does."""

    def __init__(self, events: Iterable[Event] = (), fail_after: int | None = None) -> None:
        self.events = list(events)
        self._fail_after = fail_after

    def append(self, event: Event) -> None:
        if self._fail_after is not None and len(self.events) >= self._fail_after:
            raise StoreFailed("no space left")
        self.events.append(event)

    def replay(self) -> Iterator[Event]:
        return iter(list(self.events))

    def sync(self) -> None:
        pass


# Suggester


class ListSuggester:
    """Gives the points of a list in order, then is exhausted. `told` keeps what it was told, `restored` what it was reminded of."""

    def __init__(self, points: Sequence[Assignments]) -> None:
        self._points = list(points)
        self.told: list[Trial] = []
        self.restored: list[int] = []
        self.learnt: list[tuple[Assignments, float]] = []

    def learn(self, assignments: Assignments, value: float) -> None:
        self.learnt.append((assignments, value))

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        return Suggestion(self._points[number]) if number < len(self._points) else NoSuggestion.EXHAUSTED

    def restore(self, number: int, suggestion: Suggestion) -> None:
        self.restored.append(number)

    def tell(self, trial: Trial) -> None:
        self.told.append(trial)
