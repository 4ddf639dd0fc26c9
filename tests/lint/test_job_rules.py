from __future__ import annotations

import pytest

from experiments import JOB, PYTORCHJOB, changed, findings_of, only
from katuna.errors import EVERYWHERE, KATIB, KATUNA
from katuna.lint.load import Source, lint, load_experiment

POD = "spec.trialTemplate.trialSpec.spec.template.spec"
MASTER = "spec.trialTemplate.trialSpec.spec.pytorchReplicaSpecs[Master]"
IMAGE = "                image: registry.example/trial:1\n"
JOB_SPEC = "      spec:\n        template:"
PYTORCH_SPEC = "        pytorchReplicaSpecs:"


def with_container(fields: str) -> str:
    """The Job with more fields in its container."""
    return changed(JOB, IMAGE, f"{IMAGE}                {fields}\n")


def with_policy(fields: str) -> str:
    return changed(PYTORCHJOB, PYTORCH_SPEC, f"        runPolicy: {{{fields}}}\n{PYTORCH_SPEC}")


BROKEN = {
    "env without a name": (with_container("env: [{value: x}]"), f"{POD}.containers[0].env[0].name", "must be specified"),
    "all of a Secret": (with_container("envFrom: [{secretRef: {name: s}}]"), f"{POD}.containers[0].envFrom[0].secretRef", "the Secret s in namespace kubeflow is not among the files"),
    "no such pod field": (
        with_container("env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]"),
        f"{POD}.containers[0].env[0].valueFrom.fieldRef.fieldPath",
        "metadata.uid of the pod is not known here",
    ),
    "a resource field": (
        with_container("env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]"),
        f"{POD}.containers[0].env[0].valueFrom.resourceFieldRef",
        "--pass-env A",
    ),
    "a NUL in the command": (changed(JOB, "[python, train.py,", '[python, "a\\0b",'), f"{POD}.containers[0].command[1]", "NUL"),
    "a NUL in the args": (changed(JOB, 'args: ["--layers', 'args: ["\\0", "--layers'), f"{POD}.containers[0].args[0]", "NUL"),
    "a NUL in the working folder": (with_container('workingDir: "/a\\0b"'), f"{POD}.containers[0].workingDir", "NUL"),
    "a NUL in a variable": (with_container('env: [{name: A, value: "a\\0b"}]'), f"{POD}.containers[0].env[0].value", "NUL"),
    "a NUL in a variable's name": (with_container('env: [{name: "A\\0B"}]'), f"{POD}.containers[0].env[0].name", "'='"),
    "a variable's name with =": (with_container("env: [{name: A=B, value: c}]"), f"{POD}.containers[0].env[0].name", "'='"),
    "half a GPU": (with_container("resources: {limits: {nvidia.com/gpu: 0.5}}"), f"{POD}.containers[0].resources.limits[nvidia.com/gpu]", "whole number"),
    "fewer than no GPU": (with_container("resources: {limits: {nvidia.com/gpu: -1}}"), f"{POD}.containers[0].resources.limits[nvidia.com/gpu]", "whole number"),
    "GPUs asked for without a limit": (
        with_container('resources: {requests: {nvidia.com/gpu: "1"}}'),
        f"{POD}.containers[0].resources.requests[nvidia.com/gpu]",
        "must equal the limit",
    ),
    "a quantity that is none": (with_container("resources: {limits: {memory: 4 GB}}"), f"{POD}.containers[0].resources.limits.memory", "a quantity"),
    "a container without a name": (changed(JOB, "            containers:", "            containers:\n              - {image: i}"), f"{POD}.containers[0].name", "must be specified"),
    "a container without an image": (changed(JOB, IMAGE, ""), f"{POD}.containers[0].image", "must be specified"),
    "a suspended job": (changed(JOB, JOB_SPEC, JOB_SPEC.replace("template", "suspend: true\n        template")), "spec.trialTemplate.trialSpec.spec.suspend", "never starts by itself"),
    "two at once": (
        changed(JOB, JOB_SPEC, JOB_SPEC.replace("template", "parallelism: 2\n        template")),
        "spec.trialTemplate.trialSpec.spec.parallelism",
        "2 pods of one Job",
    ),
    "a negative deadline of the pod": (
        changed(JOB, "            restartPolicy: Never", "            restartPolicy: Never\n            activeDeadlineSeconds: -5"),
        f"{POD}.activeDeadlineSeconds",
        "less than 0",
    ),
    "a negative backoffLimit": (with_policy("backoffLimit: -1"), "spec.trialTemplate.trialSpec.spec.runPolicy.backoffLimit", "less than 0"),
    "a suspended PyTorchJob": (with_policy("suspend: true"), "spec.trialTemplate.trialSpec.spec.runPolicy.suspend", "never starts"),
    "a restart policy of the Master": (changed(PYTORCHJOB, "restartPolicy: Never", "restartPolicy: Exitcode"), f"{MASTER}.restartPolicy", "did you mean ExitCode"),
    "a misspelt field of the Master": (changed(PYTORCHJOB, "image: registry", "imag: registry"), f"{MASTER}.template.spec.containers[0].imag", "did you mean image"),
    "no container named pytorch": (
        changed(PYTORCHJOB, "- name: pytorch", "- name: trainer").replace("primaryContainerName: pytorch", "primaryContainerName: trainer"),
        f"{MASTER}.template.spec.containers",
        "the operator wants a container named pytorch",
    ),
    "a dot in the name of PyTorchJobs": (changed(PYTORCHJOB, "name: digits\n", "name: digits.v2\n"), "metadata.name", "dot"),
    "a number that must be text": (changed(PYTORCHJOB, PYTORCH_SPEC, f"        nprocPerNode: 2\n{PYTORCH_SPEC}"), "spec.trialTemplate.trialSpec.spec.nprocPerNode", "text"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "path", "words"), BROKEN.values(), ids=BROKEN)
