"""The ten traps of the Training Operator (training-operator.md, 10.3), one test each: what a run here makes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from katuna.errors import Finding, SpecRefused
from katuna.jobs import lifecycle
from katuna.jobs.lifecycle import Again, ContainerExited, ContainerStarted, Over
from katuna.launch.local_options import LocalOptions
from katuna.launch.plan import Place, Planned, plan, preflight
from katuna.launch.ports import free_port
from katuna.lint.load_job import LoadedJob, load_job
from katuna.manifest.build import job_from_manifest
from katuna.manifest.job import Job
from katuna.manifest.yamltext import Source
from katuna.report.job_status import status
from katuna.search.trials import Ended, Opened
from toy_jobs import pytorchjob


def load(manifest: Mapping[str, Any]) -> LoadedJob:
    return load_job([Source("job.yaml", yaml.safe_dump(dict(manifest)))])


def job_of(manifest: Mapping[str, Any]) -> Job:
    return job_from_manifest(load(manifest).manifest)


def planned(job: Job, devices: tuple[str, ...] = (), port: int = 4711, **options: Any) -> list[Planned]:
    place = Place(Path("/tmp"), LocalOptions(**options), os.environ, {}, {}, {}, 8)  # noqa: S108
    return list(plan(job, place, devices, port))


def mains(job: Job, **more: Any) -> list[Planned]:
    return [each for each in planned(job, **more) if each.is_main]


def findings(manifest: Mapping[str, Any]) -> list[Finding]:
    try:
        return list(load(manifest).findings)
    except SpecRefused as error:
        return list(error.findings)


def replicas(manifest: dict[str, Any]) -> dict[str, Any]:
    specs: dict[str, Any] = manifest["spec"]["pytorchReplicaSpecs"]
    return specs


def ended(job: Job, code: int, rules: lifecycle.Rules, pod: str = "toy-master-0") -> Again | Over | None:
    pods: lifecycle.Pods = {}
    for replica in job.replicas:
        pods = lifecycle.advance(pods, ContainerStarted(1.0, 0, replica.pod_name, "pytorch", 0, {}))
    event = ContainerExited(2.0, 0, pod, "pytorch", 0, code, "Error" if code else "Completed")
    return lifecycle.after_exit(job, lifecycle.advance(pods, event), event, rules=rules, restarts=0)


def test_1_rank_is_of_nodes_and_no_process_is_added() -> None:
    job = job_of(pytorchjob("pass", workers=1, spec={"nprocPerNode": "2"}))
    here = mains(job)
    assert [(each.command.env["RANK"], each.command.env["WORLD_SIZE"]) for each in here] == [("0", "4"), ("1", "4")]
    assert all(each.command.argv[-1] == "pass" for each in here)
    words = job_of(pytorchjob("pass", workers=1, spec={"nprocPerNode": "gpu"}))
    assert {each.command.env["WORLD_SIZE"] for each in mains(words)} == {"2"}, "a word counts as 1"
    assert any(
        "WORLD_SIZE" in each.message or "torchrun" in each.message
        for each in findings(pytorchjob("pass", spec={"nprocPerNode": "2"}))
    )


def test_2_the_masters_success_is_the_jobs() -> None:
    job = job_of(pytorchjob("pass", workers=1))
    assert ended(job, 0, "local") == Over("Succeeded", "Completed")
    assert ended(job, 0, "local", "toy-worker-0") is None


def test_3_a_master_needs_its_replicas_and_a_worker_does_not() -> None:
    manifest = pytorchjob("pass", workers=1)
    del replicas(manifest)["Worker"]["replicas"]
    assert len(job_of(manifest).replicas) == 2
    replicas(manifest)["Master"] = {**replicas(manifest)["Master"]}
    del replicas(manifest)["Master"]["replicas"]
    (refusal,) = [each for each in findings(manifest) if each.level == "error"]
    assert "Master" in refusal.path + refusal.message
    assert "replicas" in refusal.path + refusal.message


def test_4_restarts_under_onfailure_stay_in_the_pod_and_never_fail_the_job() -> None:
    job = job_of(pytorchjob("pass", restart="OnFailure"))
    assert ended(job, 1, "as-operator") == Again("container", 10.0)
    limited = job_of(pytorchjob("pass", restart="OnFailure", spec={"runPolicy": {"backoffLimit": 1}}))
    again = lifecycle.advance({}, ContainerStarted(1.0, 0, "toy-master-0", "pytorch", 1, {}))
    assert lifecycle.after_start(limited, again, "as-operator") == Over("Failed", "BackoffLimitExceeded"), (
        "1 means: the first restart"
    )
    assert ended(job, 1, "local") == Over("Failed", "Error")
    assert ended(limited, 1, "local") == Again("job", 0.1), "here 1 means one restart"


def test_5_exit_codes_of_torchrun_and_of_signals() -> None:
    job = job_of(pytorchjob("pass", restart="ExitCode"))
    assert ended(job, 1, "as-operator") == Over("Failed", "Error"), "torchrun's, whatever its child did"
    assert ended(job, 137, "as-operator") == Again("pod", 0.0), (
        "a container's SIGKILL; tests/launch/test_local.py has the -9 of a process"
    )


def test_6_auto_is_not_all_cpus_of_a_machine_that_replicas_share() -> None:
    torchrun: dict[str, Any] = {
        "container": {"command": ["torchrun", "train.py"], "resources": {"limits": {"cpu": "2", "nvidia.com/gpu": 1}}}
    }
    job = job_of(pytorchjob("pass", workers=1, spec={"nprocPerNode": "auto"}, **torchrun))
    here = mains(job, devices=("GPU-a", "GPU-b"))
    assert [each.command.env["CUDA_VISIBLE_DEVICES"] for each in here] == ["GPU-a", "GPU-b"], (
        "LOCAL_RANK 0 is another device in each"
    )
    without: dict[str, Any] = {"container": {"command": ["torchrun", "train.py"], "resources": {"limits": {"cpu": "2"}}}}
    job = job_of(pytorchjob("pass", workers=1, spec={"nprocPerNode": "cpu"}, **without))
    assert {each.command.env["PET_NPROC_PER_NODE"] for each in mains(job)} == {"2"}


def test_7_elastic_ranks_follow_the_replicas() -> None:
    manifest = pytorchjob("pass", workers=2, spec={"elasticPolicy": {"minReplicas": 2, "maxReplicas": 2, "rdzvBackend": "c10d"}})
    del replicas(manifest)["Master"]
    env = [each.command.env for each in mains(job_of(manifest))]
    assert env[0]["PET_LOCAL_ADDR"] < env[1]["PET_LOCAL_ADDR"]
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & {*env[0], *env[1]}
    del manifest["spec"]["elasticPolicy"]
    assert any("rendezvous" in each.message.lower() or "MASTER_ADDR" in each.message for each in findings(manifest))


def test_8_precedence_and_expansion() -> None:
    manifest = pytorchjob("pass", "$(MASTER_ADDR)", "$(MINE)", env={"RANK": "7", "MINE": "at $(MASTER_ADDR)"})
    pod = replicas(manifest)["Master"]["template"]["spec"]
    pod["initContainers"] = [{"name": "before", "image": "i", "command": ["true", "$(MASTER_ADDR)"]}]
    pod["containers"].append({"name": "beside", "image": "i", "command": ["true", "$(MASTER_ADDR)"]})
    found = {each.container.name: each.command for each in planned(job_of(manifest))}
    assert found["pytorch"].env["RANK"] == "0"
    assert found["pytorch"].argv[-2:] == ("127.0.0.1", "at $(MASTER_ADDR)")
    assert found["before"].argv[-1] == "$(MASTER_ADDR)"
    assert "RANK" not in found["before"].env
    assert found["beside"].argv[-1] == "127.0.0.1"
    assert found["beside"].env["RANK"] == "0"


def test_9_failed_is_sticky_and_an_unknown_policy_is_told() -> None:
    job = job_of(pytorchjob("pass"))
    events = (
        Opened(1.0, "toy", 0, "", {}, {}),
        ContainerStarted(2.0, 0, "toy-master-0", "pytorch", 0, {}),
        Ended(3.0, False, "Error", ""),
        Ended(4.0, True, "Completed", ""),
    )
    assert status(job, events)["conditions"][-1]["type"] == "Failed"
    (told,) = [
        each
        for each in findings(pytorchjob("pass", spec={"runPolicy": {"cleanPodPolicy": "none"}}))
        if "cleanPodPolicy" in each.path
    ]
    assert "All" in told.message


def test_10_each_job_has_its_port_and_a_missing_command_is_asked_for() -> None:
    ports = {free_port() for _ in range(5)}
    assert len(ports) > 1
    manifest = pytorchjob("pass", workers=1, container={"ports": [{"name": "pytorchjob-port", "containerPort": 29500}]})
    assert {each.command.env["MASTER_PORT"] for each in mains(job_of(manifest), port=4712)} == {"4712"}
    assert dict(job_of(manifest).replicas[0].injected)["MASTER_PORT"] == "29500"
    absent = pytorchjob("pass")
    del replicas(absent)["Master"]["template"]["spec"]["containers"][0]["command"]
    ((message, hint),) = preflight(job_of(absent), LocalOptions(), os.environ)
    assert "has no command" in message
    assert "--entrypoint registry.example/toy:1=" in hint


@pytest.mark.parametrize("rules", ["local", "as-operator"])
def test_a_command_that_cannot_run_is_final(rules: lifecycle.Rules) -> None:
    job = job_of(pytorchjob("pass", restart="OnFailure"))
    event = ContainerExited(2.0, 0, "toy-master-0", "pytorch", 0, None, "StartError")
    pods = lifecycle.advance(lifecycle.advance({}, ContainerStarted(1.0, 0, "toy-master-0", "pytorch", 0, {})), event)
    assert lifecycle.after_exit(job, pods, event, rules=rules, restarts=0) == Over("Failed", "StartError")
