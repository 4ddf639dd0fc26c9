from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from contracts.suggester_contract import ended
from factories import make_experiment, make_objective, make_trial
from katuna.manifest.experiment import ObjectiveType, Parameter
from katuna.search.contracts import PARENT_LABEL, NoSuggestion, Suggestion
from katuna.search.pbt import GENERATION_LABEL, PbtSuggester, Place, perturbed, quantile
from katuna.search.trials import TrialState, trial_name

LR = Parameter("lr", "double", "0.1", "2", "0.1")
SIZE = Parameter("size", "int", "1", "100")
KIND = Parameter("kind", "categorical", choices=("a", "b", "c"))
SETTINGS = {"n_population": "8", "truncation_threshold": "0.25", "suggestion_trial_dir": "/checkpoints"}
SEED = 5


def make(direction: ObjectiveType = ObjectiveType.MAXIMIZE, **settings: str) -> PbtSuggester:
    experiment = make_experiment(
        algorithm="pbt", parameters=(LR, SIZE, KIND), settings=SETTINGS | settings, objective=make_objective(type=direction)
    )
    return PbtSuggester(experiment, SEED)


def a_generation(suggester: PbtSuggester, first: int) -> list[Suggestion]:
    asked = [suggester.ask(number) for number in range(first, first + 8)]
    assert suggester.ask(first + 8) is NoSuggestion.WAIT
    return [each for each in asked if isinstance(each, Suggestion)]


def tell_all(suggester: PbtSuggester, first: int, asked: list[Suggestion]) -> None:
    """The value of a trial is its number."""
    for number, suggestion in enumerate(asked, first):
        suggester.tell(ended(number, suggestion.assignments, float(number)))


@pytest.mark.parametrize("direction", list(ObjectiveType))
def test_the_worst_take_over_what_the_best_have_and_the_others_move_a_little(direction: ObjectiveType) -> None:
    suggester = make(direction)
    first = a_generation(suggester, 0)
    assert {tuple(each.labels.items()) for each in first} == {((GENERATION_LABEL, "0"),)}
    tell_all(suggester, 0, first)
    second = a_generation(suggester, 8)
    # Quantiles 0.25 and 0.75 of 0 to 7 are 1.75 and 5.25.
    worst, best = ((0, 1), (6, 7)) if direction is ObjectiveType.MAXIMIZE else ((6, 7), (0, 1))
    names = {trial_name("digits", SEED, number): number for number in range(8)}
    for place, suggestion in enumerate(second):
        assert suggestion.labels[GENERATION_LABEL] == "1"
        parent = names[suggestion.labels[PARENT_LABEL]]
        if place in worst:
            assert parent in best
            assert suggestion.assignments == first[parent].assignments
        else:
            assert parent == place
            assert is_near(first[parent].assignments, suggestion.assignments)


def is_near(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    lr, size = (float(after[name]) / float(before[name]) for name in ("lr", "size"))
    at_end = after["lr"] in ("0.1", "2.0") or after["size"] in ("1", "100")
    moves = abs(float(after["lr"]) - float(before["lr"])) < 0.8 * abs(float(before["lr"]))
    return at_end or (moves and lr != 1 and size != 1 and after["kind"] != before["kind"])


def test_generations_follow_each_other() -> None:
    suggester = make()
    for generation in range(4):
        asked = a_generation(suggester, generation * 8)
        assert {each.labels[GENERATION_LABEL] for each in asked} == {str(generation)}
        tell_all(suggester, generation * 8, asked)


def test_a_failed_trial_is_replaced_in_its_generation() -> None:
    suggester = make()
    first = a_generation(suggester, 0)
    failed = make_trial(3, state=TrialState.FAILED, assignments=first[3].assignments)
    suggester.tell(failed)
    again = suggester.ask(8)
    assert isinstance(again, Suggestion)
    assert again.labels == first[3].labels
    assert again.assignments != first[3].assignments
    assert suggester.ask(9) is NoSuggestion.WAIT


def test_resample_probability_draws_anew_or_keeps() -> None:
    for share, same in (("0", True), ("1", False)):
        suggester = make(resample_probability=share)
        first = a_generation(suggester, 0)
        tell_all(suggester, 0, first)
        explored = a_generation(suggester, 8)[2:]
        assert all((new.assignments == old.assignments) is same for new, old in zip(explored, first[2:], strict=True))


def test_checkpoints_come_from_a_trial_of_the_generation_before_after_a_resume_too() -> None:
    suggester, again = make(), make()
    first = a_generation(suggester, 0)
    for number, suggestion in enumerate(first):
        again.restore(number, suggestion)
    for each in (suggester, again):
        tell_all(each, 0, first)
    assert [again.ask(number) for number in range(8, 16)] == [suggester.ask(number) for number in range(8, 16)]


def test_perturbing_keeps_to_bounds_steps_and_text_form() -> None:
    draws = random.Random(1)
    lrs = {perturbed(LR, "1.0", draws) for _ in range(50)}
    assert lrs == {"0.8", "1.2"}
    assert {perturbed(LR, "0.1", draws) for _ in range(50)} == {"0.1", "0.2"}
    assert {perturbed(SIZE, "100", draws) for _ in range(50)} == {"80", "100"}
    assert {perturbed(SIZE, "2", draws) for _ in range(50)} == {"1", "3"}
    assert {perturbed(KIND, "a", draws) for _ in range(50)} == {"b", "c"}
    free = Parameter("x", "double", "1e-6", "1")
    assert {perturbed(free, "1e-05", draws) for _ in range(50)} == {repr(1e-5 * 0.8), repr(1e-5 * 1.2)}


def test_quantiles_are_linear_between_neighbours() -> None:
    assert quantile([4, 1, 3, 2], 0.25) == 1.75
    assert quantile([5.0], 0.3) == 5.0
    assert quantile([1, 2], 1.0) == 2
    assert Place(0).parent is None


def test_perturbing_leaves_a_choice_that_the_list_repeats() -> None:
    parameter = Parameter("c", "categorical", choices=("x", "x", "y"))
    assert {perturbed(parameter, "x", random.Random(seed)) for seed in range(8)} == {"y"}
