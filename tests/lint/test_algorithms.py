"""Settings and spaces of every algorithm, against what Katib's services take (katib.md 3.2, 13)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from katuna.errors import EVERYWHERE, KATIB, KATUNA
from katuna.lint.experiment_rules import parameter_of
from katuna.manifest.algorithms import ALGORITHMS, HERE
from katuna.manifest.diagnostic import Remark, path_text

LOG = {"min": "0.001", "max": "0.1", "distribution": "logUniform"}
EVEN = {"min": "0.25", "max": "1", "step": "0.25", "distribution": "uniform"}
SPACES: dict[str, dict[str, dict[str, str]]] = {
    "bayesianoptimization": {"a": LOG, "b": LOG},
    "grid": {"a": EVEN, "b": EVEN},
    "hyperband": {"a": {"min": "0", "max": "1"}, "b": {"min": "1", "max": "9"}},
    "multivariate-tpe": {"a": LOG, "b": EVEN},
}
REQUIRED = {
    "hyperband": {"r_l": "9", "resource_name": "b"},
    "pbt": {"suggestion_trial_dir": "/d", "n_population": "5", "truncation_threshold": "0.25"},
}


def parameter(name: str, space: dict[str, Any], kind: str = "double") -> dict[str, Any]:
    return {"name": name, "parameterType": kind, "feasibleSpace": {"distribution": "uniform", **space}}


def spec_of(algorithm: str, settings: dict[str, str], **changes: Any) -> dict[str, Any]:
    """A good Experiment's spec, with changes: parameters `a` and `b` by space, the rest as in the file."""
    spaces: dict[str, Any] = {"a": EVEN, "b": EVEN, **SPACES.get(algorithm, {})}
    parameters = [parameter(name, changes.pop(name, space)) for name, space in spaces.items()]
    written = REQUIRED.get(algorithm, {}) | settings
    return {
        "objective": {"type": "minimize", "objectiveMetricName": "loss"},
        "parallelTrialCount": 9,
        "maxTrialCount": 9,
        "resumePolicy": "FromVolume",
        "parameters": parameters,
        "algorithm": {
            "algorithmName": algorithm,
            "algorithmSettings": [{"name": name, "value": value} for name, value in written.items() if value is not None],
        },
        **changes,
    }


def remarks(spec: dict[str, Any]) -> list[Remark]:
    name = spec["algorithm"]["algorithmName"]
    return list(ALGORITHMS[name].check(name, [parameter_of(each) for each in spec["parameters"]], spec))


@pytest.mark.parametrize("algorithm", HERE)
def test_a_good_file_has_no_findings(algorithm: str) -> None:
    assert remarks(spec_of(algorithm, {})) == []


VALUES: list[tuple[str, str, str, str]] = [
    ("random", "random_state", "0 4294967295 007", "-1 1.0 4294967296 x"),
    ("grid", "random_state", "3", "-1 1.0"),
    ("tpe", "gamma", "0.25 0.999", "0 1 nan x"),
    ("tpe", "prior_weight", "0.1 7", "0 -1"),
    ("tpe", "n_EI_candidates", "1 24", "0 2.0"),
    ("multivariate-tpe", "n_startup_trials", "0 10", "-1 5.0"),
    ("multivariate-tpe", "n_ei_candidates", "1 24", "-1 x"),
    ("cmaes", "random_state", "-5 9999999999", "1.0 x"),
    ("cmaes", "restart_strategy", "none ipop bipop", "None foo IPOP"),
    ("cmaes", "sigma", "0.1 3", "x nan"),
    ("hyperband", "r_l", "9 5.5", "0 -1 x"),
    ("hyperband", "eta", "3 2.5", "1 1.9 0.5 x"),
    ("pbt", "n_population", "5 40", "4 x 5.0"),
    ("pbt", "truncation_threshold", "0 1 0.5", "1.1 -0.1 x"),
    ("darts", "num_epochs", "1", "0 1.5"),
]


def bad(algorithm: str, name: str, value: str) -> bool:
    return any(remark.code == "bad-setting" and remark.level == "error" for remark in remarks(spec_of(algorithm, {name: value})))


@pytest.mark.parametrize(("algorithm", "name", "good", "wrong"), VALUES)
def test_values_of_settings(algorithm: str, name: str, good: str, wrong: str) -> None:
    assert [value for value in good.split() if bad(algorithm, name, value)] == []
    assert [value for value in wrong.split() if not bad(algorithm, name, value)] == []


def test_words_of_bayesianoptimization() -> None:
    words = {
        "base_estimator": ("GP RF ET GBRT", "SVM gp"),
        "acq_func": ("gp_hedge LCB EI PI EIps PIps", "ucb ei"),
        "acq_optimizer": ("auto sampling lbfgs", "adam"),
        "n_initial_points": ("0 1 10", "-1 x"),
    }
    for name, (good, wrong) in words.items():
        assert not any(bad("bayesianoptimization", name, value) for value in good.split())
        assert all(bad("bayesianoptimization", name, value) for value in wrong.split())


