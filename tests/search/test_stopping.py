"""Rules that stop trials early: Katib's medianstop in its numbers, the asynchronous rules in theirs."""

from __future__ import annotations

import itertools
import statistics
import tracemalloc
from array import array
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.stopper_contract import MAXIMIZE, MINIMIZE, Play, StopperContract, curves
from factories import make_experiment, make_trial
from katuna.errors import InputRefused
from katuna.manifest.experiment import EarlyStopping, Objective
from katuna.manifest.settings import EARLY_STOPPING
from katuna.metric_line import Report
from katuna.search.contracts import Stopper
from katuna.search.stopping import (
    DEFAULTS,
    STOPPING_OVERRIDES,
    Asha,
    MedianStop,
    Percentile,
    stopper_for,
    with_early_stopping,
)
from katuna.search.trials import Asked, Exited, Reported, Search, Started, StopRule, TrialEvent, TrialState


class TestMedianStop(StopperContract):
    def make_stopper(self, objective: Objective) -> Stopper:
        return MedianStop(objective, 3, 4)


class TestAsha(StopperContract):
    def make_stopper(self, objective: Objective) -> Stopper:
        return Asha(objective, 3, 1)


class TestMedian(StopperContract):
    def make_stopper(self, objective: Objective) -> Stopper:
        return Percentile(objective, 50.0, 3, 2)


class TestPercentile(StopperContract):
    def make_stopper(self, objective: Objective) -> Stopper:
        return Percentile(objective, 25.0, 4, 1)


# medianstop: what Katib does, number by number


class Trials:
    """Trials one after another before a stopper; `run` gives the step at which one was stopped, None for its own end."""

    def __init__(self, stopper: Stopper, objective: Objective = MAXIMIZE) -> None:
        self.stopper, self.search = stopper, Search(objective)

    def see(self, event: TrialEvent) -> bool:
        self.search.apply(event)
        return self.stopper.see(event, self.search.trials[event.number])

    def run(self, *values: float | tuple[float, int], code: int = 0) -> int | None:
        number = len(self.search.trials)
        self.see(Asked(0.0, number, "t", MappingProxyType({}), MappingProxyType({}), self.stopper.rules()))
        self.see(Started(0.0, number, 1, {}))
        stopped = None
        for step, value in enumerate(values, 1):
            report = Report("accuracy", repr(value[0]), value[1]) if isinstance(value, tuple) else Report("accuracy", repr(value))
            if self.see(Reported(0.0, number, (report,))):
                assert stopped is None
                stopped = step
        self.see(Exited(0.0, number, code, "Completed"))
        return stopped


def test_the_rule_is_the_mean_of_the_means_and_no_median() -> None:
    trials = Trials(MedianStop(MAXIMIZE, 3, 2))
    for values in ((0.0, 0.2, 9.0), (0.5, 0.7), (0.8, 1.0)):
        assert trials.stopper.rules() == ()
        trials.run(*values)
    (rule,) = trials.stopper.rules()
    assert rule == StopRule("accuracy", str((0.1 + 0.6 + 0.9) / 3), "less", 2)


def test_the_digits_are_katibs() -> None:
    """Recorded in job-medianstop: the rules of its second to tenth trial, from the means 0.95, 0.95, 0.95, 1.15, 0.95, 0.95."""
    trials = Trials(MedianStop(MINIMIZE, 1, 2), MINIMIZE)
    texts = []
    for first, second in ((1.2, 0.7), (1.2, 0.7), (1.2, 0.7), (1.4, 0.9), (1.2, 0.7), (1.2, 0.7)):
        trials.run(first, second)
        texts += [rule.value for rule in trials.stopper.rules()]
    assert texts == ["0.95", "0.95", "0.9499999999999998", "0.9999999999999999", "0.9899999999999999", "0.9833333333333333"]


def test_the_first_reports_are_the_earliest_by_time_and_of_equals_the_first_printed() -> None:
    trials = Trials(MedianStop(MAXIMIZE, 1, 2))
    trials.run((0.9, 30), (0.5, 10), (0.1, 20), (0.7, 20))
    assert trials.stopper.rules()[0].value == str((0.5 + 0.1) / 2)


def test_a_trial_with_fewer_reports_counts_with_those() -> None:
    trials = Trials(MedianStop(MAXIMIZE, 1, 4))
    trials.run(0.25)
    assert trials.stopper.rules()[0].value == "0.25"


