from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml

from experiments import JOB, PYTORCHJOB, changed, findings_of, only
from katuna.errors import EVERYWHERE, KATIB, KATUNA, LOCAL, SpecRefused
from katuna.lint.load import Source, lint, load_experiment
from katuna.manifest.experiment import ObjectiveType, Parameter


def load(*texts: str, **options: Any) -> Any:
    return load_experiment([Source(f"{number}.yaml", text) for number, text in enumerate(texts)], **options)


def test_a_file_becomes_the_typed_model() -> None:
    loaded = load(JOB)
    experiment = loaded.experiment
    assert loaded.findings == ()
    assert (experiment.name, experiment.namespace, experiment.algorithm) == ("digits", "kubeflow", "tpe")
    assert experiment.settings == {"random_state": "7"}
    assert (experiment.parallel_trials, experiment.max_trials, experiment.max_failed) == (2, 12, 3)
    assert experiment.objective.type is ObjectiveType.MAXIMIZE
    assert (experiment.objective.metric, experiment.objective.goal, experiment.objective.strategy) == ("accuracy", 0.98, "max")
    assert experiment.parameters == (
        Parameter("lr", "double", "1e-4", "0.1", distribution="logUniform"),
        Parameter("layers", "int", "1", "4"),
        Parameter("optimizer", "categorical", choices=("sgd", "adam")),
    )
    assert experiment.template.primary_container == "trainer"
    assert experiment.collector.kind == "StdOut"
    assert experiment.manifest["spec"]["resumePolicy"] == "Never"


def test_what_is_absent_is_none_or_katibs_default() -> None:
    text = JOB
    for line in (
        "    goal: 0.98\n",
        "  parallelTrialCount: 2\n",
        "  maxTrialCount: 12\n",
        "  maxFailedTrialCount: 3\n",
        "  namespace: kubeflow\n",
    ):
        text = changed(text, line, "")
    experiment = load(text).experiment
    assert (experiment.objective.goal, experiment.max_trials, experiment.max_failed) == (None, None, None)
    assert (experiment.parallel_trials, experiment.namespace) == (3, "default")


def test_a_pytorchjob_with_a_master_alone_runs_here() -> None:
    assert load(PYTORCHJOB).findings == ()


