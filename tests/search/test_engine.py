"""The loop on a virtual clock: what it starts, when it ends, what it journals; no process, no Optuna."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.store_contract import StoreContract
from contracts.suggester_contract import SuggesterContract
from factories import LR, WIDTH, a_life, make_experiment, make_objective, opened
from fakes import FakeLauncher, ListSuggester, MemoryStore, Script, VirtualClock, arguments, reports
from katuna.errors import InputRefused, StoreFailed
from katuna.manifest.experiment import EarlyStopping, Experiment, ObjectiveType
from katuna.metric_line import Report
from katuna.runs.events import from_json, to_json
from katuna.search.budget import MAX_TRIALS, End, check_edit, edited
from katuna.search.contracts import Stopper, Suggester, Suggestion, TrialRequest
from katuna.search.engine import ALL_KEPT, KEPT_AT_ONCE, THINNED, Engine, thinned
from katuna.search.stopping import stopper_for
from katuna.search.suggest import suggester_for
from katuna.search.trials import (
    EARLY_STOPPED,
    Asked,
    Edited,
    Ended,
    Event,
    Exited,
    Known,
    Reported,
    Resumed,
    Search,
    Started,
    Stopping,
    StopRule,
    Summary,
    Trial,
    TrialEvent,
    TrialState,
    fold,
)

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
    tries: Sequence[dict[str, str]] = ()
    let_running_finish: bool = False
    stopper: Stopper | None = None

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
            stopper=self.stopper or stopper_for(self.experiment),
            tries=self.tries,
            let_running_finish=self.let_running_finish,
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


@pytest.mark.parametrize("name", ["random", "tpe", "grid", "hyperband", "pbt"])
def test_after_a_timeout_the_search_goes_on_as_if_it_had_not_been(name: str) -> None:
    """What it stopped begins again with its number and its point, and nobody has heard of its end."""
    settings = {"hyperband": {"r_l": "4", "resource_name": "width"}, "pbt": {"n_population": "5", "truncation_threshold": "0.2"}}
    experiment = make_experiment(
        parameters=(replace(LR, step="0.0111"), WIDTH),
        algorithm=name,
        settings=settings.get(name, {}),
        max_trials=8,
        parallel_trials=2,
    )
    whole = World(experiment, scored)
    its_end = whole.run(suggester_for(experiment, 1))
    first = World(experiment, scored, deadline_s=15.0)
    first.run(suggester_for(experiment, 1))
    assert set(first.states) == {"Succeeded", "Killed"}
    again = World(experiment, scored, store=MemoryStore([*first.store.events, Edited(0.0, {})]))
    assert again.run(suggester_for(experiment, 1)) == its_end
    assert again.states == whole.states
    asked = [event.assignments for event in again.store.events if isinstance(event, Asked)]
    assert asked == [event.assignments for event in whole.store.events if isinstance(event, Asked)]


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


# Early stopping


class StopAt:
    """Stops trials at the given reports: number to the step; counts anew for each attempt."""

    def __init__(self, **steps: int) -> None:
        self._steps = {int(name.removeprefix("t")): step for name, step in steps.items()}
        self._seen: dict[int, int] = {}
        self.forgotten: list[int] = []

    def rules(self) -> tuple[StopRule, ...]:
        return (StopRule("accuracy", "0.5", "less", 2),)

    def see(self, event: TrialEvent, trial: Trial) -> bool:
        if isinstance(event, Started):
            self._seen[event.number] = 0
        if isinstance(event, Reported):
            self._seen[event.number] += 1
            return self._seen[event.number] == self._steps.get(event.number)
        return False

    def forget(self, number: int) -> None:
        self.forgotten.append(number)


def rising(request: TrialRequest) -> Script:
    """Four reports, the last one the learning rate; odd trials are worse."""
    best = float(arguments(request.manifest)["lr"]) - request.number % 2 * 0.05
    return reports([best * share for share in (0.4, 0.6, 0.8, 1.0)])


@pytest.mark.parametrize(
    ("algorithm", "settings"), [("medianstop", {"min_trials_required": "1", "start_step": "2"}), ("asha", {})]
)
def test_a_poor_trial_is_stopped_told_with_its_value_and_counted(algorithm: str, settings: dict[str, str]) -> None:
    experiment = make_experiment(max_trials=6, parallel_trials=1, early_stopping=EarlyStopping(algorithm, settings))
    world = World(experiment, rising)
    end = world.run()
    assert end == MAX_TRIALS
    assert world.states == ["Succeeded", "EarlyStopped"] * 3
    stopping = [event for event in world.store.events if isinstance(event, Stopping)]
    assert [(event.number, event.reason) for event in stopping] == [(1, EARLY_STOPPED), (3, EARLY_STOPPED), (5, EARLY_STOPPED)]
    assert [number for number, grace_s in world.launcher.stopped if grace_s > 0] == [1, 3, 5]
    told = {trial.number: trial.value(experiment.objective) for trial in world.suggester.told}
    assert list(told) == [0, 1, 2, 3, 4, 5]
    assert all(value is not None for value in told.values())
    rules = [event.rules for event in world.store.events if isinstance(event, Asked)]
    assert [len(each) for each in rules] == ([0, 1, 1, 1, 1, 1] if algorithm == "medianstop" else [0] * 6)


def test_a_decision_falls_on_a_line_whatever_was_read_at_a_time() -> None:
    """A trial that prints all at once and exits by itself before it can be stopped is early stopped all the same, and its value
    is the one at the decision."""
    line = [(Report("accuracy", f"0.{step}"), Report("loss", f"{9 - step}")) for step in range(1, 6)]
    at_once = Script(((1.0, tuple(report for reported in line for report in reported)),))
    slowly = Script(tuple((1.0, reported) for reported in line))
    journals = []
    for script in (at_once, slowly):
        world = World(
            make_experiment(max_trials=1, parallel_trials=1), lambda request, script=script: script, stopper=StopAt(t0=3)
        )
        world.run()
        (trial,) = fold(world.store.events, world.experiment.objective).trials.values()
        assert trial.state is TrialState.EARLY_STOPPED
        assert (trial.summary("accuracy").latest, trial.summary("loss").latest) == ("0.3", "6")
        assert world.suggester.told == [trial]
        journals.append([event.reports for event in world.store.events if isinstance(event, Reported)])
    assert journals[0] == journals[1]


def test_a_retry_that_had_begun_when_it_was_stopped_changes_nothing() -> None:
    flaky = Script(((1.0, (Report("accuracy", "0.4"),)),), code=1, then=reports([0.9]))
    world = World(make_experiment(max_trials=1, parallel_trials=1), lambda request: flaky, stopper=StopAt(t0=1))
    world.launcher.stop = lambda number, grace_s: None  # type: ignore[method-assign]
    world.run()
    (trial,) = fold(world.store.events, world.experiment.objective).trials.values()
    assert world.count(Started) == 2
    assert (trial.state, trial.value(world.experiment.objective)) == (TrialState.EARLY_STOPPED, 0.4)


def test_a_stopped_trial_can_be_the_best_and_reach_the_goal() -> None:
    experiment = make_experiment(max_trials=9, parallel_trials=1, objective=make_objective(goal=0.3))
    world = World(experiment, lambda request: reports([0.1, 0.3, 0.2, 0.1]), stopper=StopAt(t0=3))
    end = world.run()
    assert end is not None
    assert end.reason == "ExperimentGoalReached"
    assert world.states == ["EarlyStopped"]


def test_a_trial_that_runs_on_after_katuna_died_is_stopped_as_was_decided() -> None:
    """For launchers whose trials survive: the decision had been journalled, or only the report that led to it."""
    experiment = make_experiment(max_trials=1, parallel_trials=1)
    whole = World(experiment, lambda request: reports([0.1, 0.2, 0.3]), stopper=StopAt(t0=2))
    whole.run()
    decided = next(index for index, event in enumerate(whole.store.events) if isinstance(event, Stopping))
    for cut in (decided, decided + 1):
        stopper = StopAt(t0=2)
        again = World(
            experiment, lambda request: Script(hangs=True), store=MemoryStore(whole.store.events[:cut]), stopper=stopper
        )
        again.launcher.attach = lambda trial, again=again: bool(  # type: ignore[method-assign]
            again.launcher.start(TrialRequest(trial.number, trial.name, {})) or True
        )
        again.run()
        assert again.states == ["EarlyStopped"]
        assert again.count(Stopping) == 1
        assert again.launcher.stopped == [(0, 10.0)]
        assert stopper.forgotten == []


# More than anybody reads

BURST = tuple(Report("accuracy", f"0.{number % 7919}") for number in range(3 * ALL_KEPT))
SPOKEN = st.builds(
    Report,
    st.sampled_from(["a", "b"]),
    st.sampled_from(["1", "2", "1.0", "nan", "-3", "0.5", "inf"]),
    st.none() | st.integers(0, 4),
)


def test_a_burst_is_thinned_said_and_comes_to_the_same() -> None:
    experiment = make_experiment(max_trials=1, parallel_trials=1)
    few = [(1.0, BURST[begin : begin + 1000]) for begin in range(0, len(BURST), 1000)]
    world = World(experiment, lambda request: Script(tuple(few)))
    world.run()
    kept = [report for event in world.store.events if isinstance(event, Reported) for report in event.reports]
    assert kept[:ALL_KEPT] == list(BURST[:ALL_KEPT])
    assert len(kept) < ALL_KEPT + 20 * (KEPT_AT_ONCE + 4)
    (trial,) = fold(world.store.events, experiment.objective).trials.values()
    summary = trial.summary("accuracy")
    assert (summary.minimum, summary.maximum, summary.latest) == ("0.0", "0.999", BURST[-1].value)
    assert trial.warnings == (THINNED,)


def test_who_reports_much_but_slowly_is_heard_in_full() -> None:
    experiment = make_experiment(max_trials=1, parallel_trials=1)
    script = Script(tuple((1.0, BURST[begin : begin + KEPT_AT_ONCE]) for begin in range(0, len(BURST), KEPT_AT_ONCE)))
    world = World(experiment, lambda request: script)
    world.run()
    assert [report for event in world.store.events if isinstance(event, Reported) for report in event.reports] == list(BURST)
    (trial,) = fold(world.store.events, experiment.objective).trials.values()
    assert trial.warnings == ()


def test_an_early_stopping_rule_sees_every_step_of_a_burst() -> None:
    stopper = StopAt(t0=2 * ALL_KEPT + 17)
    world = World(make_experiment(max_trials=1, parallel_trials=1), lambda request: Script(((1.0, BURST),)), stopper=stopper)
    world.run()
    assert world.count(Reported) == 2 * ALL_KEPT + 17


@settings(deadline=None)
@given(st.lists(SPOKEN, max_size=5), st.lists(SPOKEN, min_size=1, max_size=40))
def test_what_is_left_of_a_burst_comes_to_the_same(before: list[Report], burst: list[Report]) -> None:
    def observed(reports: Sequence[Report]) -> dict[str, tuple[object, ...]]:
        summaries: dict[str, Summary] = {}
        for report in reports:
            summaries[report.metric] = summaries.get(report.metric, Summary()).add(report)
        return {name: (each.minimum, each.maximum, each.latest, each.latest_us) for name, each in summaries.items()}

    kept = thinned(burst, 3)
    assert observed([*before, *kept]) == observed([*before, *burst])
    assert len(kept) <= 2 * (3 + 3)


# From an earlier process to the next


def test_the_stopper_forgets_what_trials_that_begin_again_had_reported() -> None:
    experiment = make_experiment(max_trials=2, parallel_trials=2)
    first = World(experiment, scored, interrupt_after=6, stopper=StopAt())
    assert first.run() is None
    stopper = StopAt()
    World(experiment, scored, store=MemoryStore(first.store.events), stopper=stopper).run()
    assert stopper.forgotten == [0, 1]


def essence(events: Sequence[Event]) -> list[Event]:
    """A journal without times, Resumed, and what trials did in attempts that were cut off."""
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Resumed):
            kept = [one for one in kept if isinstance(one, Asked) or getattr(one, "number", None) not in event.restarted]
        else:
            kept.append(replace(event, at=0.0))
    return kept


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize("algorithm", ["medianstop", "asha", "median", "percentile", None])
def test_a_sequential_search_cut_anywhere_goes_on_to_the_same_journal(algorithm: str | None, finish: bool) -> None:
    few = {"min_trials_required": "1", "start_step": "2"}
    settings = {"medianstop": few, "median": few, "percentile": few}.get(algorithm or "", {})
    experiment = make_experiment(
        max_trials=9,
        parallel_trials=1,
        objective=make_objective(goal=0.0159),
        early_stopping=EarlyStopping(algorithm, settings) if algorithm else None,
    )
    known = Known(0.0, POINTS[9], 0.5)
    tries = [POINTS[1], POINTS[0]]

    def search(events: Sequence[Event]) -> World:
        return World(experiment, rising, store=MemoryStore(events), tries=tries, let_running_finish=finish)

    whole = search([opened(), known])
    end = whole.run()
    assert whole.suggester.learnt == [(POINTS[9], 0.5)]
    if algorithm:
        assert "EarlyStopped" in whole.states
    for cut in range(2, len(whole.store.events) + 1):
        again = search(whole.store.events[:cut])
        assert again.run() == end
        assert essence(again.store.events) == essence(whole.store.events), f"cut after {cut} events"
        assert [trial.value(experiment.objective) for trial in again.suggester.told] == [
            trial.value(experiment.objective) for trial in whole.suggester.told
        ]


def test_a_search_that_has_ended_is_left_as_it_is() -> None:
    world = World(make_experiment(), scored)
    end = world.run()
    again = World(make_experiment(), scored, store=MemoryStore(world.store.events))
    assert again.run() == end
    assert again.store.events == world.store.events


def test_points_to_try_first_come_first_and_the_suggester_knows_them() -> None:
    world = World(make_experiment(max_trials=4, parallel_trials=2), scored, tries=POINTS[15:17])
    world.run()
    asked = [dict(event.assignments) for event in world.store.events if isinstance(event, Asked)]
    assert asked == [*POINTS[15:17], *POINTS[2:4]]
    assert world.suggester.restored == [0, 1]


# Ends with trials still running


def slow_after_the_first(request: TrialRequest) -> Script:
    return scored(request) if request.number == 0 else reports([0.0, 0.5], every_s=100.0)


def test_running_trials_may_finish_and_nothing_new_begins() -> None:
    experiment = make_experiment(max_trials=9, parallel_trials=3, objective=make_objective(goal=0.010))
    world = World(experiment, slow_after_the_first, let_running_finish=True)
    end = world.run()
    assert end is not None
    assert end.reason == "ExperimentGoalReached"
    assert world.states == ["Succeeded"] * 3
    assert isinstance(world.store.events[-1], Ended)
    assert world.count(Stopping) == 0


def test_the_first_verdict_stands_whatever_running_trials_bring() -> None:
    """As on a cluster: a search that has failed does not succeed because a trial reaches the goal afterwards."""
    experiment = make_experiment(max_trials=9, parallel_trials=2, max_failed=1, objective=make_objective(goal=0.5))
    script = {0: FAILS, 1: reports([0.9], every_s=50.0)}
    world = World(experiment, lambda request: script[request.number], let_running_finish=True)
    end = world.run()
    assert end is not None
    assert (end.succeeded, end.reason) == (False, "ExperimentFailed")
    assert world.states == ["Failed", "Succeeded"]
    for cut in range(1, len(world.store.events)):
        again = World(
            experiment,
            lambda request: script[request.number],
            store=MemoryStore(world.store.events[:cut]),
            let_running_finish=True,
        )
        assert again.run() == end, f"cut after {cut} events"
        assert again.states == ["Failed", "Succeeded"]


@pytest.mark.parametrize("finish", [False, True])
def test_interrupted_while_the_last_trials_run_it_ends_the_same(finish: bool) -> None:
    experiment = make_experiment(max_trials=9, parallel_trials=3, objective=make_objective(goal=0.010))
    whole = World(experiment, slow_after_the_first, let_running_finish=True)
    end = whole.run()
    reached = next(index for index, event in enumerate(whole.store.events) if isinstance(event, Exited))
    first = World(experiment, slow_after_the_first, let_running_finish=True, interrupt_after=reached + 1)
    assert first.run() is None
    second = World(experiment, slow_after_the_first, store=MemoryStore(first.store.events), let_running_finish=finish)
    assert second.run() == end
    assert second.states == ["Succeeded", *(["Succeeded"] * 2 if finish else ["Killed"] * 2)]
    assert second.count(Asked) == 3


def test_a_timeout_stops_what_was_let_run() -> None:
    experiment = make_experiment(max_trials=9, parallel_trials=2, objective=make_objective(goal=0.010))
    world = World(experiment, slow_after_the_first, let_running_finish=True, deadline_s=30.0)
    end = world.run()
    assert end is not None
    assert end.reason == "ExperimentGoalReached", "what had been decided"
    assert world.states == ["Succeeded", "Killed"]
    endless = World(make_experiment(max_trials=None), scored, let_running_finish=True, deadline_s=25.0)
    end = endless.run()
    assert end is not None
    assert end.reason == "ExperimentTimeoutReached"
    assert endless.states[-2:] == ["Killed", "Killed"]


# Edited budgets


def test_an_edited_budget_takes_the_search_up_again() -> None:
    experiment = make_experiment(max_trials=2, parallel_trials=1, resume_policy="LongRunning")
    world = World(experiment, scored)
    assert world.run() == MAX_TRIALS
    counts = {"maxTrialCount": 5, "parallelTrialCount": 3}
    check_edit(experiment, fold(world.store.events, experiment.objective), counts)
    store = MemoryStore([*world.store.events, Edited(0.0, counts)])
    again = World(experiment, scored, store=store)
    assert again.run() == MAX_TRIALS
    assert again.states == ["Succeeded"] * 5
    assert again.launcher.most_at_once == 3
    assert again.count(Ended) == 2
    for cut in range(len(world.store.events) + 1, len(store.events)):
        third = World(experiment, scored, store=MemoryStore(store.events[:cut]))
        assert third.run() == MAX_TRIALS
        assert third.states == ["Succeeded"] * 5


def test_the_edited_experiment_shows_its_counts_in_the_manifest() -> None:
    experiment = make_experiment(manifest={"kind": "Experiment", "spec": {"maxTrialCount": 4, "parallelTrialCount": 2}})
    search = fold([opened(), Edited(1.0, {"maxTrialCount": 9}), Edited(2.0, {"maxFailedTrialCount": 0})], experiment.objective)
    changed = edited(experiment, search)
    assert (changed.max_trials, changed.parallel_trials, changed.max_failed) == (9, 2, 0)
    assert changed.manifest["spec"] == {"maxTrialCount": 9, "parallelTrialCount": 2, "maxFailedTrialCount": 0}
    assert experiment.manifest["spec"]["maxTrialCount"] == 4
    assert edited(changed, search) == changed
    assert edited(experiment, Search(experiment.objective)) is experiment


def ended_search(trials: int, reason: str | None = MAX_TRIALS.reason, succeeded: bool = True) -> Search:
    events: list[Event] = [opened()]
    for number in range(trials):
        events += a_life(number, {"lr": "0.1"}, 0.5)
    if reason is not None:
        events.append(Ended(99.0, succeeded, reason, ""))
    return fold(events, make_objective())


@pytest.mark.parametrize(
    ("counts", "reason", "policy", "said"),
    [
        ({"maxTrialCount": 5}, MAX_TRIALS.reason, "LongRunning", []),
        ({"maxTrialCount": 5}, MAX_TRIALS.reason, "FromVolume", []),
        ({"maxTrialCount": 5}, None, "Never", []),
        ({"maxTrialCount": 5, "parallelTrialCount": 5, "maxFailedTrialCount": 5}, None, "Never", []),
        ({"maxTrialCount": 4, "parallelTrialCount": 2}, "ExperimentGoalReached", "Never", []),
        ({"maxTrialCount": 5}, MAX_TRIALS.reason, "Never", ["resumePolicy", "'Never'", "katuna tune FILE --warm-start RUN"]),
        ({"maxTrialCount": 5}, "ExperimentGoalReached", "LongRunning", ["ExperimentGoalReached", "--warm-start"]),
        ({"maxTrialCount": 5}, "ExperimentFailed", "LongRunning", ["ExperimentFailed"]),
        ({"maxTrialCount": 3}, MAX_TRIALS.reason, "LongRunning", ["spec.maxTrialCount", "3", "4 trials", "give 5 or more"]),
        ({"maxTrialCount": 3}, None, "LongRunning", ["spec.maxTrialCount", "3", "4 trials"]),
        ({"parallelTrialCount": 1}, None, "LongRunning", ["spec.maxTrialCount", "4 trials"]),
        ({"maxTrialCount": 0}, None, "Never", ["spec.maxTrialCount", "give 1 or more"]),
        ({"maxTrialCount": 9, "parallelTrialCount": 0}, None, "Never", ["spec.parallelTrialCount", "give 1 or more"]),
        ({"maxTrialCount": 9, "parallelTrialCount": 10}, None, "Never", ["spec.parallelTrialCount", "10", "9"]),
        ({"maxTrialCount": 9, "maxFailedTrialCount": 10}, None, "Never", ["spec.maxFailedTrialCount", "10", "9"]),
        ({"maxTrialCount": 9, "maxFailedTrialCount": -1}, None, "Never", ["spec.maxFailedTrialCount", "-1"]),
    ],
)
def test_budgets_can_be_edited_as_katib_lets_them(
    counts: dict[str, int], reason: str | None, policy: str, said: list[str]
) -> None:
    """katib.md 1.7; what changes nothing is let through at any time (recorded, 13)."""
    experiment, search = make_experiment(resume_policy=policy), ended_search(4, reason)
    if not said:
        check_edit(experiment, search, counts)
        return
    with pytest.raises(InputRefused) as refused:
        check_edit(experiment, search, counts)
    for words in said:
        assert words in str(refused.value)


def test_how_many_run_at_a_time_may_change_while_trials_have_still_to_run() -> None:
    experiment = make_experiment(max_trials=2)
    lives = [opened(), *a_life(0, {"lr": "0.1"}, 0.5), *a_life(1, {"lr": "0.1"}, 0.5)]
    unfinished, finished = (fold(lives[:count], experiment.objective) for count in (-1, None))
    assert (len(unfinished.trials), unfinished.finished) == (2, 1)
    check_edit(experiment, unfinished, {"parallelTrialCount": 1})
    check_edit(experiment, unfinished, {"parallelTrialCount": 1, "maxTrialCount": 2})
    for search, counts in (
        (finished, {"parallelTrialCount": 1}),
        (unfinished, {"maxFailedTrialCount": 1}),
        (unfinished, {"parallelTrialCount": 1, "maxTrialCount": 1}),
    ):
        with pytest.raises(InputRefused, match="leaves some to do"):
            check_edit(experiment, search, counts)


def test_an_edit_is_checked_against_the_budget_as_it_was_last_edited() -> None:
    experiment = make_experiment(max_trials=4)
    search = fold([opened(), Edited(1.0, {"maxTrialCount": 9})], experiment.objective)
    check_edit(experiment, search, {"parallelTrialCount": 9})
    with pytest.raises(InputRefused, match="more than maxTrialCount, 9"):
        check_edit(experiment, search, {"parallelTrialCount": 10})


# What it costs


def no_op(request: TrialRequest) -> Script:
    return reports([float(arguments(request.manifest)["lr"])])


class Endless(ListSuggester):
    """As many points as are asked for; keeps nothing."""

    def __init__(self) -> None:
        super().__init__([])
        self.moments: list[float] = []

    def ask(self, number: int) -> Suggestion:
        self.moments.append(time.process_time())
        return Suggestion({"lr": repr(0.01 + number / 1e6), "width": "8", "optimizer": "sgd"})

    def tell(self, trial: Trial) -> None:
        pass


@pytest.mark.parametrize("algorithm", [None, "medianstop", "asha"])
def test_a_trial_costs_the_same_however_many_there_were(algorithm: str | None) -> None:
    """Were the cost in proportion to the number of trials, the last blocks of a hundred would take seven times the first ones;
    of either the median counts, so that a busy machine does not matter."""
    experiment = make_experiment(
        max_trials=3000, parallel_trials=4, early_stopping=EarlyStopping(algorithm) if algorithm else None
    )
    suggester = Endless()
    World(experiment, no_op).run(suggester)
    blocks = [suggester.moments[start + 100] - suggester.moments[start] for start in range(0, 2900, 100)]
    early, late = sorted(blocks[:8])[4], sorted(blocks[-8:])[4]
    assert late < 2.5 * early


def lines_of_a_search(trials: int, reports_each: int) -> Iterator[str]:
    yield json.dumps(to_json(opened()))
    for number in range(trials):
        point = {"lr": repr(0.01 + number / 1e6), "width": "8", "optimizer": "sgd"}
        asked, started, _, exited = a_life(number, point, 0.5, at=1e9 + number)
        several = [
            Reported(1e9 + number, number, (Report("accuracy", repr(number / 7 + step)), Report("loss", repr(step / 3))))
            for step in range(reports_each)
        ]
        yield from (json.dumps(to_json(event)) for event in (asked, started, *several, exited))


def test_a_finished_trial_takes_two_kilobytes_of_memory_at_most() -> None:
    trials = 1000
    lines = list(lines_of_a_search(trials, 3))
    tracemalloc.start()
    try:
        search = fold((from_json(json.loads(line)) for line in lines), make_objective())
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(search.trials) == trials
    assert kept / trials < 2000


@pytest.mark.parametrize("algorithm", [None, "medianstop", "asha"])
def test_a_search_of_a_thousand_trials_is_taken_up_again_at_once(algorithm: str | None) -> None:
    """Without the reading of the file, which the store does."""
    events = [from_json(json.loads(line)) for line in lines_of_a_search(1000, 5)]
    experiment = make_experiment(max_trials=1000, early_stopping=EarlyStopping(algorithm) if algorithm else None)
    world = World(experiment, no_op, store=MemoryStore(events))
    began = time.process_time()
    assert world.run() == MAX_TRIALS
    assert time.process_time() - began < 2.0


# What had happened when the interruption came


class _InterruptedWhileAway:
    """The interruption comes seven seconds after the first start, which nobody polled meanwhile."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self) -> int:
        if not self._world.count(Started):
            return 0
        self._world.clock.advance(7.0)
        return 1


@pytest.mark.parametrize(
    ("script", "ended", "state"),
    [
        (reports([0.4], every_s=5.0), True, "Succeeded"),
        (reports([0.4], every_s=5.0, code=143), False, "Running"),
        (reports([0.4, 0.5], every_s=5.0), False, "Running"),
    ],
    ids=["ended by itself", "signalled too", "still running"],
)
def test_what_had_ended_well_before_an_interruption_is_not_run_again(script: Script, ended: bool, state: str) -> None:
    world = World(make_experiment(max_trials=1, parallel_trials=1), lambda request: script)
    interruptions = _InterruptedWhileAway(world)
    engine = Engine(world.experiment, world.suggester, world.launcher, world.store, world.clock, interruptions=interruptions)
    assert engine.run() is None
    assert world.states == [state]
    assert world.launcher.running == ()
    again = World(world.experiment, scored, store=MemoryStore(world.store.events))
    assert again.run() is not None
    assert len(again.launcher.started) == (0 if ended else 1)
    (trial,) = fold(again.store.events, world.experiment.objective).trials.values()
    assert trial.value(world.experiment.objective) == (0.4 if ended else 0.01)
