"""What Katib takes although it looks wrong, and one finding for one mistake."""

from __future__ import annotations

from typing import Any

import pytest

from experiments import JOB, PYTORCH_SPEC, PYTORCHJOB, changed, findings_of, only
from katuna.errors import CLUSTERS, KATIB, KATUNA, Finding
from katuna.lint.load import Source, lint, load_experiment

METRIC = "    objectiveMetricName: accuracy\n"
PLACEHOLDERS = '["${trialParameters.learningRate}", "${trialParameters.layers}", "${trialParameters.optimizer}"]'  # what a template must hold


def on_katib(text: str) -> list[Finding]:
    """The errors there."""
    return [each for each in findings_of(text) if "katib" in each.on]


def algorithm(name: str, text: str = JOB) -> str:
    return changed(text, "algorithmName: tpe", f"algorithmName: {name}")


@pytest.mark.parametrize("field", ["metricStrategies: [{value: min}]", 'additionalMetricNames: [""]'])
def test_metrics_without_a_name_mean_nothing(field: str) -> None:
    loaded = load_experiment([Source("f.yaml", changed(JOB, METRIC, f"{METRIC}    {field}\n"))])
    assert loaded.experiment.objective.metrics == ("accuracy",)
    assert dict(loaded.experiment.objective.strategies) == {"accuracy": "max"}
    assert [(each.level, each.path.partition("[")[0]) for each in loaded.findings] == [
        ("warning", f"spec.objective.{field.partition(':')[0]}")
    ]


def test_a_setting_without_a_name_is_read_by_nobody() -> None:
    text = algorithm("sobol", changed(JOB, "- name: random_state\n        value", "- value"))
    loaded = load_experiment([Source("f.yaml", text)])
    assert dict(loaded.experiment.settings) == {}
    assert next(each.code for each in loaded.findings if each.level == "warning") == "setting-ignored"


@pytest.mark.parametrize(
    "spec",
    [f"spec: {{foo: {PLACEHOLDERS}}}", f"spec: {{pytorchReplicaSpecs: {PLACEHOLDERS}}}", "metadata: {annotations: {a: 'PLACES'}}\n      spec: null"],
)  # fmt: skip
def test_a_pytorchjob_of_any_spec(spec: str) -> None:
    places = " ".join(f"${{trialParameters.{name}}}" for name in ("learningRate", "layers", "optimizer"))
    head = PYTORCHJOB[: PYTORCHJOB.index(PYTORCH_SPEC)] + PYTORCH_SPEC[: PYTORCH_SPEC.index("      spec:")]
    found = findings_of(f"{head}      {spec.replace('PLACES', places)}\n")
    assert found, "nothing runs here"
    assert {each.on for each in found} <= {KATUNA, ("local",)}
    paths = [each.path for each in found if each.code == "missing-field"]
    assert not any(other.startswith(f"{each}.") for each in paths for other in paths), "said once"


@pytest.mark.parametrize(
    ("name", "kind", "on"),
    [
        ("random", "double", ("katib", "cluster", "local")),
        ("tpe", "double", ("katib", "cluster", "local")),
        ("sobol", "double", KATUNA),
        ("random", "categorical", KATUNA),
    ],
)
def test_an_unknown_distribution_matters_where_it_is_read(name: str, kind: str, on: Any) -> None:
    text = changed(JOB, '      - name: random_state\n        value: "7"\n', "").replace("    algorithmSettings:\n", "")
    if kind == "double":
        text = changed(text, "distribution: logUniform", "distribution: unknown")
    else:
        text = changed(text, "list: [sgd, adam]", "list: [sgd, adam], distribution: unknown")
    finding = only(findings_of(algorithm(name, text)))
    assert (finding.code, finding.on) == ("unknown-value", on)


def test_a_distribution_that_the_webhook_does_not_know() -> None:
    text = algorithm("sobol", changed(JOB, "distribution: logUniform", "distribution: gauss"))
    assert [each.code for each in on_katib(text)] == ["unknown-value"]


@pytest.mark.parametrize(
    "text",
    [
        changed(JOB, "[sgd, adam]", "[sgd, null]"),
        changed(JOB, METRIC, f"{METRIC}    additionalMetricNames: [null]\n"),
        changed(JOB, METRIC, f"{METRIC}    metricStrategies: [null]\n"),
    ],
)
def test_a_null_in_a_list_is_an_empty_item_to_katib(text: str) -> None:
    assert on_katib(text) == []
    assert ("wrong-type", KATUNA) in [(each.code, each.on) for each in findings_of(text)]


def test_a_null_among_the_words_of_a_job_is_none() -> None:
    assert [each.code for each in on_katib(changed(JOB, "[python, train.py, ", "[python, null, "))] == ["wrong-type"]


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("labels: {'a b': x}", False),
        (f"labels: {{{'a' * 64}: x}}", False),
        ("labels: {'/a': x}", False),
        ("labels: {'Team.io/a': x}", False),
        ("annotations: {'a b': x}", False),
        (f"labels: {{{'a' * 63}: x}}", True),
        ("labels: {team.io/A_b.c: x}", True),
        ("annotations: {'Team.io/a': 'any text'}", True),
    ],
)
def test_keys_of_labels_and_annotations(line: str, good: bool) -> None:
    found = findings_of(changed(JOB, "  name: digits\n", f"  name: digits\n  {line}\n"))
    assert [(each.code, each.on) for each in found] == ([] if good else [("bad-label", CLUSTERS)])


@pytest.mark.parametrize(
    ("name", "old", "new", "good"),
    [
        ("cmaes", 'min: "1e-4"', 'min: " 1e-4"', False),
        ("sobol", 'min: "1"', 'min: " 1"', False),
        ("cmaes", 'max: "4"', 'max: "１"', False),
        ("cmaes", 'min: "1e-4"', 'min: ".0001"', True),
        ("random", 'min: "1e-4"', 'min: " 1e-4"', True),
        ("random", 'max: "0.1"', 'max: "1_0"', True),
        ("random", 'max: "0.1"', 'max: "1__0"', False),
    ],
)
def test_numbers_are_written_as_each_service_reads_them(name: str, old: str, new: str, good: bool) -> None:
    found = on_katib(algorithm(name, changed(JOB, old, new)))
    assert [each.code for each in found] == ([] if good else ["not-a-number"])
    if name != "random":
        assert all(each.on == KATIB for each in found)


def test_a_name_that_yaml_takes_for_a_truth_value_is_one_finding() -> None:
    text = changed(JOB, "{name: layers, reference", "{name: n, reference").replace(
        "trialParameters.layers}", "trialParameters.n}"
    )
    finding = only(findings_of(text))
    assert (finding.code, finding.path) == ("wrong-type", "spec.trialTemplate.trialParameters[1].name")
    assert "in quotes" in finding.hint
    text = changed(JOB, "    - name: layers\n", "    - name: n\n").replace("reference: layers", "reference: 'n'")
    assert only(findings_of(text)).path == "spec.parameters[1].name"


def test_an_infinite_number_is_one_finding() -> None:
    assert only(findings_of(changed(JOB, "goal: 0.98", "goal: .inf"))).code == "not-yaml"
    assert lint([Source("f.yaml", changed(JOB, "maxTrialCount: 12", "maxTrialCount: .nan"))])[0].code == "not-yaml"
