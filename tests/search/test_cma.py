from __future__ import annotations

import math

import pytest

from contracts.suggester_contract import drive, ended, points_of
from factories import make_experiment, make_objective, make_trial
from katuna.manifest.experiment import ObjectiveType, Parameter
from katuna.search.cma import CmaSuggester
from katuna.search.contracts import Suggestion
from katuna.search.trials import Assignments, TrialState

X = Parameter("x", "double", "-2", "6")
Y = Parameter("y", "double", "1e-5", "1", distribution="logUniform")
Z = Parameter("z", "categorical", choices=("1", "2"))


def make(direction: ObjectiveType = ObjectiveType.MINIMIZE, seed: int = 3, **settings: str) -> CmaSuggester:
    experiment = make_experiment(
        algorithm="cmaes", parameters=(X, Y, Z), settings=settings, objective=make_objective(type=direction)
    )
    return CmaSuggester(experiment, seed)


def distance(point: Assignments) -> float:
    """From x = 3, y = 1e-3, on their own scales."""
    return ((float(point["x"]) - 3) / 8) ** 2 + ((math.log10(float(point["y"])) + 3) / 5) ** 2


def search(suggester: CmaSuggester, sign: float, trials: int) -> list[Assignments]:
    points = []
    for number in range(trials):
        suggestion = suggester.ask(number)
        assert isinstance(suggestion, Suggestion)
        points.append(suggestion.assignments)
        suggester.tell(ended(number, suggestion.assignments, sign * distance(suggestion.assignments)))
    return points


@pytest.mark.parametrize("direction", list(ObjectiveType))
def test_it_closes_in_on_the_optimum_in_both_directions(direction: ObjectiveType) -> None:
    points = search(make(direction), 1 if direction is ObjectiveType.MINIMIZE else -1, 120)
    early, late = (sum(map(distance, part)) / 24 for part in (points[:24], points[-24:]))
    assert late < early / 20
    assert {point["z"] for point in points} == {"1", "2"}


@pytest.mark.parametrize("strategy", ["ipop", "bipop"])
def test_a_restart_strategy_begins_anew_once_it_has_converged(strategy: str) -> None:
    """Alone it stays at the optimum; begun anew, it looks at the whole range again."""
    farthest = {}
    for name in ("none", strategy):
        late = search(make(restart_strategy=name), 1, 900)[250:]
        farthest[name] = max(abs(float(point["x"]) - 3) for point in late)
    assert farthest["none"] < 0.1
    assert farthest[strategy] > 2


def test_sigma_is_the_first_generations_spread() -> None:
    spans = []
    for settings in ({"sigma": "0.01"}, {}, {"sigma0": "0.4"}):
        xs = [float(point["x"]) for point in points_of(drive(make(**settings), 6, 6))]
        spans.append(max(xs) - min(xs))
    assert spans[0] < 0.5 < spans[1] < spans[2]


def test_settings_of_optunas_sampler_reach_it() -> None:
    base = points_of(drive(make(), 40))
    for settings in ({"popsize": "12"}, {"use_separable_cma": "true"}, {"lr_adapt": "true"}, {"n_startup_trials": "5"}):
        assert points_of(drive(make(**settings), 40)) != base


def test_known_results_move_the_first_mean() -> None:
    suggester = make(sigma="0.0001")
    suggester.learn({"x": "5.5", "y": "0.1", "z": "1"}, 1.0)
    suggester.learn({"x": "-1.5", "y": "0.1", "z": "1"}, 2.0)
    first = suggester.ask(0)
    assert isinstance(first, Suggestion)
    assert abs(float(first.assignments["x"]) - 5.5) < 0.5


def test_failed_trials_only_delay_a_generation() -> None:
    """Every other trial fails: the same points come, as the mean stays where it is until a population has values."""
    suggester = make()
    xs = []
    for number in range(80):
        suggestion = suggester.ask(number)
        assert isinstance(suggestion, Suggestion)
        point = suggestion.assignments
        xs.append(float(point["x"]))
        failed = make_trial(number, state=TrialState.FAILED, assignments=point)
        suggester.tell(failed if number % 2 else ended(number, point, distance(point)))
    assert sum(abs(x - 3) for x in xs[-20:]) < sum(abs(x - 3) for x in xs[:20]) / 2


@pytest.mark.parametrize(("sigma", "taken"), [("1e-300", {"sigma0": "1e-9"}), ("1e300", {"sigma0": "1"})])
def test_a_sigma_out_of_all_proportion_is_taken_as_the_nearest_that_searches(sigma: str, taken: dict[str, str]) -> None:
    assert points_of(drive(make(sigma=sigma), 40)) == points_of(drive(make(**taken), 40))


@pytest.mark.parametrize("sigma", ["1e-9", "1"])
def test_the_least_and_the_greatest_sigma_search(sigma: str) -> None:
    points = points_of(drive(make(sigma0=sigma), 200))
    assert len({point["x"] for point in points}) > 30
    assert all(X.contains(point["x"]) and Y.contains(point["y"]) for point in points)
