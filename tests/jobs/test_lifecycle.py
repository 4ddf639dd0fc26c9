"""The rules over a job's events, without processes: what ends it, what starts again, what its controller would say of it.

Section numbers are those of the Training Operator's reference that the rules are taken from.
"""

from __future__ import annotations

from typing import Any

import pytest

from katuna.jobs import lifecycle
from katuna.jobs.lifecycle import Again, ContainerEvent, ContainerExited, ContainerStarted, Over
from katuna.manifest.build import job_from_manifest
from katuna.manifest.job import Job
from katuna.report.job_status import status
from katuna.search.trials import Ended, Event, Opened, Resumed
from toy_jobs import pytorchjob

OPENED = Opened(100.0, "toy", 0, "0" * 64, {}, {"local": {"restarts": "local"}})
AS_OPERATOR = Opened(100.0, "toy", 0, "0" * 64, {}, {"local": {"restarts": "as-operator"}})


def a_job(**changes: Any) -> Job:
    return job_from_manifest(pytorchjob("pass", **changes))


def started(pod: str, restarts: int = 0, at: float = 101.0, container: str = "pytorch") -> ContainerStarted:
    return ContainerStarted(at, 0, f"toy-{pod}", container, restarts, {})


def exited(pod: str, code: int | None, restarts: int = 0, at: float = 110.0, reason: str = "") -> ContainerExited:
    return ContainerExited(at, 0, f"toy-{pod}", "pytorch", restarts, code, reason or ("Completed" if code == 0 else "Error"))


def after(job: Job, *events: ContainerEvent, rules: lifecycle.Rules = "local", restarts: int = 0) -> Again | Over | None:
    """What follows from the last of the events, an exit."""
    pods: lifecycle.Pods = {}
    for event in events:
        pods = lifecycle.advance(pods, event)
    last = events[-1]
    assert isinstance(last, ContainerExited)
    return lifecycle.after_exit(job, pods, last, rules=rules, restarts=restarts)


BOTH = (started("master-0"), started("worker-0"))


@pytest.mark.parametrize("rules", ["local", "as-operator"])
def test_the_masters_success_is_the_jobs_whatever_the_workers_do(rules: lifecycle.Rules) -> None:
    job = a_job(workers=1)
    assert after(job, *BOTH, exited("master-0", 0), rules=rules) == Over("Succeeded", "Completed")
    assert after(job, *BOTH, exited("worker-0", 0), rules=rules) is None


def test_workers_alone_must_all_succeed_and_of_an_elastic_job_one() -> None:
    manifest = pytorchjob("pass", workers=2)
    del manifest["spec"]["pytorchReplicaSpecs"]["Master"]
    events = (started("worker-0"), started("worker-1"), exited("worker-1", 0))
    assert after(job_from_manifest(manifest), *events) is None
    assert after(job_from_manifest(manifest), *events, exited("worker-0", 0)) == Over("Succeeded", "Completed")
    manifest["spec"]["elasticPolicy"] = {"minReplicas": 1, "maxReplicas": 2, "rdzvBackend": "c10d"}
    assert after(job_from_manifest(manifest), *events) == Over("Succeeded", "Completed")


@pytest.mark.parametrize(
    ("policy", "limit", "code", "local", "cluster"),
    [
        ("Never", None, 1, Over("Failed", "Error"), Over("Failed", "Error")),
        ("Never", 3, 1, Over("Failed", "Error"), Over("Failed", "Error")),
        ("OnFailure", None, 1, Over("Failed", "Error"), Again("container", 10.0)),
        ("OnFailure", 3, 1, Again("job", 0.1), Again("container", 10.0)),
        ("Always", 3, 1, Again("job", 0.1), Again("container", 10.0)),
        ("ExitCode", None, 127, Over("Failed", "Error"), Over("Failed", "Error")),
        ("ExitCode", 3, 127, Over("Failed", "Error"), Over("Failed", "Error")),
        ("ExitCode", None, 128, Over("Failed", "Error"), Again("pod", 0.0)),
        ("ExitCode", 3, 137, Again("job", 0.1), Again("pod", 0.0)),
        ("ExitCode", 0, 137, Over("Failed", "Error"), Over("Failed", "BackoffLimitExceeded")),
    ],
)
def test_what_follows_a_failure(policy: str, limit: int | None, code: int, local: object, cluster: object) -> None:
    job = a_job(workers=1, restart=policy, spec={"runPolicy": {} if limit is None else {"backoffLimit": limit}})
    assert after(job, *BOTH, exited("worker-0", code)) == local
    assert after(job, *BOTH, exited("worker-0", code), rules="as-operator") == cluster