def test_a_name_that_is_unknown_is_refused_or_ignored_as_there() -> None:
    for name, algorithm in ALGORITHMS.items():
        found = [remark for remark in remarks(spec_of(name, {"foo": "1"})) if remark.path[-1] == "name"]
        assert [(remark.code, remark.level) for remark in found] == [
            ("setting-ignored", "warning") if algorithm.lenient else ("unknown-setting", "error")
        ]
    assert {name for name, algorithm in ALGORITHMS.items() if algorithm.lenient} == {
        "cmaes",
        "sobol",
        "hyperband",
        "pbt",
        "darts",
    }


def test_required_settings() -> None:
    for name, required in REQUIRED.items():
        for setting in required:
            found = remarks(spec_of(name, {setting: None}))  # type: ignore[dict-item]
            assert "missing-setting" in {remark.code for remark in found}


NORMAL = {"min": "0", "max": "1", "distribution": "normal"}
ONE = {"min": "2", "max": "2"}

# algorithm, settings, changes of the spec -> code, level, engines, path
RULES: list[tuple[str, dict[str, str], dict[str, Any], str, str, tuple[str, ...], str]] = [
    ("random", {}, {"a": ONE}, "never-starts", "error", KATIB, "spec.parameters[0].feasibleSpace"),
    ("tpe", {}, {"a": ONE}, "never-starts", "error", KATIB, "spec.parameters[0].feasibleSpace"),
    ("random", {}, {"b": EVEN | {"min": "0.3"}}, "steps-from-zero", "warning", KATIB, "spec.parameters[1].feasibleSpace.step"),
    ("random", {}, {"b": EVEN | {"max": "1.2"}}, "steps-from-zero", "warning", KATIB, "spec.parameters[1].feasibleSpace.step"),
    ("grid", {}, {"maxTrialCount": None}, "endless-grid", "warning", KATIB, "spec.maxTrialCount"),
    ("grid", {}, {"maxTrialCount": 17}, "grid-too-small", "error", EVERYWHERE, "spec.maxTrialCount"),
    (
        "grid",
        {},
        {"a": {"min": "0", "max": "1"}},
        "grid-needs-step",
        "error",
        EVERYWHERE,
        "spec.parameters[0].feasibleSpace.step",
    ),
    (
        "grid",
        {},
        {"a": EVEN | NORMAL},
        "unsupported-distribution",
        "error",
        EVERYWHERE,
        "spec.parameters[0].feasibleSpace.distribution",
    ),
    ("multivariate-tpe", {}, {"b": NORMAL}, "never-starts", "error", KATIB, "spec.parameters[1].feasibleSpace.distribution"),
    (
        "multivariate-tpe",
        {},
        {"a": LOG | {"step": "0.01"}},
        "step-ignored",
        "warning",
        KATIB,
        "spec.parameters[0].feasibleSpace.step",
    ),
    (
        "bayesianoptimization",
        {},
        {"a": LOG | {"min": "0"}},
        "never-starts",
        "error",
        KATIB,
        "spec.parameters[0].feasibleSpace.min",
    ),
    (
        "bayesianoptimization",
        {"n_initial_points": "0"},
        {},
        "never-starts",
        "error",
        KATIB,
        "spec.algorithm.algorithmSettings[0].value",
    ),
    (
        "bayesianoptimization",
        {"acq_func": "EI"},
        {},
        "setting-not-applied",
        "note",
        KATUNA,
        "spec.algorithm.algorithmSettings[0].value",
    ),
    ("cmaes", {}, {"objective": {"type": "maximize"}}, "cmaes-minimizes", "warning", KATIB, "spec.objective.type"),
    ("cmaes", {}, {"a": LOG}, "distribution-ignored", "warning", KATIB, "spec.parameters[0].feasibleSpace.distribution"),
    ("cmaes", {"random_state": " 1"}, {}, "never-starts", "error", KATIB, "spec.algorithm.algorithmSettings[0].value"),
    ("cmaes", {"random_state": "１"}, {}, "never-starts", "error", KATIB, "spec.algorithm.algorithmSettings[0].value"),
    ("cmaes", {"sigma": " 0.1"}, {}, "never-starts", "error", KATIB, "spec.algorithm.algorithmSettings[0].value"),
    ("cmaes", {}, {"a": ONE}, "too-few-parameters", "error", KATUNA, "spec.parameters"),
    ("cmaes", {}, {"a": {"min": "0", "max": "1", "step": "3"}}, "too-few-parameters", "error", KATUNA, "spec.parameters"),
    ("cmaes", {"sigma": "1e-300"}, {}, "sigma-out-of-range", "warning", KATUNA, "spec.algorithm.algorithmSettings[0].value"),
    ("cmaes", {"sigma": "3"}, {}, "sigma-out-of-range", "warning", KATUNA, "spec.algorithm.algorithmSettings[0].value"),
    ("cmaes", {"sigma": "-1"}, {}, "setting-ignored", "warning", EVERYWHERE, "spec.algorithm.algorithmSettings[0].value"),
    ("sobol", {"random_state": "1.0"}, {}, "setting-ignored", "warning", EVERYWHERE, "spec.algorithm.algorithmSettings[0].name"),
    ("sobol", {}, {"a": NORMAL}, "distribution-ignored", "warning", KATIB, "spec.parameters[0].feasibleSpace.distribution"),
    ("hyperband", {}, {"parallelTrialCount": 8}, "hyperband-parallel", "error", KATIB, "spec.parallelTrialCount"),
    ("hyperband", {}, {"maxTrialCount": 22}, "hyperband-second-rung", "warning", KATIB, "spec.maxTrialCount"),
    (
        "hyperband",
        {"resource_name": "c"},
        {},
        "unknown-resource",
        "error",
        EVERYWHERE,
        "spec.algorithm.algorithmSettings[1].value",
    ),
    (
        "hyperband",
        {"r_l": "10"},
        {},
        "resource-outside-space",
        "warning",
        EVERYWHERE,
        "spec.algorithm.algorithmSettings[0].value",
    ),
    ("hyperband", {"random_state": "1"}, {}, "setting-ignored", "warning", KATIB, "spec.algorithm.algorithmSettings[2].name"),
    ("hyperband", {"eta": "0"}, {}, "setting-ignored", "warning", EVERYWHERE, "spec.algorithm.algorithmSettings[2].value"),
    ("hyperband", {}, {"a": EVEN}, "step-ignored", "warning", KATIB, "spec.parameters[0].feasibleSpace.step"),
    ("pbt", {}, {"a": {"min": "0", "max": "1"}}, "never-starts", "error", KATIB, "spec.parameters[0].feasibleSpace.step"),
    ("pbt", {"resample_probability": "0.2"}, {}, "setting-refused", "error", KATIB, "spec.algorithm.algorithmSettings[3].value"),
    ("pbt", {}, {"resumePolicy": "Never"}, "pbt-needs-volume", "warning", KATIB, "spec.resumePolicy"),
    ("random", {}, {"nasConfig": {"operations": []}}, "never-starts", "error", EVERYWHERE, "spec.nasConfig"),
]