# Bad input: each one clear message. (what is changed, into what, path, line, words of the message or hint)
BAD = [
    ("algorithmName: tpe", "algorithmName: tpee", "spec.algorithm.algorithmName", 12, "did you mean tpe"),
    ("algorithmName: tpe", "algorithmName: enas", "spec.algorithm.algorithmName", 12, "random, grid, tpe"),
    ("- name: random_state", "- name: randomstate", "spec.algorithm.algorithmSettings[0].name", 14, "did you mean random_state"),
    ('value: "7"', "value: 7", "spec.algorithm.algorithmSettings[0].value", 15, 'in quotes: "7"'),
    ("  maxTrialCount: 12", "  maxTrialcount: 12", "spec.maxTrialcount", 17, "did you mean maxTrialCount"),
    ("goal: 0.98", 'goal: "0.98"', "spec.objective.goal", 9, "without quotes"),
    ("maxTrialCount: 12", "maxTrialCount: 1", "spec.parallelTrialCount", 16, "less than or equal to spec.maxTrialCount"),
    ('min: "1e-4"', "min: 1e-4", "spec.parameters[0].feasibleSpace.min", 22, "must be text, not the number"),
    ('min: "1e-4", max: "0.1"', 'min: "0.1", max: "1e-4"', "spec.parameters[0].feasibleSpace", 22, "an empty feasible space"),
    ('min: "1e-4"', 'min: "0"', "spec.parameters[0].feasibleSpace.min", 22, "greater than 0 for logUniform"),
    ("list: [sgd, adam]", "list: []", "spec.parameters[2].feasibleSpace.list", 28, "an empty feasible space"),
    ("{list: [sgd, adam]}", "{}", "spec.parameters[2].feasibleSpace.list", 28, "an empty feasible space"),
    ("list: [sgd, adam]", "list: [sgd, 1]", "spec.parameters[2].feasibleSpace.list[1]", 28, "in quotes"),
    ("list: [sgd, adam]", """list: [sgd, 'a"b']""", "spec.parameters[2].feasibleSpace.list[1]", 28, "no trial would ever start"),
    ("parameterType: int", "parameterType: integer", "spec.parameters[1].parameterType", 24, "one of: double, int"),
    ("      - {name: layers, reference: layers}\n", "", "spec.trialTemplate.trialParameters", 0, "${trialParameters.layers} is not declared"),
    ("{name: layers, reference: layers}", "{name: layers, reference: layerz}", "spec.trialTemplate.trialParameters[1].reference", 33, "did you mean layers"),
    ("primaryContainerName: trainer", "primaryContainerName: trainr", "spec.trialTemplate.trialSpec.spec.template.spec.containers", 0, "did you mean trainer"),
    ("kind: Job", "kind: TrainJob", "spec.trialTemplate.trialSpec.apiVersion", 0, "write trainer.kubeflow.org/v1alpha1"),
    ("restartPolicy: Never", "restartPolicy: Nevr", "spec.trialTemplate.trialSpec.spec.template.spec.restartPolicy", 0, "did you mean Never"),
    ("image: registry", "imagee: registry", "spec.trialTemplate.trialSpec.spec.template.spec.containers[0].imagee", 0, "did you mean image"),
    ("      spec:\n        template:", "      spec:\n        completions: 3\n        template:", "spec.trialTemplate.trialSpec.spec.completions", 0, "3 pods of one Job"),
    ("      spec:\n        template:", "      spec:\n        backoffLimit: -1\n        template:", "spec.trialTemplate.trialSpec.spec.backoffLimit", 0, "less than 0"),
    ("  name: digits\n", "  name: digits\n  namespace: twice\n", "metadata.namespace", 6, "written twice"),
    ("  name: digits\n", "  name: Digits\n", "metadata.name", 4, "lower case"),
    ("  name: digits\n", f"  name: {'d' * 41}\n", "metadata.name", 4, "at most 40"),
    ("  maxTrialCount: 12", "  maxTrialCount: 0", "spec.maxTrialCount", 17, "greater than 0"),
    ("    - name: layers\n", "    - name: ''\n", "spec.parameters[1].name", 23, "must be specified"),
    ('{min: "1", max: "4"}', '{min: "1", max: "4", list: ["1"]}', "spec.parameters[1].feasibleSpace.list", 25, "an int has no list"),
    ('{min: "1", max: "4"}', '{min: "1", max: "1e17"}', "spec.parameters[1].feasibleSpace.max", 25, "2^53"),
    ('{min: "1", max: "4"}', '{min: "1", max: "4", step: "0"}', "spec.parameters[1].feasibleSpace.step", 25, "greater than 0"),
    ('{min: "1", max: "4"}', '{min: "1.5", max: "4"}', "spec.parameters[1].feasibleSpace.min", 25, "whole number"),
    ("  algorithm:\n    algorithmName: tpe\n", "  algorithmm:\n    algorithmName: tpe\n", "spec.algorithmm", 11, "did you mean algorithm?"),
    ("    objectiveMetricName: accuracy", "    objectiveMetricName: accuracy\n    additionalMetricNames: [loss, accuracy]", "spec.objective.additionalMetricNames[1]", 11, "already"),
    ("    objectiveMetricName: accuracy", "    objectiveMetricName: accuracy\n    metricStrategies: [{name: accuracy, value: avg}]", "spec.objective.metricStrategies[0].value", 11, "min, max, latest"),
    ("{name: layers, reference: layers}", "{name: layers}", "spec.trialTemplate.trialParameters[1]", 33, "name and reference must be specified"),
    ("{name: layers, reference: layers}", "{name: layers, reference: lr}", "spec.trialTemplate.trialParameters[1].reference", 33, "another trialParameter"),
    ("parallelTrialCount: 2", "parallelTrialCount: 2\n  metricsCollectorSpec: {collector: {kind: Custom}}", "spec.metricsCollectorSpec.collector.customCollector", 17, "must be specified"),
    ("parallelTrialCount: 2", "parallelTrialCount: 2\n  nasConfig: {}", "spec.nasConfig", 17, "only one of"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "path", "line", "words"), BAD, ids=[new.strip()[:40] for _, new, *_ in BAD])
