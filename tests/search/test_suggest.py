from __future__ import annotations

import math
import time
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler

from contracts.suggester_contract import TRIALS, SuggesterContract, drive, ended, points_of
from factories import LR, OPTIMIZER, WIDTH, make_experiment
from katuna.manifest.algorithms import ALGORITHMS
from katuna.manifest.experiment import Parameter
from katuna.search import suggest
from katuna.search.contracts import NoSuggestion, Suggestion
from katuna.search.draws import written_seed
from katuna.search.space import Axis
from katuna.search.suggest import SUGGESTERS, suggester_for


class TestRandom(SuggesterContract):
    experiment = make_experiment(algorithm="random")


class TestTpe(SuggesterContract):
    experiment = make_experiment(algorithm="tpe", settings={"gamma": "0.25", "prior_weight": "2", "n_EI_candidates": "12"})

    def test_results_steer_it(self) -> None:
        """After twenty trials of which `adam` was always better, it asks for little else; random does not care."""
        tpe = points_of(drive(self.make_suggester(), 40))[20:]
        indifferent = points_of(drive(suggester_for(make_experiment(algorithm="random"), 7), 40))[20:]
        assert Counter(point["optimizer"] for point in tpe)["adam"] > Counter(point["optimizer"] for point in indifferent)["adam"]


class TestMultivariateTpe(SuggesterContract):
    experiment = make_experiment(algorithm="multivariate-tpe", settings={"n_startup_trials": "4", "n_ei_candidates": "12"})


ODD = (
    Parameter("lr", "double", "0.01", "0.9", "0.03", distribution="logUniform"),
    Parameter("drop", "double", "0.1", "0.7", "0.1"),
    Parameter("noise", "double", "-1", "3", distribution="normal"),
    Parameter("decay", "double", "1e-6", "1e-2", distribution="logNormal"),
    Parameter("depth", "int", "1", "100", "7", distribution="logUniform"),
)


class TestTpeOnOddAxes(SuggesterContract):
    """Steps on a log scale and normal quantiles: what Optuna draws is not what the text says, and a resume must not notice."""

    experiment = make_experiment(algorithm="tpe", parameters=ODD)


class TestBayesianOptimization(SuggesterContract):
    """Few trials over one parameter: a fit takes a third of a second."""

    experiment = make_experiment(
        algorithm="bayesianoptimization", parameters=(LR,), settings={"n_initial_points": "3", "base_estimator": "RF"}
    )
    trials = 4


class TestCmaEs(SuggesterContract):
    experiment = make_experiment(algorithm="cmaes")
    trials = 30


class TestCmaEsOnOddAxes(SuggesterContract):
    experiment = make_experiment(algorithm="cmaes", parameters=ODD, settings={"restart_strategy": "bipop", "sigma": "0.2"})
    trials = 30


class TestSobol(SuggesterContract):
    experiment = make_experiment(algorithm="sobol")
    seeded = False

    def test_it_begins_at_the_centre_and_fills_the_space(self) -> None:
        parameters = (
            Parameter("x", "double", "0", "1"),
            Parameter("n", "int", "1", "8"),
            Parameter("c", "discrete", choices=tuple("1234")),
        )
        suggester = suggester_for(make_experiment(algorithm="sobol", parameters=parameters), 1)
        points = points_of(drive(suggester, 63))
        assert points[0] == {"x": "0.5", "n": "5", "c": "3"}
        # With the origin that is left out, 64 points of a Sobol sequence have one in each 64th of every axis.
        assert {int(float(point["x"]) * 64) for point in points} == set(range(1, 64))
        assert Counter(point["n"] for point in points) == {str(n): 8 - (n == 1) for n in range(1, 9)}
        assert sorted(Counter(point["c"] for point in points).values()) == [15, 16, 16, 16]


class TestHyperband(SuggesterContract):
    experiment = make_experiment(algorithm="hyperband", settings={"r_l": "64", "resource_name": "width", "eta": "2"})
    trials = 400


class TestPbt(SuggesterContract):
    experiment = make_experiment(
        algorithm="pbt", settings={"n_population": "5", "truncation_threshold": "0.4", "resample_probability": "0.5"}
    )
    trials = 40


class TestNsga2(SuggesterContract):
    experiment = make_experiment(algorithm="nsgaii", parameters=ODD, settings={"population_size": "4"})
    trials = 20


class TestNsga3(SuggesterContract):
    experiment = make_experiment(algorithm="nsgaiii", settings={"population_size": "4"})
    trials = 20


class TestQuasiRandom(SuggesterContract):
    experiment = make_experiment(algorithm="qmc", settings={"scramble": "true", "qmc_type": "halton"})


SMALL = (replace(LR, step="0.02", minimum="0.01", distribution="uniform"), replace(WIDTH, maximum="24"), OPTIMIZER)


