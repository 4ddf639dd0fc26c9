from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from experiments import JOB, changed
from katuna.errors import InputRefused, RenderRefused
from katuna.lint.load import Source, load_experiment
from katuna.manifest.experiment import Experiment, TrialParameter
from katuna.manifest.render import compact_json, render

POINT = {"lr": "0.001", "layers": "2", "optimizer": "sgd"}


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load_experiment([Source("f.yaml", JOB)]).experiment


def with_template(experiment: Experiment, manifest: dict[str, Any], *parameters: TrialParameter) -> Experiment:
    template = replace(
        experiment.template, text=compact_json(manifest), parameters=(*experiment.template.parameters, *parameters)
    )
    return replace(experiment, template=template)


def container(manifest: Any) -> Any:
    return manifest["spec"]["template"]["spec"]["containers"][0]


def test_values_replace_placeholders_and_the_trial_gives_name_and_namespace(experiment: Experiment) -> None:
    manifest = render(experiment, "digits-bbbbbbbb", POINT)
    assert manifest["metadata"] == {"name": "digits-bbbbbbbb", "namespace": "kubeflow"}
    assert container(manifest)["command"] == ["python", "train.py", "--lr=0.001"]
    assert container(manifest)["args"] == ["--layers=2", "--optimizer=sgd"]


def test_text_that_go_escapes_survives(experiment: Experiment) -> None:
    text = 'a && b < c > d \u2028 é 😀 "quoted" \\ \t'
    rendered = render(with_template(experiment, {"apiVersion": "batch/v1", "kind": "Job", "x": text}), "t", POINT)
    assert rendered["x"] == text


def test_compact_json_is_gos() -> None:
    assert compact_json({"b": "<&>", "a": [1, 0.5, True, None]}) == '{"a":[1,0.5,true,null],"b":"\\u003c\\u0026\\u003e"}'


def test_placeholders_in_keys_and_references_to_the_trial(experiment: Experiment) -> None:
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"labels": {"a/b": "vision"}, "annotations": {"${trialParameters.layers}": "x"}},
        "x": "${trialParameters.name} ${trialParameters.space} ${trialParameters.kind} ${trialParameters.version} ${trialParameters.label}",
    }
    references = {"name": "Name", "space": "Namespace", "kind": "Kind", "version": "APIVersion", "label": "Labels[a/b]"}
    extra = [TrialParameter(name, f"${{trialSpec.{reference}}}") for name, reference in references.items()]
    rendered = render(with_template(experiment, manifest, *extra), "t-1", POINT)
    assert rendered["x"] == "t-1 kubeflow Job batch/v1 vision"
    assert rendered["metadata"]["annotations"] == {"2": "x"}


@pytest.mark.parametrize("reference", ["${trialSpec.Labels[none]}", "${trialSpec.Annotations[none]}", "${trialSpec.Labels}"])
def test_references_that_katib_cannot_render(experiment: Experiment, reference: str) -> None:
    broken = with_template(experiment, {"apiVersion": "batch/v1", "kind": "Job"}, TrialParameter("x", reference))
    with pytest.raises(RenderRefused, match="trialSpec"):
        render(broken, "t", POINT)


def test_every_assignment_is_used_and_every_reference_assigned(experiment: Experiment) -> None:
    with pytest.raises(RenderRefused, match="momentum"):
        render(experiment, "t", {**POINT, "momentum": "0.9"})
    with pytest.raises(RenderRefused, match="optimizer"):
        render(experiment, "t", {"lr": "1", "layers": "1", "other": "1"})


def test_a_value_that_breaks_the_jobs_json(experiment: Experiment) -> None:
    with pytest.raises(InputRefused, match="JSON"):
        render(experiment, "t", {**POINT, "optimizer": 'a"b'})


CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: templates, namespace: kubeflow}
data:
  job.yaml: |
    apiVersion: batch/v1
    kind: Job
    spec:
      activeDeadlineSeconds: 600
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: trainer
              image: registry.example/trial:1
              command: [python, train.py, "--lr=${trialParameters.learningRate}", "${trialParameters.layers}"]
              args: ["${trialParameters.optimizer}"]
"""

FROM_CONFIG_MAP = JOB[: JOB.index("    trialSpec:")] + (
    "    configMap: {configMapName: templates, configMapNamespace: kubeflow, templatePath: job.yaml}\n"
    "    successCondition: s\n    failureCondition: f\n"
)


@pytest.mark.parametrize("namespace", [", namespace: kubeflow", ""])
def test_a_template_from_a_config_map_given_beside(namespace: str) -> None:
    config_map = changed(CONFIG_MAP, ", namespace: kubeflow", namespace)
    for sources in (
        [Source("e.yaml", FROM_CONFIG_MAP), Source("c.yaml", config_map)],
        [Source("both.yaml", f"{config_map}---\n{FROM_CONFIG_MAP}")],
    ):
        manifest = render(load_experiment(sources).experiment, "t", POINT)
        assert container(manifest)["command"] == ["python", "train.py", "--lr=0.001", "2"]
        assert container(manifest)["args"] == ["sgd"]
        assert manifest["metadata"] == {"name": "t", "namespace": "kubeflow"}


def test_rendering_is_pure(experiment: Experiment) -> None:
    first = json.dumps(render(experiment, "t", POINT))
    render(experiment, "u", {**POINT, "lr": "9"})
    assert json.dumps(render(experiment, "t", POINT)) == first