@pytest.mark.parametrize(
    ("worker", "code", "follows"),
    [
        ("Never", 3, Over("Failed", "Error")),
        ("ExitCode", 3, Over("Failed", "Error")),
        ("ExitCode", 137, Again("job", 0.1)),
        ("OnFailure", 3, Again("job", 0.1)),
    ],
)
@pytest.mark.parametrize("master", ["Never", "OnFailure", "ExitCode"])
def test_the_policy_of_the_replica_that_failed_counts(master: str, worker: str, code: int, follows: object) -> None:
    manifest = pytorchjob("pass", workers=1, restart=master, spec={"runPolicy": {"backoffLimit": 2}})
    manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["restartPolicy"] = worker
    assert after(job_from_manifest(manifest), *BOTH, exited("worker-0", code)) == follows


def test_local_restarts_are_as_many_as_the_file_writes() -> None:
    job = a_job(restart="OnFailure", spec={"runPolicy": {"backoffLimit": 2}})
    follows = [after(job, started("master-0"), exited("master-0", 1), restarts=restarts) for restarts in (0, 1, 2)]
    assert follows == [Again("job", 0.1), Again("job", 0.2), Over("Failed", "Error")]


def test_always_never_succeeds_on_a_cluster() -> None:
    job = a_job(restart="Always")
    assert after(job, started("master-0"), exited("master-0", 0)) == Over("Succeeded", "Completed")
    assert after(job, started("master-0"), exited("master-0", 0), rules="as-operator") == Again("container", 10.0)


@pytest.mark.parametrize(("limit", "fails"), [(None, ()), (1, (1,)), (2, (2,)), (0, (1,))])
def test_the_operators_backoff_limit_counts_restarts_of_all_pods_that_run(limit: int | None, fails: tuple[int, ...]) -> None:
    job = a_job(workers=1, restart="OnFailure", spec={"runPolicy": {} if limit is None else {"backoffLimit": limit}})
    over = {}
    for total in (1, 2):
        events = [started("master-0", restarts=total // 2), started("worker-0", restarts=total - total // 2)]
        pods: lifecycle.Pods = {}
        for event in events:
            pods = lifecycle.advance(pods, event)
        over[total] = lifecycle.after_start(job, pods, "as-operator")
        assert lifecycle.after_start(job, pods, "local") is None
    for total in fails:
        assert over[total] == Over("Failed", "BackoffLimitExceeded")
    if limit is None:
        assert over == {1: None, 2: None}
    if limit == 2:
        assert over[1] is None


def batch(policy: str, limit: int | None) -> Job:
    spec = {} if limit is None else {"backoffLimit": limit}
    pod = {"restartPolicy": policy, "containers": [{"name": "pytorch", "image": "i", "command": ["true"]}]}
    return job_from_manifest(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "toy"}, "spec": {"template": {"spec": pod}, **spec}}
    )


@pytest.mark.parametrize(
    ("policy", "limit", "follows"),
    [
        ("Never", 2, [Again("pod", 10.0), Again("pod", 20.0), Over("Failed", "BackoffLimitExceeded")]),
        ("OnFailure", 2, [Again("container", 10.0)] * 3),
    ],
)
def test_a_batch_job_starts_its_pod_or_its_container_again(policy: str, limit: int, follows: list[object]) -> None:
    events = (started("0"), exited("0", 1))
    job = batch(policy, limit)
    assert [after(job, *events, rules="as-operator", restarts=restarts) for restarts in (0, 1, 2)] == follows


@pytest.mark.parametrize(("limit", "allowed"), [(None, 5), (3, 2), (1, 0), (0, 0)])
def test_a_batch_jobs_backoff_limit_counts_restarts_in_its_pod(limit: int | None, allowed: int) -> None:
    job = batch("OnFailure", limit)
    over = {
        restarts: lifecycle.after_start(job, lifecycle.advance({}, started("0", restarts=restarts)), "as-operator")
        for restarts in range(1, 7)
    }
    assert [restarts for restarts, each in over.items() if each is None] == list(range(1, allowed + 1))


def test_the_kubelet_waits_longer_each_time() -> None:
    assert [lifecycle.kubelet_backoff_s(crashes) for crashes in range(7)] == [10, 20, 40, 80, 160, 300, 300]


# Status


def conditions(job: Job, *events: Event) -> list[tuple[str, str, str]]:
    return [(each["type"], each["status"], each["reason"]) for each in status(job, events)["conditions"]]


