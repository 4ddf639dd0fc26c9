from __future__ import annotations

from typing import Any

import pytest

from contracts.suggester_contract import drive, points_of
from factories import LR, OPTIMIZER, WIDTH, make_experiment
from katuna.errors import InputRefused
from katuna.manifest.experiment import Parameter
from katuna.search.choice import NAMES, with_algorithm
from katuna.search.samplers import BEHIND, SAMPLERS, coerced
from katuna.search.suggest import suggester_for

FILE = make_experiment(
    algorithm="tpe", settings={"gamma": "0.3", "random_state": "4"}, manifest={"spec": {"maxTrialCount": 4}}, max_trials=4
)
DISCRETE = (WIDTH, OPTIMIZER)


def test_only_settings_are_added_to_the_files() -> None:
    changed = with_algorithm(FILE, None, {"n_EI_candidates": "5", "gamma": "0.2"})
    assert changed.algorithm == "tpe"
    assert dict(changed.settings) == {"gamma": "0.2", "random_state": "4", "n_EI_candidates": "5"}
    assert changed.manifest["spec"] == {
        "maxTrialCount": 4,
        "algorithm": {
            "algorithmName": "tpe",
            "algorithmSettings": [
                {"name": "gamma", "value": "0.2"},
                {"name": "random_state", "value": "4"},
                {"name": "n_EI_candidates", "value": "5"},
            ],
        },
    }
    assert FILE.manifest["spec"] == {"maxTrialCount": 4}


def test_another_algorithm_drops_the_files_settings() -> None:
    changed = with_algorithm(FILE, "random", {})
    assert (changed.algorithm, dict(changed.settings)) == ("random", {})
    assert changed.manifest["spec"]["algorithm"] == {"algorithmName": "random"}


def test_katibs_names_take_the_samplers_own_parameters_too() -> None:
    plain = with_algorithm(FILE, "tpe", {})
    changed = with_algorithm(FILE, "tpe", {"n_startup_trials": "2", "constant_liar": "False"})
    one, other = (points_of(drive(suggester_for(each, 1), 8)) for each in (plain, changed))
    assert one[:2] == other[:2]
    assert one != other


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("gp", "bayesianoptimization")])
def test_every_name_searches(name: str) -> None:
    settings = {
        "hyperband": {"r_l": "64", "resource_name": "width"},
        "pbt": {"suggestion_trial_dir": "/d", "n_population": "5", "truncation_threshold": "0.2"},
        "nsgaii": {"population_size": "3", "mutation_prob": "0.5"},
    }.get(name, {})
    parameters = (WIDTH, Parameter("depth", "int", "1", "9"), OPTIMIZER)
    changed = with_algorithm(make_experiment(parameters=parameters), name, settings)
    assert len(points_of(drive(suggester_for(changed, 1), 7))) == 7


