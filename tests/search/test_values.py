"""Whatever the space and the algorithm: a suggested value lies in its feasible space, on its step, in Katib's text form."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.suggester_contract import drive, points_of
from factories import make_experiment
from katuna.manifest.experiment import Parameter
from katuna.search.space import Axis
from katuna.search.suggest import suggester_for

DISTRIBUTIONS = ("uniform", "logUniform", "normal", "logNormal")
REQUIRED = {
    "hyperband": {"r_l": "9", "resource_name": "a"},
    "pbt": {"n_population": "5", "truncation_threshold": "0.3"},
    "nsgaii": {"population_size": "3"},
    "multivariate-tpe": {"n_startup_trials": "3"},
}
CHEAP = ("random", "tpe", "multivariate-tpe", "cmaes", "sobol", "hyperband", "pbt", "nsgaii", "qmc")


@st.composite
def numbers(draw: st.DrawFn, name: str) -> Parameter:
    kind = draw(st.sampled_from(["double", "int"]))
    distribution = draw(st.sampled_from(DISTRIBUTIONS))
    positive = distribution.startswith("log")
    if kind == "int":
        low = draw(st.integers(1 if positive else -60, 60))
        step = draw(st.sampled_from(["", "1", "3", "10"]))
        return Parameter(name, "int", str(low), str(low + draw(st.integers(1, 300))), step, distribution=distribution)  # type: ignore[arg-type]
    low = Decimal(draw(st.integers(1 if positive else -500, 500))) / 1000
    high = low + Decimal(draw(st.integers(1, 5000))) / 1000
    step = draw(st.sampled_from(["", "0.001", "0.3", "1e-2"]))
    return Parameter(name, "double", str(low), str(high), step, distribution=distribution)  # type: ignore[arg-type]


spaces = st.tuples(
    numbers("a"),
    numbers("b"),
    st.just(Parameter("c", "categorical", choices=("7", "+8", "1e-05"))),
    st.just(Parameter("d", "discrete", choices=("0.1", "16", "1e-3"))),
)

WHOLE = re.compile(r"-?\d+")


def well_formed(parameter: Parameter, text: str) -> bool:
    """As Python's str writes it: a whole number without a point, a double as its shortest text."""
    if parameter.type == "int":
        return bool(WHOLE.fullmatch(text))
    return parameter.type != "double" or text == repr(float(text))


@pytest.mark.parametrize("algorithm", CHEAP)
@given(space=spaces, seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_value_lies_in_its_space_on_its_step_in_katibs_form(
    algorithm: str, space: tuple[Parameter, ...], seed: int
) -> None:
    experiment = make_experiment(algorithm=algorithm, parameters=space, settings=REQUIRED.get(algorithm, {}))
    points = points_of(drive(suggester_for(experiment, seed), 9, 2))
    assert len(points) >= 7
    for point in points:
        for parameter in space:
            assert parameter.contains(point[parameter.name]), (parameter, point)
            assert well_formed(parameter, point[parameter.name]), (parameter, point)


@pytest.mark.parametrize("algorithm", ["grid", "bruteforce"])
@given(low=st.integers(-20, 20), size=st.integers(1, 6), step=st.sampled_from(["0.1", "0.3", "1e-05"]), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_a_grid_has_each_value_once(algorithm: str, low: int, size: int, step: str, seed: int) -> None:
    low_text, high = str(low), str(low + (size - 1) * Decimal(step))
    space = (Parameter("a", "double", low_text, high, step), Parameter("c", "discrete", choices=("1", "2")))
    points = points_of(drive(suggester_for(make_experiment(algorithm=algorithm, parameters=space), seed), 99))
    texts = [repr(float(low + index * Decimal(step))) for index in range(size)]
    assert sorted((point["a"], point["c"]) for point in points) == sorted((text, c) for text in texts for c in "12")


@given(parameter=numbers("a"), places=st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_the_unit_interval_covers_a_parameter_and_leads_back(parameter: Parameter, places: list[float]) -> None:
    axis = Axis(parameter)
    for place in places:
        text = axis.at(place)
        assert parameter.contains(text)
        assert 0 <= axis.quantile(text) <= 1
        assert abs(float(axis.at(axis.quantile(text))) - float(text)) <= 1e-6 * max(1.0, abs(float(text)))
    ordered = [float(axis.at(place)) for place in sorted(places)]
    assert ordered == sorted(ordered)


@given(low=st.integers(1, 50), span=st.integers(0, 40), kind=st.sampled_from(["uniform", "logUniform"]))
@settings(max_examples=30, deadline=None)
def test_every_whole_number_is_reached(low: int, span: int, kind: str) -> None:
    axis = Axis(Parameter("n", "int", str(low), str(low + span), distribution=kind))  # type: ignore[arg-type]
    assert {int(axis.at(place / 5000)) for place in range(5001)} == set(range(low, low + span + 1))


DEEP = Parameter("a", "double", "1e-14", "1e-3", distribution="logUniform")


@pytest.mark.parametrize("algorithm", ["random", "tpe", "multivariate-tpe", "sobol", "cmaes", "qmc"])
def test_a_log_scale_reaches_its_lower_end_however_small(algorithm: str) -> None:
    """Of 11 decades 4 lie below 1e-10. A known point there is learnt like any other."""
    experiment = make_experiment(algorithm=algorithm, parameters=(DEEP, Parameter("b", "double", "0", "1")))
    suggester = suggester_for(experiment, 1)
    suggester.learn({"a": "1e-12", "b": "0.5"}, 1.0)
    points = points_of(drive(suggester, 40))
    assert any(float(point["a"]) < 1e-10 for point in points)
    assert Axis(DEEP).quantile("1e-12") == pytest.approx(2 / 11)


@pytest.mark.parametrize("algorithm", ["grid", "bruteforce"])
def test_a_repeated_choice_is_one_value(algorithm: str) -> None:
    space = (Parameter("a", "discrete", choices=("1", "1", "2")), Parameter("c", "discrete", choices=("4", "4")))
    experiment = make_experiment(algorithm=algorithm, parameters=space)
    assert experiment.space_size == 2
    points = points_of(drive(suggester_for(experiment, 1), 20))
    assert sorted((point["a"], point["c"]) for point in points) == [("1", "4"), ("2", "4")]


def test_the_unit_interval_gives_repeated_choices_no_more_room() -> None:
    axis = Axis(Parameter("a", "categorical", choices=("x", "x", "y")))
    assert [axis.at(place) for place in (0.2, 0.45, 0.55, 0.9)] == ["x", "x", "y", "y"]
    assert [axis.quantile(text) for text in "xy"] == [0.25, 0.75]


@pytest.mark.parametrize("kind", ["int", "double"])
def test_a_grid_from_0_may_be_called_logarithmic(kind: str) -> None:
    """A grid ignores the distribution; the plot of it has a plain scale."""
    parameter = Parameter("a", kind, "0", "4", "1", distribution="logUniform")  # type: ignore[arg-type]
    points = points_of(drive(suggester_for(make_experiment(algorithm="grid", parameters=(parameter,)), 1), 20))
    assert sorted(float(point["a"]) for point in points) == [0, 1, 2, 3, 4]
    assert Axis(parameter).plain_distribution()._contains(0)