def test_it_is_tested_once_at_exactly_the_start_step_with_the_best_so_far() -> None:
    def stopped(*values: float) -> int | None:
        trials = Trials(MedianStop(MAXIMIZE, 1, 3))
        trials.run(0.5, 0.5, 0.5)
        return trials.run(*values)

    assert stopped(0.1, 0.2, 0.3, 0.9) == 3
    assert stopped(0.6, 0.2, 0.3, 0.1) is None, "its best so far was above"
    assert stopped(0.1, 0.2) is None
    assert stopped(0.5, 0.1, 0.1, 0.1, 0.1) is None, "strict, and never again"
    assert stopped(0.1, 0.4999, 0.1, 0.1) == 3


def test_stopped_and_failed_trials_never_enter_the_mean() -> None:
    trials = Trials(MedianStop(MAXIMIZE, 1, 2))
    trials.run(0.5, 0.5)
    before = trials.stopper.rules()
    trials.run(0.9, 0.9, code=1)
    assert trials.stopper.rules() == before
    whole = Play(MedianStop(MAXIMIZE, 1, 2), MAXIMIZE, [[0.5, 0.5], [0.1, 0.1], [0.1, 0.2]])
    assert whole.decisions == [(1, 2), (2, 2)]
    assert whole.stopper.rules() == before


def test_a_trial_keeps_the_rule_of_when_it_was_asked_for() -> None:
    """Katib computes rules with the suggestion and copies them into the trial."""
    whole = Play(MedianStop(MAXIMIZE, 2, 3), MAXIMIZE, [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1]], parallel=3)
    assert whole.decisions == [], "none had succeeded when they were asked for"
    assert [trial.rules for trial in whole.search.trials.values()] == [(), (), ()]
    assert whole.stopper.rules() != ()


def test_all_rules_must_be_met_each_at_its_own_step() -> None:
    rules = (StopRule("accuracy", "0.5", "less", 1), StopRule("loss", "2.0", "greater", 2))
    stopper, search = MedianStop(MAXIMIZE, 3, 4), Search(MAXIMIZE)
    answers = []
    lines = [(0.4, 9.0), (0.9, 1.0), (0.1, 9.0)], [(0.4, 1.0), (0.9, 9.0), (0.1, 9.0)]
    for number, values in enumerate(lines):
        for event in (Asked(0.0, number, "t", {}, {}, rules), Started(0.0, number, 1, {})):
            search.apply(event)
            stopper.see(event, search.trials[number])
        reported = [Reported(0.0, number, (Report("accuracy", repr(a)), Report("loss", repr(b)))) for a, b in values]
        answers.append([stopper.see(event, search.trials[number]) for event in reported])
    assert answers == [[False, False, False], [False, True, False]]


def test_of_a_thousand_finished_trials_medianstop_keeps_two_numbers() -> None:
    stopper = MedianStop(MAXIMIZE, 3, 4)
    Play(stopper, MAXIMIZE, curves(1000, steps=3))
    assert stopper._attempts == {}


# The asynchronous rules


def test_asha_halves_at_its_rungs_alone() -> None:
    """Factor 2 from step 2: rungs 2, 4, 8."""
    trials = Trials(Asha(MAXIMIZE, 2, 2))
    assert trials.run(0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5) is None, "nobody to compare with"
    assert trials.run(0.0, 0.4, 9.0) == 2, "one of two is kept"
    assert trials.run(0.0, 0.6, 0.6, 0.55, 0.0, 0.0, 0.0, 0.45) is None
    assert trials.run(0.0, 0.5, 0.5, 0.5, 0.5) == 4, "two of four are kept at step 2, one of three at step 4"


def test_asha_goes_by_the_best_so_far() -> None:
    trials = Trials(Asha(MAXIMIZE, 2, 2))
    trials.run(0.5, 0.5)
    assert trials.run(0.9, 0.1) is None


def test_median_is_the_true_median_of_the_others_at_that_step() -> None:
    values = [0.1, 0.2, 0.8, 0.9]
    trials = Trials(Percentile(MAXIMIZE, 50, 4, 1))
    for value in values:
        assert trials.run(value) is None
    assert statistics.median(values) == 0.5
    assert trials.run(0.5) is None
    assert trials.run(0.4999) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(-1e6, 1e6), st.sampled_from([10, 25, 50, 90]))
def test_percentile_is_numpys(others: list[float], value: float, percent: int) -> None:
    import numpy as np

    rule = Percentile(MINIMIZE, percent, 1, 2)
    limit = float(np.percentile(others, percent))
    if abs(value - limit) > 1e-6:
        assert rule.is_poor(value, array("d", sorted(others))) == (value > limit)


