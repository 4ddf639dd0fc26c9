"""PyTorchJobs alone, and the Training Operator's recorded verdicts on them."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_damage import junk, paths, put

from experiments import changed, only
from katuna.errors import CLUSTERS, EVERYWHERE, LOCAL, Finding
from katuna.lint.load import Source, lint
from katuna.manifest.yamltext import parse

POD = """\
      template:
        spec:
          containers:
            - name: pytorch
              image: registry.example/train:1
              command: [torchrun, train.py]
"""
JOB = f"""\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: digits
spec:
  nprocPerNode: "1"
  runPolicy:
    backoffLimit: 3
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: OnFailure
{POD}    Worker:
      replicas: 2
      restartPolicy: OnFailure
{POD}"""
REPLICAS = "spec.pytorchReplicaSpecs"
WORKER = JOB[JOB.index("    Worker:") :]
MASTER = JOB[JOB.index("    Master:") : JOB.index("    Worker:")]
ELASTIC = changed(JOB, MASTER, "").replace('  nprocPerNode: "1"\n', "  elasticPolicy: {minReplicas: 1, maxReplicas: 2}\n")


def findings(text: str) -> list[Finding]:
    return list(lint([Source("f.yaml", text)]))


def test_good_jobs_are_without_remark() -> None:
    assert findings(JOB) == []
    assert [each for each in findings(ELASTIC) if each.level != "note"] == []


def test_every_verdict_of_the_operator(operator_truth: list[dict[str, Any]]) -> None:
    wrong = {}
    for entry in operator_truth:
        errors = [each for each in findings(entry["text"]) if each.level == "error" and "cluster" in each.on]
        if bool(errors) == entry["accepted"]:
            wrong[entry["file"]] = errors
    assert wrong == {}
    assert len(operator_truth) == 45


def test_the_webhooks_field_is_named(operator_truth: list[dict[str, Any]]) -> None:
    refused = [entry for entry in operator_truth if not entry["accepted"]]
    assert len(refused) > 7
    for entry in refused:
        path = re.search(r"(?:request|invalid): ([\w.\[\]]+): ", entry["message"])
        assert path is not None
        assert path[1] in [each.path for each in findings(entry["text"]) if each.level == "error"], entry["message"]


def test_an_accepted_job_that_never_runs_is_warned_of(operator_truth: list[dict[str, Any]]) -> None:
    idle = [entry for entry in operator_truth if entry["accepted"] and not entry["pods"]]
    assert len(idle) > 3
    for entry in idle:
        warned = [each for each in findings(entry["text"]) if each.level == "warning" and each.on == CLUSTERS]
        assert warned, entry["file"]


def test_variables_that_stay_unexpanded_are_those_that_the_operator_does_not_set(operator_truth: list[dict[str, Any]]) -> None:
    """Each $(NAME) in a recorded command, against the recorded environment of its container."""
    told = 0
    for entry in operator_truth:
        shown = {(each.path, each.message) for each in findings(entry["text"]) if each.code == "unexpanded-variable"}
        missing = set()
        for pod in (entry.get("pods") or {}).values():
            environment = {name for name, _ in pod["pytorch"]["env"]}
            words = pod["pytorch"]["command"] or []
            missing |= {name for word in words for name in re.findall(r"\$\((\w+)\)", word)} - environment
        named = {re.match(r"\$\((\w+)\)", message)[1] for path, message in shown if ".command" in path}  # type: ignore[index]
        assert named == missing, entry["file"]
        told += len(named)
    assert told > 5


REFUSED = {
    "a misspelt replica": (changed(JOB, "    Worker:", "    worker:"), f"{REPLICAS}[worker]", "unknown-value"),
    "no number of Masters": (changed(JOB, "      replicas: 1\n", ""), f"{REPLICAS}[Master].replicas", "master-replicas"),
    "elastic without Workers": (changed(ELASTIC, WORKER, MASTER), f"{REPLICAS}[Worker]", "elastic-workers"),
    "another manager": (changed(JOB, "backoffLimit: 3", 'managedBy: ""'), "spec.runPolicy.managedBy", "unknown-value"),
    "nproc as a number": (changed(JOB, '"1"', "1"), "spec.nprocPerNode", "wrong-type"),
    "no name": (changed(JOB, "name: digits", "labels: {a: b}"), "metadata.name", "missing-field"),
    "a name with a digit first": (changed(JOB, "name: digits", "name: 1digits"), "metadata.name", "job-name"),
    "no replicas at all": (JOB[: JOB.index("  pytorchReplicaSpecs")], REPLICAS, "missing-field"),
    "a volume's mount without a path": (
        JOB + "              volumeMounts: [{name: v}]\n          volumes: [{name: v, emptyDir: {}}]\n",
        f"{REPLICAS}[Worker].template.spec.containers[0].volumeMounts[0].mountPath",
        "missing-field",
    ),
    "more asked for than the limit": (
        JOB + "              resources: {requests: {memory: 2Gi}, limits: {memory: 1Gi}}\n",
        f"{REPLICAS}[Worker].template.spec.containers[0].resources.requests.memory",
        "resource-amount",
    ),
}


@pytest.mark.parametrize(("text", "path", "code"), REFUSED.values(), ids=REFUSED)
def test_what_the_cluster_refuses(text: str, path: str, code: str) -> None:
    errors = [each for each in findings(text) if each.level == "error"]
    assert [(each.path, each.code, each.on) for each in errors] == [(path, code, EVERYWHERE)]


def with_policy(policy: str, restart: str = "OnFailure") -> str:
    return changed(JOB, "backoffLimit: 3", policy).replace("restartPolicy: OnFailure", f"restartPolicy: {restart}")


def test_a_job_as_it_is_published_has_no_finding() -> None:
    """pytorch-mnist: OnFailure, and no runPolicy."""
    assert findings(changed(JOB, "  runPolicy:\n    backoffLimit: 3\n", "")) == []


def test_a_job_without_replicas_is_one_error() -> None:
    assert only(findings(JOB[: JOB.index("spec:")] + "spec: {}\n")).code == "missing-field"


def plain(nproc: str) -> str:
    return changed(JOB, '"1"', f'"{nproc}"').replace("[torchrun, train.py]", "[python3, train.py]")


WARNED = {
    "always started again": (with_policy("backoffLimit: 3", "Always"), "restart-always"),
    "a limit that ExitCode knows nothing of": (with_policy("backoffLimit: 3", "ExitCode"), "backoff-limit"),
    "a limit of one": (with_policy("backoffLimit: 1"), "backoff-limit"),
    "a clean-up that means All": (with_policy("{backoffLimit: 3, cleanPodPolicy: running}"), "unknown-value"),
    "never deleted": (with_policy("ttlSecondsAfterFinished: 5", "ExitCode"), "ttl-exit-code"),
    "python alone with several processes": (plain("2"), "world-size"),
    "Workers that know nothing of each other": (changed(JOB, MASTER, ""), "no-rendezvous"),
    "a range upside down": (changed(ELASTIC, "minReplicas: 1", "minReplicas: 3"), "elastic-range"),
    "a range from nothing": (changed(ELASTIC, "minReplicas: 1", "minReplicas: 0"), "elastic-range"),
    "more Workers than the range": (changed(ELASTIC, "      replicas: 2", "      replicas: 9"), "elastic-range"),
    "no rendezvous configuration": (changed(ELASTIC, "minReplicas: 1", "minReplicas: 1, rdzvConf: []"), "elastic-rdzv-conf"),
    "a backend that torchrun has not": (changed(ELASTIC, "minReplicas: 1", "minReplicas: 1, rdzvBackend: zk"), "elastic-backend"),
    "standalone": (changed(ELASTIC, "minReplicas: 1", "minReplicas: 1, standalone: true"), "elastic-standalone"),
    "elastic under plain python": (ELASTIC.replace("[torchrun", "[/usr/bin/python"), "elastic-python"),
    "elastic with a Master": (changed(ELASTIC, WORKER, MASTER + WORKER), "elastic-master"),
    "a name that leaves no room": (changed(JOB, "name: digits", f"name: d{'x' * 54}"), "job-name"),
    "the port under another name": (JOB + "              ports: [{name: web, containerPort: 23456}]\n", "port-name"),
    "the pod's own restart policy": (JOB + "          restartPolicy: Always\n", "overridden-restart-policy"),
}  # fmt: skip


CLUSTERS_ALONE = (
    *("backoff-limit", "unknown-value", "ttl-exit-code", "elastic-rdzv-conf", "elastic-standalone", "job-name", "port-name"),
)
"""What does not come to the same here: it is mended, or another rule holds."""


@pytest.mark.parametrize(("text", "code"), WARNED.values(), ids=WARNED)
def test_what_the_operator_takes_and_does_otherwise(text: str, code: str) -> None:
    """Most of it comes to the same here."""
    found = findings(
        text.replace("    {backoffLimit: 3, cleanPodPolicy: running}", "    backoffLimit: 3\n    cleanPodPolicy: running")
    )
    assert [each for each in found if each.level == "error"] == []
    on = CLUSTERS if code in CLUSTERS_ALONE else EVERYWHERE
    assert {(each.code, each.on) for each in found if each.level == "warning"} == {(code, on)}


def test_a_restart_policy_with_a_typo_is_passed_on_by_the_operator_and_refused_here() -> None:
    found = {(each.level, each.code, each.on) for each in findings(with_policy("backoffLimit: 3", "Onfailure"))}
    assert found == {("error", "unknown-value", LOCAL), ("warning", "unknown-value", CLUSTERS)}


@pytest.mark.parametrize("launcher", ["torchrun, train.py", "python3, -m, torch.distributed.run, train.py", "bash, -c, run"])
def test_what_may_start_several_processes(launcher: str) -> None:
    text = changed(JOB, '"1"', '"2"').replace("[torchrun, train.py]", f"[{launcher}]")
    assert findings(text) == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ('env: [{name: RANK, value: "3"}]', "overridden-variable"),
        ('env: [{name: URL, value: "tcp://$(MASTER_ADDR)"}]', "unexpanded-variable"),
        ('args: ["$(PET_RDZV_ENDPOINT)"]', "unexpanded-variable"),
    ],
)
def test_variables_of_the_operator(fields: str, code: str) -> None:
    finding = only(findings(f"{JOB}              {fields}\n"))
    assert (finding.code, finding.level, finding.on) == (code, "warning", EVERYWHERE)
    assert finding.line == len(JOB.splitlines()) + 1


@pytest.mark.parametrize("fields", ['env: [{name: MASTER, value: "$$(MASTER_ADDR)"}]', 'args: ["$(MASTER_ADDR)", "$(HOME)"]'])
def test_variables_that_are_used_well(fields: str) -> None:
    assert findings(f"{JOB}              {fields}\n") == []


def test_what_a_run_here_ignores_is_one_note() -> None:
    policy = "schedulingPolicy: {queue: q}\n    cleanPodPolicy: None\n    ttlSecondsAfterFinished: 9"
    note = only(findings(with_policy(policy)))
    assert (note.level, note.on, note.code) == ("note", LOCAL, "ignored-field")
    assert note.message.endswith(": schedulingPolicy, ttlSecondsAfterFinished")


def test_a_job_of_kubernetes_alone() -> None:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "a"},
        "spec": {"completions": 3, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
    }
    several = only(findings(json.dumps(job)))
    assert (several.code, several.on) == ("several-pods", LOCAL)
    del job["spec"]["completions"]  # type: ignore[attr-defined]
    assert findings(json.dumps(job)) == []
    broken = json.loads(json.dumps(job))
    broken["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    broken["spec"]["template"]["spec"]["containers"].append({"name": "c", "image": "i"})
    assert {each.code for each in findings(json.dumps(broken)) if each.level == "error"} == {"unknown-value", "repeated-name"}


EXAMPLES = [
    parse(Source("f", text))[0][0].value
    for text in (
        JOB,
        ELASTIC,
        JOB.replace(
            "command:", "env: [{name: A, value: x}]\n              ports: [{containerPort: 23456}]\n              command:"
        ),
    )
]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_gives_findings_and_nothing_else(data: st.DataObject) -> None:
    manifest = copy.deepcopy(data.draw(st.sampled_from(EXAMPLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        places = paths(manifest)[1:]
        if places:
            how = data.draw(st.sampled_from(["replace", "remove", "add"]))
            put(manifest, data.draw(st.sampled_from(places)), copy.deepcopy(data.draw(junk)), how)
    assert all(each.message and each.code and str(each).isprintable() for each in findings(json.dumps(manifest)))
