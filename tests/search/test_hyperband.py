from __future__ import annotations

import math

import pytest

from contracts.suggester_contract import drive, ended, points_of
from factories import make_experiment, make_objective
from katuna.manifest.experiment import ObjectiveType, Parameter
from katuna.search.contracts import NoSuggestion, Suggestion
from katuna.search.hyperband import resource_text, schedule
from katuna.search.suggest import suggester_for

X = Parameter("x", "double", "0", "1")
EPOCHS = Parameter("epochs", "int", "1", "81")
SETTINGS = {"r_l": "81", "resource_name": "epochs", "eta": "3"}


def test_the_brackets_are_the_published_ones() -> None:
    """Table 1 of Li et al., JMLR 18 (2018): R = 81, eta = 3, as (trials, resource) of each rung."""
    brackets = [[(rung.trials, round(rung.resource)) for rung in schedule(81, 3) if rung.bracket == s] for s in (4, 3, 2, 1, 0)]
    assert brackets == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]


@pytest.mark.parametrize(("most", "eta"), [(9, 3), (64, 2), (243, 3), (100, 4), (10, 2.5), (1, 3)])
def test_any_schedule_follows_the_formula(most: float, eta: float) -> None:
    rungs = schedule(most, eta)
    deepest = max(s for s in range(20) if eta**s <= most)
    assert [rung.bracket for rung in rungs] == [s for s in range(deepest, -1, -1) for _ in range(s + 1)]
    assert [rung.first for rung in rungs] == [sum(each.trials for each in rungs[:index]) for index in range(len(rungs))]
    for rung in rungs:
        width = math.ceil((deepest + 1) * eta**rung.bracket / (rung.bracket + 1))
        depth = 0 if rung.above is None else round(math.log(rung.resource / most, eta)) + rung.bracket
        assert rung.trials == math.floor(width / eta**depth)
        assert rung.resource == pytest.approx(most * eta ** (depth - rung.bracket))


@pytest.mark.parametrize("direction", list(ObjectiveType))
def test_the_best_of_a_rung_go_on_with_more_and_failures_rank_last(direction: ObjectiveType) -> None:
    experiment = make_experiment(
        algorithm="hyperband", parameters=(X, EPOCHS), settings=SETTINGS | {"r_l": "9"}, objective=make_objective(type=direction)
    )
    suggester = suggester_for(experiment, 1)
    first = [suggester.ask(number) for number in range(9)]
    assert suggester.ask(9) is NoSuggestion.WAIT
    points = [dict(each.assignments) for each in first if isinstance(each, Suggestion)]
    assert {point["epochs"] for point in points} == {"1"}
    for number, point in enumerate(points):
        assert suggester.ask(9) is NoSuggestion.WAIT
        suggester.tell(ended(number, point, None if number == 4 else float(number)))
    best = [0, 1, 2] if direction is ObjectiveType.MINIMIZE else [8, 7, 6]
    for place, number in enumerate(best):
        promoted = suggester.ask(9 + place)
        assert isinstance(promoted, Suggestion)
        assert promoted.assignments == points[number] | {"epochs": "3"}
    assert suggester.ask(12) is NoSuggestion.WAIT


def test_it_ends_after_the_last_bracket() -> None:
    experiment = make_experiment(algorithm="hyperband", parameters=(X, EPOCHS), settings=SETTINGS)
    suggester = suggester_for(experiment, 1)
    points = points_of(drive(suggester, 1000, 7))
    assert len(points) == sum(rung.trials for rung in schedule(81, 3))
    assert suggester.ask(len(points)) is NoSuggestion.EXHAUSTED


def test_the_resource_keeps_to_its_space() -> None:
    assert resource_text(EPOCHS, 1.97) == "1"
    assert resource_text(EPOCHS, 100) == "81"
    assert resource_text(Parameter("share", "double", "0.1", "1"), 0.25) == "0.25"
    assert resource_text(Parameter("epochs", "discrete", choices=("2", "8", "32")), 9) == "8"
