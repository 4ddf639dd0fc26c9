"""Agreement with the real Katib over the recorded Experiments: verdicts, defaults, rendering."""

from __future__ import annotations

import json
import re
from typing import Any

from katuna.errors import Finding
from katuna.lint.experiment import _model
from katuna.lint.load import Source, lint, load_experiment
from katuna.manifest.defaults import with_defaults
from katuna.manifest.render import render
from katuna.manifest.template import read_template
from katuna.manifest.yamltext import parse

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


def errors_of(entry: dict[str, Any], engine: str = "katib") -> list[Finding]:
    findings = lint([Source(entry["file"], entry["text"])])
    return [finding for finding in findings if finding.level == "error" and engine in finding.on]


def is_good(entry: dict[str, Any]) -> bool:
    """Accepted, and not known never to start a trial: enas was not run."""
    return bool(entry["accepted"]) and entry.get("starts") is not False


def test_what_katib_refuses_or_never_starts_is_an_error_there(katib_truth: list[dict[str, Any]]) -> None:
    bad = [entry for entry in katib_truth if not is_good(entry)]
    assert len(bad) == 195
    assert [entry["file"] for entry in bad if not errors_of(entry)] == []


def test_what_starts_on_katib_is_no_error_there(katib_truth: list[dict[str, Any]]) -> None:
    good = [entry for entry in katib_truth if is_good(entry)]
    assert len(good) == 114
    wrong = {entry["file"]: [str(error) for error in errors_of(entry)] for entry in good}
    assert {file: errors for file, errors in wrong.items() if errors} == {}


def test_the_webhooks_field_is_named_or_a_finer_one(katib_truth: list[dict[str, Any]]) -> None:
    refused = [entry for entry in katib_truth if entry.get("stage") == "webhook"]
    assert len(refused) == 85
    elsewhere = []
    for entry in refused:
        ours = [error.path for error in errors_of(entry)]
        if not all(any(path.startswith(error["field"]) for path in ours) for error in entry["errors"]):
            elsewhere.append(entry["file"])
    assert elsewhere == []


RUNS_HERE_ALONE = {
    "216-random-bayesianoptimization-min-zero.yaml": "a uniform scale may begin at 0",
    "262-random-multivariate-tpe-normal.yaml": "a normal distribution can be drawn from",
    "332-random-int-min-eq-max.yaml": "one value is a space",
    "586-pbt-no-step.yaml": "a double needs no step to be perturbed",
}


def test_a_refused_file_is_refused_here_too_or_sensible(katib_truth: list[dict[str, Any]]) -> None:
    """What Katib refuses and katuna can run with the meaning that the file states."""
    here = {entry["file"] for entry in katib_truth if not is_good(entry) and not errors_of(entry, "local")}
    assert here == set(RUNS_HERE_ALONE)


def test_every_finding_has_a_code(katib_truth: list[dict[str, Any]]) -> None:
    for entry in katib_truth:
        for finding in lint([Source(entry["file"], entry["text"])]):
            assert re.fullmatch(r"[a-z]+(-[a-z]+)*", finding.code), finding


def test_ordinary_files_have_no_findings(katib_truth: list[dict[str, Any]]) -> None:
    """But one, whose filter reads no exponent."""
    names = {
        f"{each}-unchanged.yaml" for each in ("000-random", "002-median", "003-hyperband", "004-pbt", "006-meta", "007-file")
    }
    for entry in katib_truth:
        if entry["file"] in names:
            codes = [finding.code for finding in load_experiment([Source(entry["file"], entry["text"])]).findings]
            assert codes == (["number-cut-short"] if entry["file"].startswith("007") else [])
            names.remove(entry["file"])
    assert names == set()


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