def test_what_a_trial_cannot_run(text: str, path: str, words: str) -> None:
    found = [finding for finding in findings_of(text) if finding.path == path]
    assert found, "\n".join(map(str, findings_of(text)))
    assert words in str(found[0])


def test_remarks_on_a_pytorchjob_are_not_katibs() -> None:
    """Katib passes a PyTorchJob on unread; a batch Job it takes apart."""
    text = changed(PYTORCHJOB, "image: registry", "stdin: x\n                    image: registry")
    assert only(findings_of(text)).on == KATUNA
    assert only(findings_of(text, level="warning")).on == KATIB
    assert only(findings_of(with_container("stdin: x"))).on == EVERYWHERE


def test_a_nul_is_refused_for_katib_too() -> None:
    text = with_container('env: [{name: A, value: "a\\0b"}]')
    finding = only(findings_of(text))
    assert (finding.on, "'A'" in finding.message) == (EVERYWHERE, True)
    assert finding.line == 1 + text[: text.index('"a\\0b"')].count("\n")


def test_a_nul_that_comes_from_a_config_map() -> None:
    reference = "valueFrom: {configMapKeyRef: {name: c, key: k}}"
    config_map = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {k: "a\\0b"}\n'
    for fields, path in (
        (f"env: [{{name: A, {reference}}}]", "env[0].valueFrom.configMapKeyRef"),
        ("envFrom: [{configMapRef: {name: c}}]", "envFrom[0].configMapRef"),
    ):
        finding = only(findings_of(with_container(fields), config_map))
        assert finding.path == f"{POD}.containers[0].{path}"
        assert "NUL" in finding.message


@pytest.mark.parametrize(("choice", "path"), [('"a\\0b"', ".list[1]"), (r"'a\u0000b'", ".list[1]")])
def test_a_choice_that_brings_or_makes_a_nul(choice: str, path: str) -> None:
    """The text of a choice goes into the template's JSON as it is: a backslash in it is read as one of JSON's."""
    finding = only(findings_of(changed(JOB, "list: [sgd, adam]", f"list: [sgd, {choice}]")))
    assert finding.path == f"spec.parameters[2].feasibleSpace{path}"
    assert "NUL" in finding.message
    assert finding.on == EVERYWHERE


@pytest.mark.parametrize("kind", [JOB, PYTORCHJOB])
def test_a_job_without_its_template(kind: str) -> None:
    head = kind[: kind.index("        template:" if kind is JOB else "            template:")]
    found = [str(finding) for finding in findings_of(head + ("        completions: 1\n" if kind is JOB else ""))]
    assert any("template" in each and ": must be specified" in each for each in found), found


def test_fields_of_a_pytorchjob_without_meaning_here() -> None:
    policy = "ttlSecondsAfterFinished: 10, schedulingPolicy: {queue: q}, cleanPodPolicy: All, backoffLimit: 1"
    assert only(findings_of(with_policy(policy), level="note")).message.endswith(": schedulingPolicy, ttlSecondsAfterFinished")


def test_a_dot_is_fine_in_the_name_of_jobs() -> None:
    assert findings_of(changed(JOB, "name: digits\n", "name: digits.v2\n")) == []


def test_a_missing_restart_policy_is_the_clusters_concern() -> None:
    text = changed(JOB, "            restartPolicy: Never\n", "")
    error, warning = lint([Source("0.yaml", text)])
    assert ((error.level, error.on), (warning.level, warning.on)) == (("error", ("cluster",)), ("warning", KATIB))
    assert load_experiment([Source("0.yaml", text)]).findings == (error, warning)


VOLUMES = {
    "scratch": ("emptyDir: {}", None),
    "of this machine": ("hostPath: {path: /data}", None),
    "a claim": ("persistentVolumeClaim: {claimName: data}", None),
    "a server": ("nfs: {server: s, path: /}", "--map"),
    "a ConfigMap that is not here": ("configMap: {name: settings}", "its file beside this one"),
    "one that need not be": ("configMap: {name: settings, optional: true}", None),
    "a Secret that is not here": ("secret: {secretName: keys}", "its file beside this one"),
}


@pytest.mark.parametrize(("source", "hint"), VOLUMES.values(), ids=VOLUMES)
def test_volumes_without_a_meaning_here_are_noted_with_a_way_out(source: str, hint: str | None) -> None:
    text = with_container("volumeMounts: [{name: data, mountPath: /data}]")
    volumes = f"            volumes: [{{name: data, {source}}}]\n            restartPolicy: Never"
    notes = findings_of(changed(text, "            restartPolicy: Never", volumes), level="note")
    if hint is None:
        assert notes == []
    else:
        assert (only(notes).code, only(notes).path) == ("volumes-not-mounted", f"{POD}.volumes[0].{source.partition(':')[0]}")
        assert hint in only(notes).hint


def test_placeholders_in_numbers_are_refused_for_a_job_and_text_for_a_pytorchjob() -> None:
    """An inline template renders text only; Katib converts a Job before it accepts the Experiment."""
    deadline = JOB_SPEC.replace("template", 'activeDeadlineSeconds: "${trialParameters.layers}"\n        template')
    found = only(findings_of(changed(JOB, JOB_SPEC, deadline)))
    assert (found.on, found.path) == (EVERYWHERE, "spec.trialTemplate.trialSpec.spec.activeDeadlineSeconds")
    found = only(findings_of(with_policy('activeDeadlineSeconds: "${trialParameters.layers}"')))
    assert (found.on, found.path) == (KATUNA, "spec.trialTemplate.trialSpec.spec.runPolicy.activeDeadlineSeconds")