def test_bad_input_is_named_with_place_path_and_next_step(old: str, new: str, path: str, line: int, words: str) -> None:
    found = findings_of(changed(JOB, old, new))
    # Two rules may speak of one mistake; the first mention must be the one asked for, and with the words.
    matching = [finding for finding in found if finding.path == path]
    assert matching, "\n".join(map(str, found))
    assert words in str(matching[0])
    assert not line or matching[0].line == line
    assert len(found) <= 3
    with pytest.raises(SpecRefused, match="error"):
        load(changed(JOB, old, new))


def test_a_parameter_never_used_in_the_template() -> None:
    unused = changed(
        JOB,
        "    - name: layers",
        '    - name: depth\n      parameterType: int\n      feasibleSpace: {min: "1", max: "2"}\n    - name: layers',
    )
    finding = only(findings_of(unused))
    assert finding.path == "spec.parameters[1]"
    assert "no trialParameter refers to the search parameter 'depth'" in finding.message
    silent = changed(JOB, '"--layers=${trialParameters.layers}", ', "")
    finding = only(findings_of(silent))
    assert finding.path == "spec.trialTemplate.trialParameters[1].name"
    assert "does not occur in the template" in finding.message


def test_a_placeholder_never_declared() -> None:
    finding = only(findings_of(changed(JOB, '"--lr=', '"--m=${trialParameters.momentum}", "--lr=')))
    assert "${trialParameters.momentum} is not declared" in finding.message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("${trialparameters.lr}", "did you mean ${trialParameters.lr}?"),
        ("${trialParameter.layer}", "did you mean ${trialParameters.layers}?"),
        ("${trialParameters[lr]}", "did you mean ${trialParameters.lr}?"),
        ("$(trialParameters.lr)", "did you mean ${trialParameters.lr}?"),
        ("{{trialParameters.lr}}", "did you mean ${trialParameters.lr}?"),
        ("$trialParameters.lr", "did you mean ${trialParameters.lr}?"),
        ("${trialSpec.Name}", "reference is ${trialSpec.Name}"),
        ("${trialspec.namespace}", "reference is ${trialSpec.Namespace}"),
    ],
)
def test_text_that_looks_like_a_placeholder_and_is_none(text: str, meant: str) -> None:
    finding = only(findings_of(changed(JOB, '"--lr=', f'"--out=ckpt/{text}", "--lr=')))
    assert (finding.code, finding.level, finding.on) == ("no-placeholder", "error", EVERYWHERE)
    assert f"{text!r} is no placeholder" in finding.message
    assert meant in finding.hint


@pytest.mark.parametrize("text", ["$HOME/trial", "${TRIAL}", "$(TRIAL_NAME)", "trialParameters.lr", "${trials}", "{trialSpec}"])
def test_other_text_is_no_placeholder_that_was_meant(text: str) -> None:
    assert [each.code for each in findings_of(changed(JOB, '"--lr=', f'"--out={text}", "--lr=')) if each.level == "error"] == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kind: Experiment", "kind: Experimnt", "did you mean Experiment"),
        ("kind: Experiment", "kind: experiment", "did you mean Experiment"),
        ("v1beta1", "v1alpha3", "write kubeflow.org/v1beta1"),
        ("kind: Experiment\n", "", "must be specified"),
        ("apiVersion: kubeflow.org/v1beta1\n", "", "must be specified"),
    ],
)
def test_wrong_kind_or_version(old: str, new: str, words: str) -> None:
    text = changed(JOB, old, new)
    assert words in str(only(findings_of(text)))
    with pytest.raises(SpecRefused) as refused:
        load(text)
    assert words in str(only(list(refused.value.findings)))


