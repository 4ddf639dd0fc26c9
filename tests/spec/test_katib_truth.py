"""Agreement with the real Katib over the recorded Experiments: verdicts, defaults, rendering."""

from __future__ import annotations

import json
from typing import Any

from katuna.errors import LOCAL, Finding
from katuna.spec.algorithms import ALGORITHMS, KATIB_ALGORITHMS
from katuna.spec.check import _model
from katuna.spec.defaults import with_defaults
from katuna.spec.load import Source, lint, load_experiment
from katuna.spec.render import render
from katuna.spec.template import read_template
from katuna.spec.yamltext import parse

TEMPLATE_OF_CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: trial-templates
  namespace: kubeflow
data:
  defaultTrialTemplate.yaml: |
    apiVersion: batch/v1
    kind: Job
    spec:
      template:
        spec:
          containers:
            - name: training-container
              image: ghcr.io/kubeflow/katib/pytorch-mnist-cpu:latest
              command:
                - "python3"
                - "/opt/pytorch-mnist/mnist.py"
                - "--epochs=1"
                - "--batch-size=16"
                - "--lr=${trialParameters.learningRate}"
                - "--momentum=${trialParameters.momentum}"
          restartPolicy: Never
"""

RUNS_HERE = {
    "332-random-int-min-eq-max.yaml": "min == max: one value is a space; a warning says that Katib's random never starts",
}
"""Accepted by Katib and never started there, but fit to run here."""


def algorithm_of(entry: dict[str, Any]) -> str:
    manifest = parse(Source("f", entry["text"]))[0][0].value
    spec = manifest.get("spec")
    algorithm = spec.get("algorithm") if isinstance(spec, dict) else None
    return str(algorithm.get("algorithmName", "")) if isinstance(algorithm, dict) else ""


def judged_here(entry: dict[str, Any]) -> bool:
    """Settings of algorithms that only Katib has are not looked at."""
    return algorithm_of(entry) in ALGORITHMS or algorithm_of(entry) not in KATIB_ALGORITHMS


def errors_of(entry: dict[str, Any]) -> list[Finding]:
    return [finding for finding in lint([Source(entry["file"], entry["text"])]) if finding.level == "error"]


def test_what_katib_refuses_is_refused(katib_truth: list[dict[str, Any]]) -> None:
    refused = [entry for entry in katib_truth if not entry["accepted"] and judged_here(entry)]
    assert len(refused) > 100
    missed = [entry["file"] for entry in refused if not errors_of(entry)]
    assert missed == []


NAMED_ELSEWHERE = {
    "286-random-double-no-min.yaml": "the missing min; the webhook says max for either",
    "428-random-collector-Prometheus-port-neg.yaml": "no installation serves the kind: its port is not looked at",
    "434-random-collector-File-directory-kind.yaml": "the wrong kind; the webhook says path",
    "440-random-collector-File-fs-kind-bad.yaml": "the wrong kind; the webhook says path",
}


def test_the_webhooks_field_is_named_or_a_finer_one(katib_truth: list[dict[str, Any]]) -> None:
    refused = [entry for entry in katib_truth if entry.get("stage") == "webhook"]
    assert len(refused) == 85
    elsewhere = set()
    for entry in refused:
        ours = [error.path for error in errors_of(entry)]
        if not all(any(path.startswith(error["field"]) for path in ours) for error in entry["errors"]):
            elsewhere.add(entry["file"])
    assert elsewhere == set(NAMED_ELSEWHERE)


def test_katibs_own_refusals_are_not_called_ours(katib_truth: list[dict[str, Any]]) -> None:
    """At least one error of such a file holds on a cluster too."""
    unsaid = []
    for entry in katib_truth:
        if not entry["accepted"] and judged_here(entry) and all(error.on == LOCAL for error in errors_of(entry)):
            unsaid.append(entry["file"])
    assert unsaid == []


def test_what_starts_on_katib_is_refused_for_this_machine_only(katib_truth: list[dict[str, Any]]) -> None:
    started = [entry for entry in katib_truth if entry["accepted"] and entry.get("starts")]
    assert len(started) > 100
    wrong = {entry["file"]: [str(error) for error in errors_of(entry) if error.on != LOCAL] for entry in started}
    assert {file: errors for file, errors in wrong.items() if errors} == {}


def test_what_never_starts_on_katib_is_refused(katib_truth: list[dict[str, Any]]) -> None:
    stuck = [entry for entry in katib_truth if entry["accepted"] and entry.get("starts") is False and judged_here(entry)]
    assert len(stuck) > 10
    assert {entry["file"] for entry in stuck if not errors_of(entry)} == set(RUNS_HERE)


def test_ordinary_files_run_here_with_few_remarks(katib_truth: list[dict[str, Any]]) -> None:
    names = {"000-random-unchanged.yaml", "001-grid-unchanged.yaml", "002-median-unchanged.yaml", "006-meta-unchanged.yaml"}
    for entry in katib_truth:
        if entry["file"] in names:
            loaded = load_experiment([Source(entry["file"], entry["text"])])
            assert len(loaded.findings) <= 2, loaded.findings


def same_json(ours: Any, theirs: Any) -> bool:
    return json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


def test_defaults_are_katibs(katib_truth: list[dict[str, Any]]) -> None:
    """All but `status`, which the webhook leaves half filled and the engine writes here."""
    compared = 0
    for entry in katib_truth:
        if entry["accepted"]:
            theirs = {name: value for name, value in entry["defaulted"].items() if name != "status"}
            ours = with_defaults(parse(Source("f", entry["text"]))[0][0].value)
            assert same_json(ours, theirs), entry["file"]
            compared += 1
    assert compared == 141


def test_defaults_leave_the_given_manifest_alone_and_come_once(katib_truth: list[dict[str, Any]]) -> None:
    for entry in katib_truth:
        if entry["accepted"]:
            manifest = parse(Source("f", entry["text"]))[0][0].value
            before = json.dumps(manifest)
            once = with_defaults(manifest)
            assert json.dumps(manifest) == before
            assert with_defaults(once) == once


def test_jobs_are_rendered_as_katibs_generator_does(katib_truth: list[dict[str, Any]]) -> None:
    """Every kind and every algorithm: rendering needs neither to run here."""
    maps = [parse(Source("f", TEMPLATE_OF_CONFIG_MAP))[0][0].value]
    rendered = 0
    for entry in katib_truth:
        expected = entry.get("rendered_first_sample")
        if not expected or "sample" not in entry:
            continue
        defaulted = with_defaults(parse(Source("f", entry["text"]))[0][0].value)
        defaulted["spec"].setdefault("parameters", [])
        for strategy in defaulted["spec"]["objective"]["metricStrategies"]:
            strategy.setdefault("value", "latest")
        template, remarks = read_template(defaulted["spec"], maps)
        assert template is not None, remarks
        experiment = _model(defaulted, template)
        assert render(experiment, expected["metadata"]["name"], entry["sample"]) == expected, entry["file"]
        rendered += 1
    assert rendered > 100
