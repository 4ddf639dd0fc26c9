"""The loop on a virtual clock: what it starts, when it ends, what it journals; no process, no Optuna."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from contracts.store_contract import StoreContract
from contracts.suggester_contract import SuggesterContract
from factories import make_experiment, make_objective, opened
from fakes import FakeLauncher, ListSuggester, MemoryStore, Script, VirtualClock, arguments, reports
from katuna.contracts import Suggester, TrialRequest
from katuna.errors import StoreFailed
from katuna.search.budget import End
from katuna.search.engine import Engine
from katuna.spec.model import Experiment, ObjectiveType
from katuna.trials import Asked, Ended, Event, Exited, Resumed, Started, Stopping, TrialState, fold

POINTS = [{"lr": f"0.{index + 10:03d}", "width": "8", "optimizer": "sgd"} for index in range(20)]
FAILS = Script(code=1)
SILENT = Script(((5.0, ()),))


class TestMemoryStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _one(self) -> None:
        self.store = MemoryStore()

    def make_store(self) -> MemoryStore:
        return self.store


class TestListSuggester(SuggesterContract):
    def make_suggester(self, seed: int = 7) -> ListSuggester:
        return ListSuggester(POINTS[seed % 2 :])


@dataclass
class World:
    """A search with everything around it fake, and what came of it."""

    experiment: Experiment
    script: Callable[[TrialRequest], Script]
    points: Sequence[dict[str, str]] = field(default_factory=lambda: POINTS)
    store: MemoryStore = field(default_factory=lambda: MemoryStore([opened()]))
    clock: VirtualClock = field(default_factory=VirtualClock)
    deadline_s: float | None = None
    interrupt_after: int | None = None

    def __post_init__(self) -> None:
        self.launcher = FakeLauncher(self.clock, self.script)
        self.suggester = ListSuggester(self.points)
        self.watched: list[Event] = []

    def run(self, suggester: Suggester | None = None) -> End | None:
        engine = Engine(
            self.experiment,
            suggester or self.suggester,
            self.launcher,
            self.store,
            self.clock,
            deadline=None if self.deadline_s is None else self.clock.now() + self.deadline_s,
            interruptions=lambda: int(self.interrupt_after is not None and len(self.store.events) >= self.interrupt_after),
            watch=lambda event, search: self.watched.append(event),
        )
        return engine.run()

    @property
    def states(self) -> list[str]:
        return [trial.state.value for trial in fold(self.store.events, self.experiment.objective).trials.values()]

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.store.events)


def scored(request: TrialRequest) -> Script:
    """Ten seconds, in two reports; the value is the learning rate."""
    return reports([0.0, float(arguments(request.manifest)["lr"])], every_s=5.0)


def after(
    number: int, then: Callable[[TrialRequest], Script], otherwise: Callable[[TrialRequest], Script] = scored
) -> Callable[[TrialRequest], Script]:
    return lambda request: then(request) if request.number >= number else otherwise(request)


def test_runs_max_trials_so_many_at_a_time_and_tells_each_once() -> None:
    world = World(make_experiment(max_trials=5, parallel_trials=2), scored)
    began = world.clock.now()
    end = world.run()
    assert end is not None
    assert (end.succeeded, end.reason) == (True, "ExperimentMaxTrialsReached")
    assert world.states == ["Succeeded"] * 5
    assert world.launcher.most_at_once == 2
    assert [trial.number for trial in world.suggester.told] == [0, 1, 2, 3, 4]
    assert world.clock.now() - began == pytest.approx(30, abs=0.01), "five ten-second trials, two at a time, without idling"
    assert world.launcher.closed


def test_the_rendered_job_is_what_starts() -> None:
    world = World(make_experiment(max_trials=1, parallel_trials=1), scored)
    world.run()
    (request,) = world.launcher.started
    assert arguments(request.manifest) == POINTS[0]
    assert request.manifest["metadata"]["name"] == request.name


def test_goal_reached_stops_what_runs_and_counts_it_killed() -> None:
    slow = reports([0.0], every_s=500.0)
    world = World(
        make_experiment(max_trials=9, parallel_trials=3, objective=make_objective(goal=0.011)),
        lambda request: slow if request.number == 2 else scored(request),
    )
    end = world.run()
    assert end is not None
    assert end.reason == "ExperimentGoalReached"
    assert world.states[:3] == ["Succeeded", "Succeeded", "Killed"]
    stopping = [event for event in world.store.events if isinstance(event, Stopping)]
    assert {event.number for event in stopping} >= {2}
    assert not world.launcher.running
    assert isinstance(world.store.events[-1], Ended)


def test_a_goal_that_is_only_touched_is_reached() -> None:
    """Inclusive, as Katib's (katib.md 2.4)."""
    experiment = make_experiment(
        max_trials=9, parallel_trials=1, objective=make_objective(type=ObjectiveType.MINIMIZE, goal=0.011)
    )
    world = World(
        experiment, lambda request: reports([float(arguments(request.manifest)["lr"])]), points=list(reversed(POINTS[:3]))
    )
    end = world.run()
    assert end is not None
    assert end.reason == "ExperimentGoalReached"
    assert world.states == ["Succeeded", "Succeeded"]