class TestBruteForce(SuggesterContract):
    experiment = make_experiment(algorithm="bruteforce", parameters=SMALL)
    trials = 99

    def test_every_combination_once_and_then_exhausted(self) -> None:
        points = [tuple(point.values()) for point in points_of(drive(self.make_suggester(), 99, 2))]
        assert len(set(points)) == len(points) == 5 * 3 * 2


class TestGrid(SuggesterContract):
    experiment = make_experiment(algorithm="grid", parameters=SMALL)
    trials = 99

    def test_every_combination_once_and_then_exhausted(self) -> None:
        suggester = self.make_suggester()
        points = [tuple(point.values()) for point in points_of(drive(suggester, 99))]
        assert len(set(points)) == len(points) == 5 * 3 * 2
        assert suggester.ask(99) is NoSuggestion.EXHAUSTED

    def test_what_is_known_or_tried_out_of_turn_does_not_come_again(self) -> None:
        points = points_of(drive(self.make_suggester(), 30))
        suggester = self.make_suggester()
        suggester.learn(points[20], 1.0)
        suggester.restore(0, Suggestion(points[9]))
        rest = [suggester.ask(number) for number in range(1, 29)]
        asked = [tuple(each.assignments.values()) for each in rest if isinstance(each, Suggestion)]
        assert sorted(asked) == sorted(tuple(point.values()) for place, point in enumerate(points) if place not in (9, 20))
        assert suggester.ask(29) is NoSuggestion.EXHAUSTED

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


def test_a_seed_that_is_ignored_may_be_any_text() -> None:
    texts = {"3": 3, "-5": -5, "1.0": None, "": None}
    assert {text: written_seed(make_experiment(algorithm="sobol", settings={"random_state": text})) for text in texts} == texts
    assert written_seed(make_experiment()) is None


def test_registry_names_what_the_spec_lists() -> None:
    assert set(SUGGESTERS) == {name for name, algorithm in ALGORITHMS.items() if algorithm.here}


@pytest.mark.parametrize(
    ("algorithm", "settings", "arguments"),
    [
        (
            "tpe",
            {"n_EI_candidates": "5", "prior_weight": "0.5", "random_state": "1"},
            {"n_ei_candidates": 5, "prior_weight": 0.5},
        ),
        ("multivariate-tpe", {"n_startup_trials": "0", "n_ei_candidates": "7"}, {"n_startup_trials": 0, "n_ei_candidates": 7}),
        ("bayesianoptimization", {"n_initial_points": "0", "acq_func": "EI"}, {"n_startup_trials": 1}),
        ("gp", {"deterministic_objective": "true"}, {"deterministic_objective": True}),
    ],
)
def test_settings_reach_the_sampler(
    algorithm: str, settings: dict[str, str], arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def sampler(**given: object) -> RandomSampler:
        made.append({name: value for name, value in given.items() if name != "seed"})
        return RandomSampler()

    monkeypatch.setattr(suggest, "sampler_class", lambda short: sampler)
    suggester = suggester_for(make_experiment(algorithm=algorithm, settings=settings), 1)
    suggester.ask(0)
    assert made[-1] == arguments


def test_gamma_is_the_share_that_hyperopt_means(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(suggest, "sampler_class", lambda short: lambda **given: made.append(given) or RandomSampler())
    suggester_for(make_experiment(algorithm="tpe", settings={"gamma": "0.5"}), 1)
    assert [made[-1]["gamma"](results) for results in (4, 16, 100, 10_000)] == [1, 2, 5, 25]


def test_a_search_by_random_keeps_nothing_and_is_restored_at_once() -> None:
    suggester = suggester_for(make_experiment(algorithm="random"), 1)
    points = [suggester.ask(number) for number in range(50)]
    tracemalloc.start()
    for number in range(1000):
        suggester.restore(number, points[number % 50])  # type: ignore[arg-type]
        suggester.tell(ended(number, points[number % 50].assignments))  # type: ignore[union-attr]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 20_000


@pytest.mark.parametrize("algorithm", ["tpe", "cmaes", "grid"])
def test_a_thousand_trials_are_restored_without_the_samplers_work(algorithm: str) -> None:
    """In less time than fifty trials take to be asked for, or, where asking costs nothing, than a second."""
    parameters = (WIDTH, OPTIMIZER, Parameter("layers", "int", "1", "100"))
    drawn = suggester_for(make_experiment(algorithm="random", parameters=parameters), 1)
    points = [drawn.ask(number) for number in range(1000)]
    suggester = suggester_for(make_experiment(algorithm=algorithm, parameters=parameters), 1)
    suggester.ask(0)
    began = time.process_time()
    for number, point in enumerate(points, 1):
        suggester.restore(number, point)  # type: ignore[arg-type]
        suggester.tell(ended(number, point.assignments))  # type: ignore[union-attr]
    assert time.process_time() - began < 1.0