@pytest.mark.parametrize("text", ["- a\n", "hello\n", "5\n"])
def test_a_file_that_is_no_manifest(text: str) -> None:
    assert "mapping" in str(only(findings_of(text)))


def test_empty_and_malformed_files() -> None:
    assert "empty" in str(only(findings_of("")))
    assert "0.yaml:2:" in str(only(findings_of("a: [\n")))
    with pytest.raises(SpecRefused, match="no file"):
        load_experiment([])


def test_two_experiments_of_one_name() -> None:
    finding = only(findings_of(f"{JOB}---\n{JOB}"))
    assert "a second Experiment is named 'digits'; the first is at 0.yaml:4" in finding.message
    assert finding.path == "metadata.name"
    assert findings_of(JOB, JOB) == [], "two files may hold variants of one Experiment; a run takes one"
    for texts in ([JOB, JOB], [f"{JOB}---\n{JOB}"]):
        with pytest.raises(SpecRefused, match="second Experiment"):
            load(*texts)
    elsewhere = changed(JOB, "namespace: kubeflow", "namespace: lab")
    assert findings_of(JOB, elsewhere) == [], "another namespace is another Experiment"


def test_two_config_maps_of_one_name() -> None:
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
    assert only(findings_of(f"{config_map}---\n{config_map}")).code == "repeated-name"
    assert findings_of(config_map, config_map) == []
    with pytest.raises(SpecRefused, match="second ConfigMap"):
        load(JOB, config_map, config_map)


def listing(*texts: str, kind: str = "v1\nkind: List") -> str:
    """As `kubectl get -o yaml` writes several objects."""
    items = ["- " + text.strip().replace("\n", "\n  ") for text in texts]
    return f"apiVersion: {kind}\nitems:\n" + "\n".join(items) + "\n"


@pytest.mark.parametrize("kind", ["v1\nkind: List", "kubeflow.org/v1beta1\nkind: ExperimentList"])
def test_the_items_of_a_list_are_documents(kind: str) -> None:
    assert load(listing(JOB, kind=kind)).experiment.name == "digits"
    broken = changed(JOB, "type: maximize", "type: max")
    alone, inside = only(findings_of(broken)), only(findings_of(listing(broken, kind=kind)))
    assert (inside.path, inside.message, inside.value) == (alone.path, alone.message, alone.value)
    assert (inside.line, inside.column) == (alone.line + 3, alone.column + 2)


def test_items_of_a_list_that_are_none() -> None:
    assert findings_of("apiVersion: v1\nkind: List\nitems: []\n") == []
    assert only(findings_of("apiVersion: v1\nkind: List\nitems: 5\n")).path == "items"
    misfit = only(findings_of("apiVersion: v1\nkind: List\nitems:\n- 5\n"))
    assert (misfit.code, misfit.line) == ("not-a-manifest", 4)
    bare = JOB.replace("apiVersion: kubeflow.org/v1beta1\nkind: Experiment\n", "")
    assert load(listing(bare, kind="kubeflow.org/v1beta1\nkind: ExperimentList")).experiment.name == "digits"


def test_several_experiments_need_a_name() -> None:
    other = changed(JOB, "name: digits", "name: letters")
    with pytest.raises(SpecRefused, match="several Experiments are given: digits, letters"):
        load(JOB, other)
    assert load(JOB, other, name="letters").experiment.name == "letters"
    with pytest.raises(SpecRefused, match="there are: digits, letters"):
        load(JOB, other, name="words")
    broken = changed(other, "algorithmName: tpe", "algorithmName: no")
    assert load(JOB, broken, name="digits").experiment.name == "digits", "an Experiment that was not asked for is not in the way"


