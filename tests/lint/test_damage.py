"""Damaged files give findings, never anything else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import JOB, PYTORCHJOB, changed
from katuna.errors import SpecRefused
from katuna.lint.load import Source, lint, load_experiment
from katuna.manifest.render import render
from katuna.manifest.yamltext import parse

SPEC = "  parallelTrialCount: 2"
FILE = r"""  metricsCollectorSpec:
    collector: {kind: File}
    source: {filter: {metricsFormat: ['([\w-]+)=(\d+)']}, fileSystemPath: {path: /tmp/m, kind: File, format: TEXT}}
  earlyStopping: {algorithmName: medianstop, algorithmSettings: [{name: min_trials_required, value: "2"}]}
"""
PROMETHEUS = "  metricsCollectorSpec: {collector: {kind: PrometheusMetric}, source: {httpGet: {port: 80, path: /m}}}\n"
SCRIPT = 'command: [sh, -c, "cd /app && python train.py --lr=${trialParameters.learningRate}"]'
METRICS = """\
    objectiveMetricName: accuracy
    additionalMetricNames: [loss]
    metricStrategies: [{name: loss, value: min}, {name: accuracy, value: latest}]"""
NAS = """\
  nasConfig:
    graphConfig: {numLayers: 2, inputSizes: [8, 8, 1], outputSizes: [10]}
    operations:
      - operationType: convolution
        parameters: [{name: size, parameterType: categorical, feasibleSpace: {list: ["3", "5"]}}]
"""
TEXTS = [
    JOB,
    PYTORCHJOB,
    changed(JOB, SPEC, FILE + SPEC),
    changed(changed(JOB, SPEC, PROMETHEUS + SPEC), "algorithmName: tpe", "algorithmName: multivariate-tpe"),
    changed(JOB, 'command: [python, train.py, "--lr=${trialParameters.learningRate}"]', SCRIPT),
    changed(changed(JOB, "algorithmName: tpe", "algorithmName: hyperband"), "- name: random_state", "- {name: r_l, value: '4'}\n      - {name: resource_name, value: layers}\n      - name: eta"),
    changed(changed(JOB, "algorithmName: tpe", "algorithmName: bayesianoptimization"), "random_state", "n_initial_points"),
    changed(JOB, "algorithmName: tpe", "algorithmName: cmaes"),
    changed(JOB, "    objectiveMetricName: accuracy", METRICS),
    changed(changed(JOB[: JOB.index("  parameters:")] + NAS + JOB[JOB.index("  trialTemplate:") :], "algorithmName: tpe", "algorithmName: enas"), "random_state", "controller_hidden_size"),
]  # fmt: skip
"""Valid files of many shapes."""

EXAMPLES = [parse(Source("f", text))[0][0].value for text in TEXTS]
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "t"}, "data": {"k": "{kind: Job}"}}

junk = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1.5,
        10**30,
        "",
        "x",
        "${trialParameters.lr}",
        "${trialSpec.Labels[x]}",
        [],
        {},
        [None],
        {"": None},
        [{}],
        {"a": [1]},
        "1e5",
        "0",
        "-1",
        "1e400",
        "sh",
        "random",
        "\x00",
        "\x1b[31m\n",
        {"\x1b[31m": 1},
    ]
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, child in children for deeper in paths(child, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any, how: str) -> None:
    for key in path[:-1]:
        value = value[key]
    if how == "replace":
        value[path[-1]] = new
    elif how == "remove":
        del value[path[-1]]
    elif isinstance(value, list):
        value.insert(path[-1], new)
    else:
        value[f"{path[-1]}x"] = new


def survives(texts: list[str]) -> None:
    """Loads, or is refused with findings that have a message; and what loads can be rendered."""
    sources = [Source(f"{number}.yaml", text) for number, text in enumerate(texts)]
    findings = lint(sources, folder=Path())
    assert all(finding.message and finding.code and str(finding).isprintable() for finding in findings)
    assert all(finding.value.isprintable() and finding.on for finding in findings)
    # A path that the trainer is not told is refused by the launcher's preflight, which knows what the options add.
    refusing = [finding for finding in findings if finding.code != "path-not-given"]
    if any(finding.level == "error" and "local" in finding.on for finding in refusing):
        with pytest.raises(SpecRefused):
            load_experiment(sources)
    elif any(finding.code == "ignored-object" for finding in findings):
        with pytest.raises(SpecRefused, match="no Experiment"):
            load_experiment(sources)
    else:
        experiment = load_experiment(sources).experiment
        first = {each.name: each.choices[0] if each.choices else each.text(each.bounds[0]) for each in experiment.parameters}
        assert render(experiment, "t", first)["metadata"]["name"] == "t"


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage_to_values(data: st.DataObject) -> None:
    manifest = copy.deepcopy(data.draw(st.sampled_from(EXAMPLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        places = paths(manifest)[1:]
        if places:
            put(
                manifest,
                data.draw(st.sampled_from(places)),
                copy.deepcopy(data.draw(junk)),
                data.draw(st.sampled_from(["replace", "remove", "add"])),
            )
    survives([json.dumps(manifest)])


NAMES = [(number, path) for number, example in enumerate(EXAMPLES) for path in paths(example)[1:] if path[-1] == "name"]


@pytest.mark.parametrize("how", ["remove", "replace"])
@pytest.mark.parametrize("algorithm", ["", "sobol"])
def test_every_name_may_be_missing_or_empty(how: str, algorithm: str) -> None:
    """`algorithm`, one that ignores settings, takes the place of the example's."""
    for number, path in NAMES:
        manifest = copy.deepcopy(EXAMPLES[number])
        if algorithm:
            manifest["spec"]["algorithm"]["algorithmName"] = algorithm
        put(manifest, path, "", how)
        survives([json.dumps(manifest)])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_to_text(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    new = data.draw(st.text(alphabet="a1 :-[]{}&*!|>'\"%@#\n\t\x00é", max_size=5))
    survives([text[:start] + new + text[end:]])


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="kind: Job\n{}[]\"'${trialParameters.lr}-", max_size=60), st.data())
def test_damage_to_a_config_map_template(template: str, data: st.DataObject) -> None:
    manifest = copy.deepcopy(EXAMPLES[0])
    manifest["spec"]["trialTemplate"].pop("trialSpec")
    manifest["spec"]["trialTemplate"] |= {
        "configMap": {"configMapName": "t", "configMapNamespace": "kubeflow", "templatePath": "k"},
        "successCondition": "s",
        "failureCondition": "f",
    }
    config_map = copy.deepcopy(CONFIG_MAP) | {
        "data": {"k": data.draw(st.just(template) | st.just(json.dumps(EXAMPLES[0]["spec"])))}
    }
    if data.draw(st.booleans()):
        place = data.draw(st.sampled_from(paths(config_map)[1:]))
        put(config_map, place, copy.deepcopy(data.draw(junk)), "replace")
    survives([json.dumps(manifest), json.dumps(config_map)])


@pytest.mark.parametrize("text", [JOB, PYTORCHJOB])
def test_the_examples_themselves_load(text: str) -> None:
    assert load_experiment([Source("f.yaml", text)]).findings == ()
