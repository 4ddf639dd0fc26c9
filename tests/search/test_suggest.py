from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.suggester_contract import TRIALS, SuggesterContract, ended
from factories import LR, OPTIMIZER, WIDTH, make_experiment
from katuna.contracts import NoSuggestion, Suggester
from katuna.search.space import Axis
from katuna.search.suggest import SUGGESTERS, suggester_for
from katuna.spec.model import Parameter


class TestRandom(SuggesterContract):
    experiment = make_experiment(algorithm="random")

    def make_suggester(self, seed: int = 7) -> Suggester:
        return suggester_for(self.experiment, seed)


class TestTpe(SuggesterContract):
    experiment = make_experiment(algorithm="tpe")

    def make_suggester(self, seed: int = 7) -> Suggester:
        return suggester_for(self.experiment, seed)

    def test_results_steer_it(self) -> None:
        """After twenty trials of which `adam` was always better, it asks for little else; random does not care."""
        tpe = self.drive(self.make_suggester(), 0, 40)[20:]
        indifferent = self.drive(suggester_for(make_experiment(algorithm="random"), 7), 0, 40)[20:]
        assert Counter(point["optimizer"] for point in tpe)["adam"] > Counter(point["optimizer"] for point in indifferent)["adam"]


class TestTpeOnOddAxes(SuggesterContract):
    """Steps on a log scale and normal quantiles: what Optuna draws is not what the text says, and a resume must not notice."""

    experiment = make_experiment(
        algorithm="tpe",
        parameters=(
            Parameter("lr", "double", "0.01", "0.9", "0.03", distribution="logUniform"),
            Parameter("drop", "double", "0.1", "0.7", "0.1"),
            Parameter("noise", "double", "-1", "3", distribution="normal"),
            Parameter("decay", "double", "1e-6", "1e-2", distribution="logNormal"),
            Parameter("depth", "int", "1", "100", "7", distribution="logUniform"),
        ),
    )

    def make_suggester(self, seed: int = 7) -> Suggester:
        return suggester_for(self.experiment, seed)


class TestGrid(SuggesterContract):
    experiment = make_experiment(
        algorithm="grid", parameters=(replace(LR, step="0.02", minimum="0.01", distribution="uniform"), WIDTH, OPTIMIZER)
    )

    def make_suggester(self, seed: int = 7) -> Suggester:
        return suggester_for(self.experiment, seed)

    def test_every_combination_once_and_then_exhausted(self) -> None:
        suggester = self.make_suggester()
        size = int(self.experiment.space_size)
        points = [tuple(point.values()) for point in self.drive(suggester, 0, size)]
        assert len(set(points)) == size == 5 * 8 * 2
        assert suggester.ask(size) is NoSuggestion.EXHAUSTED
        assert suggester.ask(size + 9) is NoSuggestion.EXHAUSTED

    def test_a_grid_too_big_to_list_is_searched_all_the_same(self) -> None:
        parameters = tuple(Parameter(f"p{index}", "int", "0", "999999") for index in range(4))
        suggester = suggester_for(make_experiment(algorithm="grid", parameters=parameters), 3)
        points = {tuple(suggester.ask(number).assignments.values()) for number in range(50)}  # type: ignore[union-attr]
        assert len(points) == 50


def test_parallel_tpe_does_not_ask_for_one_point_twice() -> None:
    """Katib's tpe gives all trials of a batch the same point (katib.md 3.2.2); the constant liar keeps ours apart."""
    suggester = suggester_for(make_experiment(algorithm="tpe"), 7)
    for number in range(TRIALS):
        suggestion = suggester.ask(number)
        assert not isinstance(suggestion, NoSuggestion)
        point = suggestion.assignments
        suggester.tell(ended(number, point))
    batch = [suggester.ask(number) for number in range(TRIALS, TRIALS + 4)]
    assert len({tuple(each.assignments.values()) for each in batch}) == 4  # type: ignore[union-attr]


steps = st.sampled_from(["", "0.1", "0.3", "1", "2.5", "1e-3"])


@given(
    low=st.floats(0.001, 10),
    span=st.floats(0.01, 100),
    step=steps,
    kind=st.sampled_from(["uniform", "logUniform", "normal", "logNormal"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_double_stays_in_its_space(low: float, span: float, step: str, kind: str, seed: int) -> None:
    parameter = Parameter("x", "double", repr(low), repr(low + span), step, distribution=kind)  # type: ignore[arg-type]
    suggester = suggester_for(make_experiment(parameters=(parameter,)), seed)
    axis = Axis(parameter)
    for number in range(3):
        suggestion = suggester.ask(number)
        assert not isinstance(suggestion, NoSuggestion)
        point = suggestion.assignments
        assert parameter.contains(point["x"])
        assert axis.text(axis.value(point["x"])) == point["x"] or kind.endswith("ormal")


@given(low=st.integers(-50, 50), span=st.integers(0, 200), step=st.integers(1, 30), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_int_stays_in_its_space_on_its_step_without_a_point(low: int, span: int, step: int, seed: int) -> None:
    parameter = Parameter("n", "int", str(low), str(low + span), str(step))
    suggester = suggester_for(make_experiment(parameters=(parameter,)), seed)
    for number in range(3):
        suggestion = suggester.ask(number)
        assert not isinstance(suggestion, NoSuggestion)
        point = suggestion.assignments
        value = int(point["n"])
        assert low <= value <= low + span
        assert (value - low) % step == 0


def test_texts_are_pythons() -> None:
    """As Katib's services write them (katib.md 3.2): `1e-05`, integers without a point; and no binary noise on a grid."""
    assert Axis(LR).text(1e-4) == "0.0001"
    assert Axis(replace(LR, minimum="1e-6")).text(1e-5) == "1e-05"
    assert Axis(WIDTH).text(16) == "16"
    third = Parameter("x", "double", "0.1", "0.7", "0.1")
    assert [third.on_grid(index) for index in range(int(third.size))] == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"]


def test_size_counts_values() -> None:
    assert WIDTH.size == 8
    assert LR.size == math.inf
    assert OPTIMIZER.size == 2
    assert make_experiment(parameters=(WIDTH, OPTIMIZER)).space_size == 16


def test_registry_names_what_the_spec_lists() -> None:
    algorithms = pytest.importorskip("katuna.spec.algorithms")
    assert set(SUGGESTERS) == set(algorithms.ALGORITHMS)
