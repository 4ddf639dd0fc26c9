"""What a cluster's objects say."""

from __future__ import annotations

from typing import Any

import pytest

from katuna.cluster.objects import Wait, end_of, instances, job_of, labelled, waits_for, warning_of


def a_pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": "n"}, "status": status}


def conditions(*types: str, status: str = "True") -> dict[str, Any]:
    return {"status": {"conditions": [{"type": each, "status": status, "reason": f"{each}Reason"} for each in types]}}


@pytest.mark.parametrize(
    ("job", "condition"),
    [
        ({}, None),
        (conditions("Created", "Running"), None),
        (conditions("Created", "Running", "Succeeded"), "Succeeded"),
        (conditions("SuccessCriteriaMet", "Complete"), "Succeeded"),
        (conditions("FailureTarget", "Failed"), "Failed"),
        (conditions("Succeeded", "Failed"), "Failed"),
        (conditions("Failed", status="False"), None),
    ],
)
def test_the_end_of_a_job(job: dict[str, Any], condition: str | None) -> None:
    end = end_of(job)
    assert (end.condition if end else None) == condition


def test_a_container_that_was_restarted_is_two_runs() -> None:
    failed = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-30T10:00:00Z"}
    status = {"name": "main", "restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": failed}}
    first, second = instances(a_pod(containerStatuses=[status]))
    assert first.ended is not None
    assert (first.restarts, first.ended.code, first.ended.reason, first.ended.at) == (0, 137, "OOMKilled", 1796032800.0)
    assert "used more than its memory limit" in first.ended.message
    assert (second.restarts, second.ended) == (1, None)


@pytest.mark.parametrize(
    ("state", "code", "reason"),
    [
        ({"exitCode": 0, "reason": "Completed"}, 0, "Completed"),
        ({"exitCode": 3, "reason": "Error"}, 3, "Error"),
        ({"exitCode": 143, "reason": "Error"}, 143, "Error"),
        ({"exitCode": 128, "reason": "StartError", "message": "exec: no such file"}, None, "StartError"),
        ({"exitCode": 127, "reason": "ContainerCannotRun", "message": "no"}, None, "StartError"),
    ],
)
def test_how_a_container_ended(state: dict[str, Any], code: int | None, reason: str) -> None:
    (run,) = instances(a_pod(containerStatuses=[{"name": "main", "state": {"terminated": state}}]))
    assert run.ended is not None
    assert (run.ended.code, run.ended.reason) == (code, reason)


def test_why_a_pod_waits() -> None:
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}
    assert list(waits_for(a_pod(conditions=[unschedulable]))) == [Wait("pod p waits for a node: 0/1 nodes are available")]
    pulling = {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}
    assert list(waits_for(a_pod(containerStatuses=[pulling]))) == [
        Wait("pod p, container main: ImagePullBackOff: not found", True)
    ]
    creating = {"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}
    assert list(waits_for(a_pod(containerStatuses=[creating]))) == []
    evicted = list(waits_for(a_pod(phase="Failed", reason="Evicted", message="low on memory")))
    assert evicted == [Wait("pod p failed: Evicted: low on memory")]


def test_a_refused_pod_is_told_by_an_event_alone() -> None:
    about = {"kind": "PyTorchJob", "name": "j", "uid": "u"}
    event = {
        "type": "Warning",
        "reason": "FailedCreatePod",
        "message": "forbidden: violates PodSecurity",
        "involvedObject": about,
    }
    warned = warning_of(event)
    assert warned is not None
    assert warned.says == Wait("PyTorchJob j: FailedCreatePod: forbidden: violates PodSecurity", is_stuck=True)
    assert warning_of({**event, "type": "Normal"}) is None
    assert warning_of({**event, "reason": "FailedScheduling"}) is None, "the pod's own condition says it"


def test_the_job_of_a_pod() -> None:
    labels = {"batch.kubernetes.io/job-name": "j-node-0", "jobset.sigs.k8s.io/jobset-name": "j"}
    assert job_of({"metadata": {"labels": labels}}) == "j"
    assert job_of({"metadata": {}}) == ""


def test_a_job_is_sent_with_two_labels_and_nothing_else_changed() -> None:
    job = {"kind": "Job", "metadata": {"generateName": "j-", "labels": {"mine": "1"}}, "spec": {"a": 1}}
    assert labelled(job, "lab", "run-1") == {
        "kind": "Job",
        "metadata": {"name": "j", "namespace": "lab", "labels": {"mine": "1", "katuna/run": "run-1", "katuna/trial": "j"}},
        "spec": {"a": 1},
    }
    assert labelled(job, "lab", "run-1", "team")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