def test_an_algorithm_must_be_named() -> None:
    without = JOB[: JOB.index("  algorithm:")] + JOB[JOB.index("  parallelTrialCount") :]
    assert only(findings_of(without)).path == "spec.algorithm"


def test_a_step_larger_than_the_range_is_a_warning() -> None:
    text = changed(JOB, '{min: "1", max: "4"}', '{min: "1", max: "4", step: "9"}')
    finding = only([each for each in findings_of(text, level="warning") if each.code == "step-above-range"])
    assert (finding.path, finding.value) == ("spec.parameters[1].feasibleSpace.step", "'9'")
    assert load(text).experiment.parameters[1].size == 1


def test_no_experiment_among_the_files() -> None:
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
    with pytest.raises(SpecRefused, match="there is no Experiment"):
        load(config_map)
    assert lint([Source("c.yaml", config_map)]) == ()


def test_all_errors_of_all_files_come_together_in_file_order() -> None:
    first = changed(changed(JOB, "type: maximize", "type: max"), "maxFailedTrialCount: 3", "maxFailedTrialCount: -3")
    with pytest.raises(SpecRefused) as refused:
        load(first, "a: [\n", "apiVersion: v1\nkind: ConfigMap\ndatum: {}\n")
    places = [(finding.file, finding.line) for finding in refused.value.findings if finding.level == "error"]
    assert places == [("0.yaml", 8), ("0.yaml", 18), ("1.yaml", 2), ("2.yaml", 3)]