@pytest.mark.parametrize(("limit", "failures"), [(0, 1), (1, 1), (3, 3)])
def test_failed_limit_counts_as_katib_counts(limit: int, failures: int) -> None:
    """Limit 3 fails at the third failure, limits 0 and 1 at the first (katib.md 2.4; recorded: maxfailed-serial-0)."""
    world = World(make_experiment(max_trials=9, parallel_trials=1, max_failed=limit), lambda request: FAILS)
    end = world.run()
    assert end is not None
    assert (end.succeeded, end.reason) == (False, "ExperimentFailed")
    assert world.states == ["Failed"] * failures


def test_all_failed_without_a_limit_succeeds() -> None:
    """Recorded: nomaxfailed."""
    world = World(make_experiment(max_trials=4), lambda request: FAILS)
    end = world.run()
    assert end is not None
    assert (end.succeeded, end.reason) == (True, "ExperimentMaxTrialsReached")
    assert world.states == ["Failed"] * 4


def test_trials_without_the_metric_count_as_failed_and_as_done() -> None:
    """Recorded: metric-never-printed. Katib starts more than maxTrialCount of such trials; that is not copied (B8)."""
    failing = World(make_experiment(max_trials=9, parallel_trials=1, max_failed=2), lambda request: SILENT)
    end = failing.run()
    assert end is not None
    assert end.reason == "ExperimentFailed"
    assert failing.states == ["MetricsUnavailable"] * 2
    counting = World(make_experiment(max_trials=5, parallel_trials=3), lambda request: SILENT)
    counting.run()
    assert counting.states == ["MetricsUnavailable"] * 5


def test_goal_is_tested_before_the_failed_limit() -> None:
    experiment = make_experiment(max_trials=2, parallel_trials=2, max_failed=1, objective=make_objective(goal=0.010))
    world = World(experiment, lambda request: reports([0.5]) if request.number else Script(((1.0, ()),), code=1))
    end = world.run()
    assert end is not None
    assert end.reason in ("ExperimentGoalReached", "ExperimentFailed")
    assert set(world.states) == {"Succeeded", "Failed"}
    from katuna.search.budget import verdict

    final = verdict(experiment, fold(world.store.events, experiment.objective))
    assert final is not None
    assert final.reason == "ExperimentGoalReached"


def test_an_exhausted_space_ends_the_search_once_all_have_ended() -> None:
    world = World(make_experiment(max_trials=None, parallel_trials=2), scored, points=POINTS[:3])
    end = world.run()
    assert end is not None
    assert end.reason == "ExperimentSuggestionEndReached"
    assert world.states == ["Succeeded"] * 3


def test_timeout_stops_what_runs() -> None:
    world = World(make_experiment(max_trials=None, parallel_trials=2), scored, deadline_s=25.0)
    began = world.clock.now()
    end = world.run()
    assert end is not None
    assert (end.succeeded, end.reason) == (True, "ExperimentTimeoutReached")
    assert world.clock.now() - began == pytest.approx(25.0, abs=0.01)
    assert world.states == ["Succeeded"] * 4 + ["Killed"] * 2


def test_timeout_before_any_value_is_a_failure() -> None:
    world = World(make_experiment(max_trials=None, parallel_trials=2), scored, deadline_s=5.0)
    end = world.run()
    assert end is not None
    assert (end.succeeded, end.reason) == (False, "ExperimentTimeoutReached")


def test_a_trial_that_ignores_the_stop_is_waited_for() -> None:
    stubborn = Script(hangs=True, ignores_term=True)
    world = World(make_experiment(max_trials=None, parallel_trials=1), lambda request: stubborn, deadline_s=5.0)
    world.run()
    assert world.states == ["Killed"]


def test_the_search_cannot_be_faster_than_it_is_told() -> None:
    """No trial is asked for before a place is free: asks and exits alternate in a sequential search."""
    world = World(make_experiment(max_trials=4, parallel_trials=1), scored)
    world.run()
    kinds = [type(event) for event in world.store.events if isinstance(event, Asked | Exited)]
    assert kinds == [Asked, Exited] * 4


