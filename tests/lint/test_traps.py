"""What is accepted and then does not do as the file says: each trap is named, and no good file is."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import JOB, PYTORCHJOB, changed
from katuna.errors import EVERYWHERE, KATIB, KATUNA, Engine
from katuna.lint.load import Source, lint

KATIB_FILES = Path(__file__).parents[2] / "katib"

MEDIAN = "earlyStopping: {algorithmName: medianstop}"
RETAINED = changed(JOB, "    primaryContainerName", "    retain: true\n    primaryContainerName")


def with_spec(line: str, text: str = JOB) -> str:
    return changed(text, "  parallelTrialCount: 2", f"  {line}\n  parallelTrialCount: 2")


def collector(spec: str, text: str = JOB) -> str:
    return with_spec(f"metricsCollectorSpec: {spec}", text)


def warnings(text: str) -> dict[str, tuple[str, tuple[Engine, ...]]]:
    """Code to path and engines, of the warnings; there must be no error."""
    findings = lint([Source("f.yaml", text)], read_script=lambda _: None)
    assert [str(finding) for finding in findings if finding.level == "error"] == []
    return {finding.code: (finding.path, finding.on) for finding in findings if finding.level == "warning"}


MTPE = changed(changed(JOB, "algorithmName: tpe", "algorithmName: multivariate-tpe"), "random_state", "n_startup_trials")

BAYES = changed(JOB, "algorithmName: tpe", "algorithmName: bayesianoptimization")

TRAPS = [
    ("linear-learning-rate", changed(JOB, ", distribution: logUniform", ""), "spec.parameters[0].feasibleSpace.distribution", EVERYWHERE),
    ("budget-within-start-up", changed(JOB, "maxTrialCount: 12", "maxTrialCount: 10"), "spec.maxTrialCount", KATUNA),
    ("parallel-above-start-up", changed(changed(MTPE, '"7"', '"3"'), "parallelTrialCount: 2", "parallelTrialCount: 3"), "spec.parallelTrialCount", EVERYWHERE),
    ("distribution-ignored", changed(BAYES, "distribution: logUniform", "distribution: uniform"), "spec.parameters[0].feasibleSpace.distribution", KATIB),
    ("distribution-ignored", changed(BAYES, ", distribution: logUniform", ""), "spec.parameters[0].feasibleSpace.distribution", KATIB),
    ("no-end", changed(changed(JOB, "    goal: 0.98\n", ""), "  maxTrialCount: 12\n", ""), "spec.maxTrialCount", EVERYWHERE),
    ("retain-with-early-stopping", with_spec(MEDIAN), "spec.trialTemplate.retain", KATIB),
    ("unseen-by-early-stopping", collector("{collector: {kind: TensorFlowEvent}}", with_spec(MEDIAN, RETAINED)), "spec.earlyStopping", KATIB),
    ("unseen-by-early-stopping", collector("{collector: {kind: Push}}", with_spec(MEDIAN, RETAINED)), "spec.earlyStopping", KATIB),
    ("early-stopping-too-late", changed(with_spec(MEDIAN, RETAINED), "maxTrialCount: 12", "maxTrialCount: 4"), "spec.earlyStopping", EVERYWHERE),
    ("unreadable-metric", changed(JOB, "objectiveMetricName: accuracy", "objectiveMetricName: val/accuracy"), "spec.objective.objectiveMetricName", EVERYWHERE),
    ("number-cut-short", collector(r"{collector: {kind: StdOut}, source: {filter: {metricsFormat: ['([\w|-]+)\s*:\s*((-?\d+)(\.\d+)?)']}}}"), "spec.metricsCollectorSpec.source.filter.metricsFormat[0]", EVERYWHERE),
    ("number-cut-short", collector(r"{collector: {kind: File}, source: {fileSystemPath: {path: /a/b, kind: File, format: TEXT}, filter: {metricsFormat: ['(\w+)=(\d+)']}}}"), "spec.metricsCollectorSpec.source.filter.metricsFormat[0]", EVERYWHERE),
    ("semicolon", collector(r"{collector: {kind: StdOut}, source: {filter: {metricsFormat: ['(\w+);(\d+)']}}}"), "spec.metricsCollectorSpec.source.filter.metricsFormat[0]", KATIB),
    ("ignored-field", collector("{collector: {kind: StdOut}, source: {fileSystemPath: {path: /a, kind: File}}}"), "spec.metricsCollectorSpec.source.fileSystemPath", EVERYWHERE),
    ("condition-never-true", changed(JOB, "    primaryContainerName", "    successCondition: nonsense\n    primaryContainerName"), "spec.trialTemplate.successCondition", KATIB),
    ("condition-never-true", changed(JOB, "    primaryContainerName", "    successCondition: status.conditions.#(type==\"Succeeded\")#\n    primaryContainerName"), "spec.trialTemplate.successCondition", KATIB),
    ("dot-in-name", changed(JOB, "  name: digits\n", "  name: digits.one\n"), "metadata.name", KATIB),
    ("repeated-value", changed(JOB, "[sgd, adam]", "[sgd, adam, sgd]"), "spec.parameters[2].feasibleSpace.list[2]", EVERYWHERE),
    ("unused-strategy", changed(JOB, "    objectiveMetricName: accuracy", "    objectiveMetricName: accuracy\n    metricStrategies: [{name: loss, value: min}]"), "spec.objective.metricStrategies[0].name", EVERYWHERE),
    ("repeated-metric", changed(JOB, "    objectiveMetricName: accuracy", "    objectiveMetricName: accuracy\n    metricStrategies: [{name: accuracy, value: min}, {name: accuracy, value: max}]"), "spec.objective.metricStrategies[1].name", EVERYWHERE),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "path", "on"), TRAPS, ids=[trap[0] for trap in TRAPS])
def test_a_trap_is_named_at_its_field(code: str, text: str, path: str, on: tuple[Engine, ...]) -> None:
    assert warnings(text)[code] == (path, on)


GOOD = {
    "job": JOB,
    "pytorchjob": PYTORCHJOB,
    "random": changed(JOB, "algorithmName: tpe", "algorithmName: random"),
    "narrow linear learning rate": changed(JOB, 'min: "1e-4", max: "0.1", distribution: logUniform', 'min: "0.001", max: "0.1"'),
    "another name on a linear scale": changed(changed(JOB, "- name: lr", "- name: dropout"), "reference: lr}", "reference: dropout}").replace(", distribution: logUniform", ""),
    "start-up above parallel": changed(MTPE, '"7"', '"4"'),
    "unbounded with a goal": changed(JOB, "  maxTrialCount: 12\n", ""),
    "early stopping": with_spec(MEDIAN, RETAINED),
    "metric with a slash and a filter": collector(
        r"{collector: {kind: StdOut}, source: {filter: {metricsFormat: ['([\w/]+)=([-+.\deE]+)']}}}",
        changed(JOB, "objectiveMetricName: accuracy", "objectiveMetricName: val/accuracy"),
    ),
    "conditions of its own": changed(
        JOB, "    primaryContainerName", '    successCondition: status.conditions.#(type=="Complete")#|#(status=="True")#\n    primaryContainerName'
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_has_no_finding(name: str) -> None:
    assert lint([Source("f.yaml", GOOD[name])], read_script=lambda _: None) == ()


@pytest.mark.parametrize("name", ["digits-tpe", "digits-random", "mnist5k-tpe"])
def test_our_own_examples_have_no_finding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(KATIB_FILES.parent)
    path = KATIB_FILES / f"{name}.yaml"
    assert lint([Source(path.name, path.read_text())]) == ()


def test_a_misspelt_key_is_dropped_by_a_cluster_and_refused_here() -> None:
    """And what is missing for it is Katib's error, when Katib wants it."""
    findings = lint([Source("f.yaml", changed(JOB, "  algorithm:\n", "  algorithmm:\n"))], read_script=lambda _: None)
    assert {(each.path, each.level) for each in findings if "katib" in each.on} == {
        ("spec.algorithmm", "warning"),
        ("spec.algorithm", "error"),
    }
    assert [(each.path, each.level) for each in findings if "local" in each.on] == [("spec.algorithmm", "error")]