def test_other_objects_beside_are_a_note() -> None:
    claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {anything: 1}\n"
    assert [finding.level for finding in load(JOB, claim).findings] == ["note"]


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("kubeflow.org/v1", "TFJob"),
        ("kubeflow.org/v1", "MPIJob"),
        ("kubeflow.org/v1", "XGBoostJob"),
        ("kubeflow.org/v1", "Notebook"),
        ("kubeflow.org/v1beta1", "Suggestion"),
        ("kubeflow.org/v1beta1", "Trial"),
        ("batch.volcano.sh/v1alpha1", "Job"),
        ("batch/v1", "CronJob"),
        ("ray.io/v1", "RayJob"),
    ],
)
def test_a_kind_that_others_read_is_a_note(version: str, kind: str) -> None:
    (finding,) = lint([Source("f.yaml", f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n")])
    assert (finding.code, finding.level, finding.on) == ("ignored-object", "note", LOCAL)


@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        ("batch/v1beta1", "Job", "write batch/v1"),
        ("v1", "Job", "write batch/v1"),
        ("kubeflow.org/v1beta1", "PyTorchJob", "write kubeflow.org/v1"),
        ("kubeflow.com/v1beta1", "Experiment", "write kubeflow.org/v1beta1"),
        ("kubeflow.org/v1", "PytorchJob", "did you mean PyTorchJob"),
        ("batch/v1", "Jobs", "did you mean Job"),
        ("v1", "Configmap", "did you mean ConfigMap"),
    ],
)
def test_a_kind_that_is_nearly_one_of_ours_is_an_error(version: str, kind: str, words: str) -> None:
    finding = only(findings_of(f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\n"))
    assert (finding.code, words in finding.hint) == ("unknown-kind", True)


def test_a_secret_beside_is_refused_and_not_shown() -> None:
    """The run folder would keep it."""
    hidden = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {TOKEN: hunter2}\n"
    with pytest.raises(SpecRefused, match="--pass-env") as refused:
        load(JOB, hidden)
    assert "hunter2" not in str(refused.value)


def test_fields_without_meaning_here_are_one_note() -> None:
    text = changed(
        JOB,
        "    primaryContainerName: trainer",
        "    retain: true\n    primaryPodLabels: {a: b}\n    primaryContainerName: trainer",
    )
    text = changed(
        text, "                image: registry", "                imagePullPolicy: Always\n                image: registry"
    )
    text = changed(
        text, "            restartPolicy: Never\n", "            restartPolicy: Never\n            nodeSelector: {a: b}\n"
    )
    notes = findings_of(text, level="note")
    assert "imagePullPolicy" in only(notes).message
    assert "retain" not in only(notes).message, "nobody would miss it here"
    assert "nodeSelector" in only(notes).message
    assert load(text).findings == tuple(notes)


def with_spec(line: str, text: str = JOB) -> str:
    return changed(text, "  parallelTrialCount: 2", f"  {line}\n  parallelTrialCount: 2")


def test_early_stopping_is_served() -> None:
    text = with_spec('earlyStopping: {algorithmName: medianstop, algorithmSettings: [{name: start_step, value: "5"}]}')
    text = changed(text, "    primaryContainerName", "    retain: true\n    primaryContainerName")
    loaded = load(text)
    assert loaded.findings == ()
    assert loaded.experiment.early_stopping.settings == {"start_step": "5"}
    assert "must be at least 1" in only(findings_of(changed(text, '"5"', '"0"'))).message


def test_collectors() -> None:
    for kind in ("File", "TensorFlowEvent", "Push", "StdOut"):
        assert load(with_spec(f"metricsCollectorSpec: {{collector: {{kind: {kind}}}}}")).findings == ()
    custom = with_spec("metricsCollectorSpec: {collector: {kind: Custom, customCollector: {name: c, image: i}}}")
    finding = only(findings_of(custom))
    assert (finding.on, finding.path) == (KATUNA, "spec.metricsCollectorSpec.collector.kind")
    assert "collectors here: StdOut, File" in finding.hint
    text = r"metricsCollectorSpec: {collector: {kind: StdOut}, source: {filter: {metricsFormat: ['(\w+)=(\d+)']}}}"
    assert load(with_spec(text)).experiment.collector.filters == (r"(\w+)=(\d+)",)


@pytest.mark.parametrize(
    ("broken", "words"),
    [("(", "regular expression"), (r"(\w+)=(\d+)(?=x)", "(?="), (r"(\w+)=\d+", "two groups"), (r"(\w+)=(\1)", r"\1")],
)
def test_broken_filters(broken: str, words: str) -> None:
    """Katib looks at them for File, and finds out with the first trial for StdOut."""
    for kind, on in (("StdOut", KATUNA), ("File", EVERYWHERE)):
        spec = f"{{collector: {{kind: {kind}}}, source: {{filter: {{metricsFormat: ['{broken}']}}}}}}"
        finding = only(findings_of(with_spec(f"metricsCollectorSpec: {spec}")))
        assert words in str(finding)
        assert finding.on == on


def test_prometheus_is_served_here_one_trial_at_a_time() -> None:
    text = with_spec("metricsCollectorSpec: {collector: {kind: PrometheusMetric}}")
    assert {(each.code, each.on) for each in findings_of(text)} == {("not-served-by-katib", KATIB), ("shared-port", LOCAL)}
    alone = load(changed(text, "parallelTrialCount: 2", "parallelTrialCount: 1"))
    assert (alone.experiment.collector.port, alone.experiment.collector.path) == (8080, "/metrics")
    assert [each.on for each in alone.findings] == [KATIB], "what another engine refuses is kept, and refuses nothing here"
    for port in ("metrics", '"0"', "70000"):
        named = with_spec(
            f"metricsCollectorSpec: {{collector: {{kind: PrometheusMetric}}, source: {{httpGet: {{port: {port}}}}}}}"
        )
        assert "spec.metricsCollectorSpec.source.httpGet.port" in {each.path for each in findings_of(named)}


def test_a_metric_name_that_the_default_filter_never_reads() -> None:
    text = changed(JOB, "objectiveMetricName: accuracy", "objectiveMetricName: val/accuracy")
    assert "val/accuracy" in only(findings_of(text, level="warning")).message


def test_replicas_of_a_pytorchjob() -> None:
    master = PYTORCHJOB[PYTORCHJOB.index("          Master:") :]
    assert findings_of(PYTORCHJOB + master.replace("Master:", "Worker:")) == []
    assert "must be 1" in str(only(findings_of(changed(PYTORCHJOB, "replicas: 1", "replicas: 2"))))
    assert findings_of(changed(PYTORCHJOB, "Master:", "Worker:")) == []
    assert "did you mean Master" in str(findings_of(changed(PYTORCHJOB, "Master:", "master:")))
    elastic = changed(
        changed(PYTORCHJOB, "Master:", "Worker:"),
        "        pytorchReplicaSpecs:",
        "        elasticPolicy: {maxRestarts: 3}\n        pytorchReplicaSpecs:",
    )
    assert findings_of(elastic) == []


def test_every_container_of_a_pod_is_checked() -> None:
    beside = changed(
        JOB,
        "            containers:",
        "            initContainers: [{name: fetch, image: i}]\n            containers:\n              - {name: side, image: i}",
    )
    assert findings_of(beside, level="note") == []
    assert load(beside).experiment.name == "digits"
    twice = changed(JOB, "            containers:", "            containers:\n              - {name: trainer, image: i}")
    assert "a container already" in str(findings_of(twice))
    reads = "env: [{name: A, valueFrom: {configMapKeyRef: {name: c, key: k}}}]"
    for place in ("initContainers", "containers"):
        index = beside.index("{name: fetch" if place == "initContainers" else "{name: side")
        broken = beside[:index] + beside[index:].replace("image: i}", f"image: i, {reads}}}", 1)
        assert f"{place}[0].env[0].valueFrom.configMapKeyRef" in str(only(findings_of(broken)))
    sidecar = changed(beside, "{name: fetch, image: i}", "{name: fetch, image: i, restartPolicy: Always}")
    assert only(findings_of(sidecar, level="note")).code == "other-containers"


FROM_A_KEY = "                env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n"


def test_a_secret_is_refused_with_the_way_out() -> None:
    finding = only(findings_of(JOB + FROM_A_KEY))
    assert finding.path.endswith("containers[0].env[0].valueFrom.secretKeyRef")
    assert "TOKEN" in finding.message
    assert "--pass-env TOKEN" in finding.hint
    assert load(JOB + FROM_A_KEY, pass_env=("TOKEN",)).findings == ()
    assert findings_of(JOB + FROM_A_KEY, pass_env=("TOKEN",)) == []
    assert load(JOB + FROM_A_KEY.replace("key: k", "key: k, optional: true")).findings == ()


def test_config_maps_of_the_environment_are_read_beside() -> None:
    text = JOB + "                envFrom: [{configMapRef: {name: settings}}]\n"
    assert "give its file beside this one" in str(only(findings_of(text)))
    config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {A: b}\n"
    loaded = load(text, config_map)
    assert loaded.findings == ()
    assert loaded.references[0]["data"] == {"A": "b"}


def test_mistakes_in_a_config_map_template_are_shown_there() -> None:
    experiment = JOB[: JOB.index("    trialSpec:")] + (
        "    configMap: {configMapName: t, configMapNamespace: kubeflow, templatePath: job.yaml}\n"
        "    successCondition: s\n    failureCondition: f\n"
    )
    inner = JOB[JOB.index("      apiVersion: batch/v1") :].replace("restartPolicy", "restartpolicy")
    config_map = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: t}}\ndata:\n  job.yaml: |\n{inner}"
    finding = findings_of(experiment, config_map)[0]
    row = config_map.splitlines().index("            restartpolicy: Never") + 1
    assert (finding.file, finding.line, finding.column) == ("1.yaml", row, 13)
    assert finding.path == "data[job.yaml].spec.template.spec.restartpolicy"
    assert "did you mean restartPolicy" in finding.hint
    quoted = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: t}}\ndata:\n  job.yaml: {json.dumps(inner)}\n"
    finding = findings_of(experiment, quoted)[0]
    assert (finding.file, finding.line, finding.column) == ("1.yaml", 5, 3), "no line of the file is the template's own"