@pytest.mark.parametrize("parallel", [1, 3])
def test_interrupted_at_any_event_and_resumed_it_is_the_same_search(parallel: int) -> None:
    experiment = make_experiment(max_trials=5, parallel_trials=parallel)
    whole = World(experiment, scored)
    whole.run()
    for cut in range(1, len(whole.store.events)):
        first = World(experiment, scored, interrupt_after=cut)
        assert first.run() is None or first.store.events[-1].__class__ is Ended
        assert first.launcher.closed
        second = World(experiment, scored, store=MemoryStore(first.store.events))
        assert second.run() is not None
        assert second.states == ["Succeeded"] * 5, f"cut after {cut} events"
        asked = [event for event in second.store.events if isinstance(event, Asked)]
        assert [event.number for event in asked] == list(range(5))
        assert [event.name for event in asked] == [event.name for event in whole.store.events if isinstance(event, Asked)]
        assert [dict(event.assignments) for event in asked] == POINTS[:5]
        assert sorted(trial.number for trial in second.suggester.told) == list(range(5)), (
            "told of every ended trial, old and new, once"
        )
        if first.store.events != whole.store.events:
            assert second.count(Resumed) == (1 if len(first.store.events) > 1 else 0)


def test_a_crash_between_any_two_events_loses_and_doubles_nothing() -> None:
    """The journal cut anywhere is what SIGKILL leaves."""
    experiment = make_experiment(max_trials=4, parallel_trials=2)
    whole = World(experiment, scored)
    whole.run()
    for cut in range(1, len(whole.store.events)):
        again = World(experiment, scored, store=MemoryStore(whole.store.events[:cut]))
        again.run()
        assert again.states == ["Succeeded"] * 4, f"cut after {cut} events"
        ended = [event.number for event in again.store.events if isinstance(event, Exited)]
        assert sorted(ended) == [0, 1, 2, 3], "each trial has one end"
        restarted = {request.number for request in again.launcher.started}
        done_before = {event.number for event in whole.store.events[:cut] if isinstance(event, Exited)}
        assert restarted == {0, 1, 2, 3} - done_before


def test_reports_of_an_attempt_that_was_cut_off_do_not_count() -> None:
    experiment = make_experiment(max_trials=1, parallel_trials=1)
    store = MemoryStore([opened()])
    first = World(experiment, lambda request: reports([0.9, 0.9], every_s=5.0), store=store, interrupt_after=4)
    assert first.run() is None
    second = World(experiment, lambda request: reports([0.1]), store=MemoryStore(store.events))
    second.run()
    (trial,) = fold(second.store.events, experiment.objective).trials.values()
    assert trial.value(experiment.objective) == 0.1


def test_resuming_a_search_that_was_killed_while_it_ended_starts_nothing() -> None:
    experiment = make_experiment(max_trials=9, parallel_trials=2, objective=make_objective(goal=0.010))
    slow = reports([0.0], every_s=500.0)
    world = World(experiment, lambda request: slow if request.number else scored(request))
    world.run()
    cut = next(index for index, event in enumerate(world.store.events) if isinstance(event, Stopping))
    again = World(experiment, scored, store=MemoryStore(world.store.events[:cut]))
    end = again.run()
    assert end is not None
    assert end.reason == "ExperimentGoalReached"
    assert again.launcher.started == []
    assert again.states == ["Succeeded", "Killed"]


def test_a_store_that_fails_stops_the_trials_and_says_so() -> None:
    world = World(make_experiment(max_trials=9), scored, store=MemoryStore([opened()], fail_after=8))
    with pytest.raises(StoreFailed):
        world.run()
    assert world.launcher.closed
    assert world.launcher.running == ()
    assert len(world.store.events) == 8


def test_watchers_see_every_event_after_the_journal_has_it() -> None:
    world = World(make_experiment(max_trials=3), scored)
    world.run()
    assert world.watched == world.store.events[1:]


def test_a_retry_begins_its_metrics_anew() -> None:
    flaky = reports([0.9], code=1, then=reports([0.2]))
    world = World(make_experiment(max_trials=1, parallel_trials=1), lambda request: flaky)
    world.run()
    (trial,) = fold(world.store.events, world.experiment.objective).trials.values()
    assert trial.state is TrialState.SUCCEEDED
    assert trial.attempt == 2
    assert trial.value(world.experiment.objective) == 0.2
    assert world.count(Started) == 2


def test_a_second_interruption_hurries() -> None:
    stubborn = Script(hangs=True, ignores_term=True)
    world = World(make_experiment(max_trials=4, parallel_trials=2), lambda request: stubborn)
    asked = 0

    def interruptions() -> int:
        nonlocal asked
        asked += world.count(Started) == 2
        return 0 if asked < 2 else 1 if asked < 5 else 2

    engine = Engine(world.experiment, world.suggester, world.launcher, world.store, world.clock, interruptions=interruptions)
    began = world.clock.now()
    assert engine.run() is None
    assert world.clock.now() - began < 5.0, "the grace period is ten seconds"
    assert world.states == ["Running", "Running"]
    assert world.launcher.running == ()