@pytest.mark.parametrize(("algorithm", "settings", "changes", "code", "level", "on", "path"), RULES)
def test_one_finding_for_one_fault(
    algorithm: str, settings: dict[str, str], changes: dict[str, Any], code: str, level: str, on: tuple[str, ...], path: str
) -> None:
    found = remarks(spec_of(algorithm, settings, **changes))
    assert [(each.code, each.level, each.on, path_text(each.path)) for each in found] == [(code, level, on, path)]


def test_an_acquisition_that_needs_times_stalls_on_katib_and_is_not_applied_here() -> None:
    found = remarks(spec_of("bayesianoptimization", {"acq_func": "EIps"}))
    assert [(each.code, each.on) for each in found] == [("stalls", KATIB), ("setting-not-applied", KATUNA)]


def test_cmaes_needs_two_numbers() -> None:
    spec = spec_of("cmaes", {}, parameters=[parameter("a", EVEN), parameter("b", {"list": ["x", "y"]}, "categorical")])
    assert [(each.code, each.on) for each in remarks(spec)] == [("too-few-parameters", EVERYWHERE)]


OPERATION = {"operationType": "convolution", "parameters": [parameter("size", {"list": ["3", "5"]}, "categorical")]}
GRAPH = {"numLayers": 4, "inputSizes": [8, 8, 1], "outputSizes": [10]}


def nas(algorithm: str, **changes: Any) -> Iterator[tuple[str, str]]:
    config = {"graphConfig": GRAPH, "operations": [OPERATION], **changes}
    spec = spec_of(algorithm, {}, parameters=[], nasConfig=config)
    return ((each.code, path_text(each.path)) for each in remarks(spec))


@pytest.mark.parametrize("algorithm", ["enas", "darts"])
def test_a_nas_config_is_accepted(algorithm: str) -> None:
    assert list(nas(algorithm)) == []


def test_enas_needs_its_graph() -> None:
    for name in GRAPH:
        rest = {key: value for key, value in GRAPH.items() if key != name}
        assert list(nas("enas", graphConfig=rest)) == [("missing-field", f"spec.nasConfig.graphConfig.{name}")]
        assert list(nas("darts", graphConfig=rest)) == []


def test_darts_needs_a_nas_config() -> None:
    assert [each.code for each in remarks(spec_of("darts", {}))] == ["never-starts"]


def test_a_grid_with_a_repeated_value_is_smaller_here() -> None:
    """Katib's takes the list as written: 6 points, of which 4 are different."""
    lists = [parameter("a", {"list": ["x", "x", "y"]}, "categorical"), parameter("b", {"list": ["1", "2"]}, "discrete")]
    codes = {
        most: [(each.code, each.level, each.on) for each in remarks(spec_of("grid", {}, parameters=lists, maxTrialCount=most))]
        for most in (4, 5, 6, 7)
    }
    repeats = [("grid-repeats", "warning", KATUNA)]
    assert codes == {4: [], 5: repeats, 6: repeats, 7: [("grid-too-small", "error", EVERYWHERE)]}