def test_grid_needs_steps_and_a_budget_within_its_size() -> None:
    grid = JOB.replace("algorithmName: tpe", "algorithmName: grid")
    assert "grid needs a step" in str(only(findings_of(grid)))
    stepped = changed(grid, 'max: "0.1", distribution: logUniform', 'max: "0.1", step: "0.05"')
    assert findings_of(stepped) == []
    assert "more than the 16 combinations" in str(only(findings_of(changed(stepped, "maxTrialCount: 12", "maxTrialCount: 17"))))


def test_lint_takes_jobs_alone() -> None:
    alone = "apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata: {name: p}\nspec:\n  pytorchReplicaSpecs: {Worker: {replicas: 2, restartpolicy: Never}}\n"
    finding = only([each for each in findings_of(alone) if each.code == "unknown-field"])
    assert (finding.path, finding.hint) == ("spec.pytorchReplicaSpecs[Worker].restartpolicy", "did you mean restartPolicy?")
    job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i, stdin: 1}]}}}\n"
    assert "spec.template.spec.containers[0].stdin" in {finding.path for finding in findings_of(job)}


def test_loading_is_quick_and_imports_little() -> None:
    started = time.process_time()
    for _ in range(20):
        load(JOB)
    assert (time.process_time() - started) / 20 < 0.05
    code = "import sys, katuna.lint.load; print(*[name for name in ('torch', 'optuna', 'pandas', 'numpy', 'kubernetes') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == ""


