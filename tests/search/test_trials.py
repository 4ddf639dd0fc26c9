from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import a_life, make_objective, make_trial, opened
from katuna.manifest.experiment import ObjectiveType
from katuna.metric_line import Report
from katuna.search.trials import (
    EARLY_STOPPED,
    NAME_ALPHABET,
    Asked,
    Edited,
    Ended,
    Event,
    Exited,
    Reported,
    Resumed,
    Started,
    Stopping,
    Summary,
    Trial,
    TrialState,
    advance,
    best_trial,
    fold,
    ranking,
    trial_name,
)

OBJECTIVE = make_objective()


def valued(number: int, value: float) -> Trial:
    return make_trial(
        number,
        state=TrialState.SUCCEEDED,
        summaries=MappingProxyType({"accuracy": Summary().add(Report("accuracy", repr(value)))}),
    )


def summary(*values: str | tuple[str, int]) -> Summary:
    whole = Summary()
    for value in values:
        whole = whole.add(Report("accuracy", value) if isinstance(value, str) else Report("accuracy", *value))
    return whole


def test_a_summary_keeps_the_texts_as_they_were_printed() -> None:
    found = summary("0.50", "1e-3", "0.7")
    assert (found.minimum, found.maximum, found.latest, found.count) == ("1e-3", "0.7", "0.7", 3)


def test_latest_is_the_greatest_time_and_of_equals_the_later_report() -> None:
    """katib.md 2.5; a report without a time is older than any with one."""
    assert summary(("1", 20), ("2", 10)).latest == "1"
    assert summary(("1", 20), ("2", 20)).latest == "2"
    assert summary(("1", 20), "2").latest == "1"
    assert summary("1", ("2", 5), "3").latest == "2"


def test_min_and_max_fall_back_to_latest() -> None:
    words = summary("genotype-a")
    assert words.pick("min") == words.pick("max") == words.pick("latest") == "genotype-a"
    assert Summary().pick("min") == "unavailable"


@pytest.mark.parametrize(("strategy", "value"), [("min", 0.1), ("max", 0.9), ("latest", 0.5)])
def test_the_strategy_picks_the_value(strategy: str, value: float) -> None:
    objective = make_objective(strategies={"accuracy": strategy})
    trial = make_trial(state=TrialState.SUCCEEDED, summaries=MappingProxyType({"accuracy": summary("0.9", "0.1", "0.5")}))
    assert trial.value(objective) == value


def test_only_trials_that_came_to_their_own_end_have_a_value() -> None:
    reported = MappingProxyType({"accuracy": summary("0.9")})
    with_value = {state for state in TrialState if make_trial(state=state, summaries=reported).value(OBJECTIVE) is not None}
    assert with_value == {TrialState.SUCCEEDED, TrialState.EARLY_STOPPED}


def test_best_goes_by_the_objective_and_the_first_of_equals() -> None:
    trials = [valued(0, 0.5), valued(1, 0.9), valued(2, 0.9), make_trial(3, state=TrialState.FAILED)]
    best = best_trial(trials, OBJECTIVE)
    assert best is not None
    assert best.number == 1
    assert [trial.number for trial in ranking(trials, make_objective(type=ObjectiveType.MINIMIZE))] == [0, 1, 2]
    assert best_trial([], OBJECTIVE) is None


def test_a_life_from_asked_to_succeeded() -> None:
    search = fold([opened(), *a_life(0, {"lr": "0.1"}, 0.5)], OBJECTIVE)
    trial = search.trials[0]
    assert (trial.state, trial.reason, trial.exit_code) == (TrialState.SUCCEEDED, "Completed", 0)
    assert (trial.created_at, trial.started_at, trial.ended_at) == (0.0, 1.0, 3.0)
    assert search.best == trial


def test_ending_well_without_the_metric_says_which_lines_were_near() -> None:
    asked = advance(None, Asked(0.0, 0, "t", {}), OBJECTIVE)
    started = advance(asked, Started(1.0, 0, 1, {}), OBJECTIVE)
    trial = advance(started, Exited(2.0, 0, 0, "Completed", nearest=("acuracy=0.9",)), OBJECTIVE)
    assert trial.state is TrialState.METRICS_UNAVAILABLE
    assert "'accuracy'" in trial.message
    assert "acuracy=0.9" in trial.message


LATEST = make_objective(strategies={"accuracy": "latest"})


def reported(*texts: str, code: int = 0) -> list[Event]:
    first, second, *_ = a_life(0, {"lr": "0.1"}, 0.5)
    reports = [Reported(2.0, 0, (Report("accuracy", text),)) for text in texts]
    return [opened(), first, second, *reports, Exited(3.0, 0, code, "Completed")]