def test_conditions_of_a_job_from_its_creation_to_its_success() -> None:
    job = a_job(workers=1)
    told: list[Event] = [OPENED]
    assert conditions(job, *told) == [("Created", "True", "PyTorchJobCreated")]
    told.append(started("worker-0"))
    assert [kind for kind, _, _ in conditions(job, *told)] == ["Created"], "Running means that the Master runs"
    told.append(started("master-0"))
    assert conditions(job, *told)[1:] == [("Running", "True", "PyTorchJobRunning")]
    assert status(job, told)["replicaStatuses"] == {"Master": {"active": 1}, "Worker": {"active": 1}}
    told += [
        exited("master-0", 0),
        ContainerExited(111.0, 0, "toy-worker-0", "pytorch", 0, 143, "Stopped"),
        Ended(112.0, True, "Completed", ""),
    ]
    assert conditions(job, *told)[1:] == [("Running", "False", "PyTorchJobRunning"), ("Succeeded", "True", "PyTorchJobSucceeded")]
    whole = status(job, told)
    assert whole["replicaStatuses"] == {"Master": {"succeeded": 1}, "Worker": {"succeeded": 1}}, (
        "one that still ran counts as succeeded"
    )
    assert (whole["startTime"], whole["completionTime"]) == ("1970-01-01T00:01:40Z", "1970-01-01T00:01:52Z")


def test_failed_is_sticky() -> None:
    job = a_job()
    failed = (OPENED, started("master-0"), exited("master-0", 1), Ended(111.0, False, "Error", "it exited with code 1"))
    assert conditions(job, *failed)[-1] == ("Failed", "True", "PyTorchJobFailed")
    assert status(job, failed)["replicaStatuses"] == {"Master": {"failed": 1}}
    assert conditions(job, *failed, Ended(120.0, True, "Completed", ""))[-1] == ("Failed", "True", "PyTorchJobFailed")


def test_a_suspended_job_and_its_resumption() -> None:
    job = a_job()
    told: list[Event] = [OPENED, Ended(101.0, False, "Suspended", "")]
    assert conditions(job, *told) == [("Created", "True", "PyTorchJobCreated"), ("Suspended", "True", "PyTorchJobSuspended")]
    told += [Resumed(200.0, (0,)), started("master-0", at=201.0)]
    assert conditions(job, *told)[1:] == [("Suspended", "False", "PyTorchJobResumed"), ("Running", "True", "PyTorchJobRunning")]
    assert status(job, told)["startTime"] == "1970-01-01T00:03:20Z", "a resumed job starts anew"


def test_a_container_that_restarts_in_its_pod_leaves_the_job_running() -> None:
    job = a_job(restart="OnFailure")
    told = (AS_OPERATOR, started("master-0"), exited("master-0", 1), started("master-0", restarts=1, at=120.0))
    assert conditions(job, *told)[1:] == [("Running", "True", "PyTorchJobRunning")]
    assert status(job, told)["conditions"][1]["lastTransitionTime"] == "1970-01-01T00:01:41Z"


def test_a_pod_that_begins_anew_makes_the_job_restart() -> None:
    job = a_job(restart="ExitCode")
    told = (AS_OPERATOR, started("master-0"), exited("master-0", 137), started("master-0", at=120.0))
    assert conditions(job, *told)[1:] == [("Running", "True", "PyTorchJobRunning")]
    assert status(job, told)["conditions"][1]["lastTransitionTime"] == "1970-01-01T00:02:00Z"


def test_a_job_that_katuna_left_runs_no_more() -> None:
    told = (OPENED, started("master-0"), exited("master-0", 143, reason="Stopped"))
    left = status(a_job(), told, stopped=True)
    assert [left["conditions"][-1][name] for name in ("type", "status", "reason")] == ["Running", "False", "KatunaStopped"]
    assert left["replicaStatuses"] == {"Master": {}}


def test_a_trainjob_says_less() -> None:
    manifest = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "toy"},
        "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": {"image": "i", "numNodes": 2, "command": ["true"]}},
    }
    job = job_from_manifest(manifest)
    pods = [replica.pod_name for replica in job.replicas]
    told: list[Event] = [OPENED, *(ContainerStarted(101.0, 0, pod, "node", 0, {}) for pod in pods)]
    assert status(job, told) == {"conditions": [], "jobsStatus": [{"name": "node", "active": 2}]}
    told += [*(ContainerExited(102.0, 0, pod, "node", 0, 0, "Completed") for pod in pods), Ended(103.0, True, "Completed", "")]
    whole = status(job, told)
    assert [(each["type"], each["reason"]) for each in whole["conditions"]] == [("Complete", "AllJobsCompleted")]
    assert whole["jobsStatus"] == [{"name": "node", "succeeded": 2}]


@pytest.mark.parametrize(("condition", "told"), [("Succeeded", "Complete"), ("Failed", "Failed")])
def test_a_batch_job_has_a_time_of_completion_only_when_it_completed(condition: str, told: str) -> None:
    job = batch("Never", 0)
    events = (
        OPENED,
        started("0"),
        exited("0", int(condition == "Failed")),
        Ended(111.0, condition == "Succeeded", "BackoffLimitExceeded", ""),
    )
    whole = status(job, events)
    assert [each["type"] for each in whole["conditions"]] == [told]
    assert whole.get("completionTime") == ("1970-01-01T00:01:51Z" if condition == "Succeeded" else None)