def test_a_double_that_has_bounds_and_a_list_is_one_error() -> None:
    finding = only(findings_of(changed(JOB, 'min: "1e-4", max: "0.1"', 'min: "1e-4", max: "0.1", list: ["0.5", "a b"]')))
    assert "a double has no list" in finding.message


def test_a_long_list_takes_linear_time() -> None:
    def seconds(count: int) -> float:
        text = changed(JOB, "[sgd, adam]", json.dumps([f"choice number {n}" for n in range(count)]))
        began = time.process_time()
        assert findings_of(text) == []
        return time.process_time() - began

    seconds(100)
    assert seconds(20_000) < 60 * max(0.05, seconds(1000))


def test_a_grid_over_a_log_scale_from_zero_never_starts_on_katib() -> None:
    text = changed(
        changed(JOB, "algorithmName: tpe", "algorithmName: grid"), 'min: "1e-4", max: "0.1"', 'min: "0", max: "0.1", step: "0.1"'
    )
    text = (
        changed(text, '    algorithmSettings:\n      - name: random_state\n        value: "7"\n', "")
        if "random_state" in text
        else text
    )
    found = [each for each in findings_of(text) if each.code == "log-of-zero"]
    assert [(each.on, each.path) for each in found] == [(KATIB, "spec.parameters[0].feasibleSpace.min")]


def test_a_template_that_is_not_in_its_config_map() -> None:
    whole = yaml.safe_load(JOB)
    template = whole["spec"]["trialTemplate"]
    template["configMap"] = {"configMapName": "templates", "configMapNamespace": "team", "templatePath": "toy.yaml"}
    template |= {
        "successCondition": 'status.conditions.#(type=="Complete")',
        "failureCondition": 'status.conditions.#(type=="Failed")',
    }
    trial = template.pop("trialSpec")
    held = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "templates", "namespace": "team"}}
    beside = json.dumps({**held, "data": {"tony.yaml": json.dumps(trial)}})
    finding = only(findings_of(json.dumps(whole), beside))
    assert (finding.code, finding.path, finding.on) == (
        "no-config-map-key",
        "spec.trialTemplate.configMap.templatePath",
        EVERYWHERE,
    )
    assert "it has: tony.yaml" in finding.hint
    assert findings_of(json.dumps(whole), beside.replace("tony.yaml", "toy.yaml")) == []


def test_a_name_that_the_api_server_would_generate_is_its_beginning_here() -> None:
    loaded = load(JOB.replace("  name: digits\n", "  generateName: digits-\n", 1))
    assert loaded.findings == ()
    assert loaded.experiment.name == "digits"