REFUSED: list[tuple[str | None, dict[str, str], dict[str, Any], str]] = [
    ("tpee", {}, {}, "there is no algorithm 'tpee' here; did you mean tpe? algorithms: random, "),
    ("darts", {}, {}, "there is no algorithm 'darts' here"),
    ("tpe", {"gama": "0.2"}, {}, "algorithm tpe: tpe has no setting 'gama' (did you mean gamma?)"),
    ("tpe", {"gamma": "2"}, {}, "algorithm tpe: gamma must be greater than 0 and less than 1, not '2'"),
    ("gp", {"n_startup_trials": "many"}, {}, "algorithm gp: n_startup_trials must be a whole number, not 'many'"),
    ("gp", {"deterministic_objective": "yes"}, {}, "algorithm gp: deterministic_objective must be true or false, not 'yes'"),
    ("gp", {"seed": "4"}, {}, "algorithm gp has no setting 'seed'; the seed is set by --seed"),
    ("gp", {"independent_sampler": "x"}, {}, "algorithm gp: gp has no setting 'independent_sampler'"),
    ("tpe", {"n_ei_candidates": "0"}, {}, "algorithm tpe: n_ei_candidates must be at least 1, not '0'"),
    ("tpe", {"n_ei_candidates": "-1"}, {}, "algorithm tpe: n_ei_candidates must be at least 1, not '-1'"),
    ("gp", {"n_startup_trials": "-3"}, {}, "algorithm gp: n_startup_trials must be at least 0, not '-3'"),
    ("nsgaiii", {"dividing_parameter": "0"}, {}, "algorithm nsgaiii: dividing_parameter must be at least 1, not '0'"),
    ("cmaes", {"popsize": "1"}, {}, "algorithm cmaes: popsize must be at least 2, not '1'"),
    ("cmaes", {"popsize": "-2"}, {}, "algorithm cmaes: popsize must be at least 2, not '-2'"),
    ("cmaes", {"sigma0": "0"}, {}, "algorithm cmaes: sigma0 must be at least 1e-09 and at most 1, not '0'"),
    ("cmaes", {"sigma0": "1e-300"}, {}, "algorithm cmaes: sigma0 must be at least 1e-09 and at most 1, not '1e-300'"),
    ("cmaes", {"sigma0": "1e9"}, {}, "algorithm cmaes: sigma0 must be at least 1e-09 and at most 1, not '1e9'"),
    (
        "qmc",
        {"qmc_type": "foo"},
        {},
        "algorithm qmc cannot search this space with these settings: ValueError: The `qmc_type='foo'` is invalid",
    ),
    ("nsgaii", {"population_size": "1"}, {}, "algorithm nsgaii: population_size must be at least 2, not '1'"),
    ("sobol", {"scramble": "true"}, {}, "algorithm sobol: sobol has no setting 'scramble' (it has none)"),
    ("hyperband", {"r_l": "9"}, {}, "algorithm hyperband: hyperband needs the setting resource_name"),
    ("hyperband", {"r_l": "9", "resource_name": "widht"}, {}, "did you mean width?"),
    ("cmaes", {}, {"parameters": DISCRETE}, "algorithm cmaes: cmaes needs two int or double parameters or more, not 1"),
    ("grid", {}, {}, "algorithm grid: grid needs a step for a double"),
    ("grid", {}, {"parameters": DISCRETE, "manifest": {"spec": {"maxTrialCount": 17}}}, "17 is more than the 16 combinations"),
    ("bruteforce", {}, {"parameters": (LR, WIDTH)}, "algorithm bruteforce: a step is needed for every double: lr"),
]


@pytest.mark.parametrize(("algorithm", "settings", "changes", "message"), REFUSED)
def test_what_cannot_be_is_refused_by_name(
    algorithm: str | None, settings: dict[str, str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputRefused) as refused:
        with_algorithm(make_experiment(**changes), algorithm, settings)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [("3", "int", 3), ("none", "int | None", None), ("0.5", "float | None", 0.5), ("TRUE", "bool", True), ("a", "str", "a")],
)
def test_texts_become_what_the_annotation_says(text: str, annotation: str, value: object) -> None:
    assert coerced(text, annotation) == value
    assert type(coerced(text, annotation)) is type(value)


@pytest.mark.parametrize(("text", "annotation"), [("nan", "float"), ("1.5", "int"), ("1", "bool"), ("none", "int")])
def test_other_texts_do_not(text: str, annotation: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        coerced(text, annotation)


@pytest.mark.parametrize("algorithm", ["tpe", "multivariate-tpe", "bayesianoptimization", "gp", "nsgaiii", "qmc", "cmaes"])
def test_settings_that_fail_trials_later_are_refused_at_once(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the sampler: its trial after those at random is asked for before the search begins."""
    space = make_experiment(parameters=(WIDTH, Parameter("depth", "int", "1", "9")))
    setting = {"nsgaiii": {"dividing_parameter": "0"}, "cmaes": {"popsize": "1"}, "qmc": {"scramble": "true"}}.get(algorithm, {})
    settings = setting or ({"n_startup_trials": "1000"} if algorithm != "bayesianoptimization" else {"n_initial_points": "1000"})
    monkeypatch.setattr("katuna.search.choice.RANGES", {})
    if algorithm not in ("nsgaiii", "cmaes"):
        with_algorithm(space, algorithm, settings)
        raises = f"optuna.samplers.{SAMPLERS[BEHIND.get(algorithm, algorithm)].name}"
        monkeypatch.setattr(f"{raises}.sample_relative", _fail_once_there_is_a_result)
    with pytest.raises(InputRefused, match=f"algorithm {algorithm} cannot search this space with these settings: "):
        with_algorithm(space, algorithm, settings)


def _fail_once_there_is_a_result(self: object, study: Any, *rest: object) -> dict[str, Any]:
    if len(study.get_trials(deepcopy=False)) > 5:
        raise IndexError("out of bounds")
    return {}