def test_percentile_waits_for_enough_others_and_for_its_first_step() -> None:
    trials = Trials(Percentile(MAXIMIZE, 50, 2, 3))
    trials.run(0.5, 0.5, 0.5)
    assert trials.run(0.1, 0.1, 0.1) is None, "one other is not enough"
    assert trials.run(0.0, 0.0, 0.0) == 3


def test_each_step_is_tested_early_and_a_few_in_a_hundred_later() -> None:
    rule = Percentile(MAXIMIZE, 50, 3, 4)
    tested = [step for step in range(1, 2049) if rule.tests(step)]
    assert tested[:60] == list(range(4, 64))
    assert all(later - earlier <= later / 30 for earlier, later in itertools.pairwise(tested[60:]))
    assert len(tested) * 8 < 2000


@pytest.mark.parametrize("name", ["asha", "median", "percentile", "medianstop"])
def test_memory_for_a_finished_trial_of_a_hundred_steps(name: str) -> None:
    experiment = make_experiment(early_stopping=EarlyStopping(name))
    stopper = stopper_for(experiment)
    assert stopper is not None
    running = [make_trial(number, state=TrialState.RUNNING) for number in range(150)]
    events = [
        [Started(0.0, trial.number, 1, {}), *[Reported(0.0, trial.number, (Report("accuracy", "0.5"),))] * 100]
        for trial in running
    ]
    tracemalloc.start()
    try:
        for trial, seen in zip(running, events, strict=True):
            for event in seen:
                stopper.see(event, trial)
            stopper.see(Exited(0.0, trial.number, 0, "Completed"), replace(trial, state=TrialState.SUCCEEDED))
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept / len(running) < 1000


# Which rule an Experiment has


def test_an_experiment_without_early_stopping_has_no_stopper() -> None:
    assert stopper_for(make_experiment()) is None


def test_defaults_of_medianstop_are_katibs() -> None:
    stopper = stopper_for(make_experiment(early_stopping=EarlyStopping("medianstop")))
    assert isinstance(stopper, MedianStop)
    assert (stopper._least, stopper._start) == (3, 4)


def test_every_setting_has_a_check_and_a_default_that_passes_it() -> None:
    rules = {**EARLY_STOPPING, **STOPPING_OVERRIDES}
    assert set(rules) == set(DEFAULTS)
    for name, checks in rules.items():
        assert set(checks) == set(DEFAULTS[name])
        for setting, default in DEFAULTS[name].items():
            assert checks[setting](default) == ""
        assert stopper_for(make_experiment(early_stopping=EarlyStopping(name))) is not None


def test_an_override_stands_for_the_files_rule_in_the_manifest_too() -> None:
    experiment = make_experiment(
        early_stopping=EarlyStopping("medianstop"),
        manifest={"kind": "Experiment", "spec": {"earlyStopping": {"algorithmName": "medianstop"}, "maxTrialCount": 4}},
    )
    changed = with_early_stopping(experiment, "asha", {"reduction_factor": "4"})
    assert changed.early_stopping == EarlyStopping("asha", {"reduction_factor": "4"})
    assert changed.manifest["spec"] == {
        "maxTrialCount": 4,
        "earlyStopping": {"algorithmName": "asha", "algorithmSettings": [{"name": "reduction_factor", "value": "4"}]},
    }
    assert experiment.manifest["spec"]["earlyStopping"] == {"algorithmName": "medianstop"}, "the file's own is untouched"
    assert with_early_stopping(experiment, "asha", {}).manifest["spec"]["earlyStopping"] == {"algorithmName": "asha"}
    off = with_early_stopping(experiment, "none", {})
    assert off.early_stopping is None
    assert off.manifest["spec"] == {"maxTrialCount": 4}


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("medianstp", {}, ["'medianstp'", "did you mean medianstop?", "percentile"]),
        ("asha", {"reduction_facto": "3"}, ["'reduction_facto'", "did you mean reduction_factor?"]),
        ("asha", {"reduction_factor": "1"}, ["reduction_factor must be at least 2", "'1'"]),
        ("percentile", {"percentile": "100"}, ["percentile must be", "'100'"]),
        ("none", {"start_step": "1"}, ["'start_step'", "it has none"]),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_value(name: str, given: dict[str, str], said: list[str]) -> None:
    with pytest.raises(InputRefused) as refused:
        with_early_stopping(make_experiment(), name, given)
    for words in said:
        assert words in str(refused.value)