@pytest.mark.parametrize(
    ("old", "new", "level"),
    [
        ('min: "1", max: "4"', 'min: "1", max: "4.5"', "warning"),
        ('min: "1", max: "4"', 'min: "1", max: "4", step: "-1"', "warning"),
        ('min: "1", max: "4"', 'min: "1", max: "4", step: "0"', "error"),
        ('min: "1e-4", max: "0.1"', 'min: "1e-4", max: "0.1", step: "0"', "warning"),
    ],
)
def test_numbers_that_katib_takes_and_draws_wrongly(old: str, new: str, level: str) -> None:
    """katib.md 13: tpe draws from them, and only a step of 0 stops it, for an int."""
    findings = lint([Source("f.yaml", changed(JOB, old, new))], read_script=lambda _: None)
    assert {each.level for each in findings if "katib" in each.on} == {level}
    assert "error" in {each.level for each in findings if "local" in each.on}


def test_values_are_shown_but_not_secrets() -> None:
    text = changed(JOB, "maxTrialCount: 12", "maxTrialCount: -12")
    assert "-12" in {each.value for each in lint([Source("f.yaml", text)], read_script=lambda _: None)}
    secret = JOB + "                env: [{name: TOKEN, value: 5}]\n                workingDir: 7\n"
    values = {each.path.rpartition(".")[2]: each.value for each in lint([Source("f.yaml", secret)], read_script=lambda _: None)}
    assert values == {"value": "", "workingDir": "7"}


def test_a_log_scale_that_hardly_matters_and_that_nobody_spoke_of() -> None:
    text = changed(BAYES, 'min: "1e-4", max: "0.1", distribution: logUniform', 'min: "0.01", max: "0.1"')
    assert "distribution-ignored" not in warnings(text)