@pytest.mark.parametrize("wild", ["nan", "NaN", "-inf", "Infinity", "1e999"])
def test_a_diverged_trial_is_not_the_best_where_its_last_report_counts(wild: str) -> None:
    search = fold(reported("0.99", wild), LATEST)
    trial = search.trials[0]
    assert search.best is None
    assert (trial.state, trial.value(LATEST)) == (TrialState.METRICS_UNAVAILABLE, None)
    assert trial.message == f"the training diverged: its last report is {wild} for 'accuracy'"


def test_a_trial_that_came_back_from_nan_has_its_last_value() -> None:
    assert fold(reported("nan", "0.5"), LATEST).trials[0].value(LATEST) == 0.5


def test_where_the_best_report_counts_a_trial_keeps_it() -> None:
    best = fold(reported("0.99", "nan"), OBJECTIVE).best
    assert best is not None
    assert best.value(OBJECTIVE) == 0.99


def test_a_trial_of_nan_alone_diverged() -> None:
    trial = fold(reported("nan", "nan"), OBJECTIVE).trials[0]
    assert (trial.state, trial.message) == (
        TrialState.METRICS_UNAVAILABLE,
        "the training diverged: it reported only nan for 'accuracy'",
    )


def test_a_diverged_trial_that_is_stopped_early_says_so() -> None:
    *before, end = reported("0.99", "nan", code=143)
    trial = fold([*before, Stopping(2.5, 0, EARLY_STOPPED), end], LATEST).trials[0]
    assert (trial.state, trial.value(LATEST)) == (TrialState.EARLY_STOPPED, None)
    assert "diverged" in trial.message


def test_what_is_doubtful_is_a_remark_on_a_trial_that_ended_well() -> None:
    *before, end = reported("0.5")
    assert isinstance(end, Exited)
    trial = fold([*before, replace(end, warnings=("accuracy was read short",))], OBJECTIVE).trials[0]
    assert (trial.state, trial.remark) == (TrialState.SUCCEEDED, "warning: accuracy was read short")


def test_a_final_state_is_never_left() -> None:
    events = a_life(0, {"lr": "0.1"}, 0.5)
    once = fold([opened(), *events], OBJECTIVE).trials[0]
    for late in (Started(9.0, 0, 2, {}), Reported(9.0, 0, (Report("accuracy", "1.0"),)), Exited(9.0, 0, 1, "Error")):
        assert advance(once, late, OBJECTIVE) == once


@pytest.mark.parametrize(
    ("reason", "state"), [(EARLY_STOPPED, TrialState.EARLY_STOPPED), ("ExperimentGoalReached", TrialState.KILLED)]
)
def test_a_trial_that_is_being_stopped_stays_as_it_was_until_it_exits(reason: str, state: TrialState) -> None:
    """By itself or not, and whatever it still reports: its value is the one that was decided on."""
    events = [*a_life(0, {"lr": "0.1"}, 0.5)[:3], Stopping(2.5, 0, reason)]
    late = [Reported(2.6, 0, (Report("accuracy", "0.9"),)), Started(2.7, 0, 2, {}), Stopping(2.8, 0, "another")]
    for code in (0, 1, 143, None):
        trial = fold([opened(), *events, *late, Exited(3.0, 0, code, "x")], OBJECTIVE).trials[0]
        assert (trial.state, trial.reason, trial.attempt, trial.summary("accuracy").latest) == (state, reason, 1, "0.5")


def test_an_attempt_after_a_resume_knows_nothing_of_an_earlier_stop() -> None:
    events = [*a_life(0, {"lr": "0.1"}, 0.5)[:3], Stopping(2.5, 0, EARLY_STOPPED), Resumed(3.0, (0,))]
    trial = fold([opened(), *events, *a_life(0, {"lr": "0.1"}, 0.7)[1:]], OBJECTIVE).trials[0]
    assert (trial.state, trial.value(OBJECTIVE)) == (TrialState.SUCCEEDED, 0.7)


def test_an_edit_takes_up_a_search_that_has_ended() -> None:
    search = fold([opened(), Ended(9.0, True, "r", "m"), Edited(11.0, {"maxTrialCount": 9})], OBJECTIVE)
    assert (search.ended, search.restarted_at, search.completed_at) == (None, 11.0, 9.0)
    assert search.budget == {"maxTrialCount": 9}


def test_an_end_is_kept_and_its_search_is_over() -> None:
    end = Ended(9.0, True, "r", "m")
    assert fold([opened(), end], OBJECTIVE).ended == end


@given(seed=st.integers(0, 2**31), first=st.integers(0, 10**6), second=st.integers(0, 10**6))
def test_names_of_a_seed_never_meet(seed: int, first: int, second: int) -> None:
    one, other = trial_name("digits", seed, first), trial_name("digits", seed, second)
    assert (one == other) == (first == second)
    assert len(one) == len("digits-") + 8
    assert set(one.removeprefix("digits-")) <= set(NAME_ALPHABET)
