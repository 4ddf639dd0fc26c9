"""What the pods of a job would run, as plain data to be shown and compared: nothing that a Secret holds is in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from katuna.jobs.environment import injected_into, replica_environment, substitutions
from katuna.manifest.job import LOOPBACK, MASTER_PORT, Container, Job, Replica, expand


def preview(job: Job, *, mapped: bool = True, port: int = MASTER_PORT) -> dict[str, Any]:
    """Each replica's pod with its containers: `env` as the operator makes it, expanded, `argv` as it would be executed.

    `mapped` gives the addresses of this machine and `port`, and names under `here` the variables that are set otherwise on it
    (`substitutions`); else everything is as in a cluster.
    """
    return {"replicas": [_pod(job, replica, mapped, port) for replica in job.replicas]}


def _pod(job: Job, replica: Replica, mapped: bool, port: int) -> dict[str, Any]:
    containers = sorted([replica.container, *replica.sidecars], key=lambda each: replica.order.index(each.name))
    return {
        "pod": replica.pod_name,
        "restartPolicy": "Never" if replica.restart_policy == "ExitCode" else replica.restart_policy,
        "initContainers": [
            *(_container(job, replica, each, mapped, port) for each in replica.init_containers),
            *_waiting(job, replica),
        ],
        "containers": [_container(job, replica, each, mapped, port) for each in containers],
    }


def _waiting(job: Job, replica: Replica) -> Iterator[dict[str, Any]]:
    """The operator's own init container: Workers wait for the Master."""
    masters = [each.pod_name for each in job.replicas if each.role == "master"]
    if job.kind == "PyTorchJob" and masters and replica.role == "worker":
        yield {"name": "init-pytorch", "waitsFor": masters[0]}


def _container(job: Job, replica: Replica, container: Container, mapped: bool, port: int) -> dict[str, Any]:
    address = LOOPBACK if mapped else ""
    marks = dict.fromkeys(container.secrets, "")
    found = replica_environment(job, replica, address, port, passed=marks, container=container, here={})
    env = {name: str(value) for name, value in found}
    told: dict[str, Any] = {"name": container.name, "env": env, "argv": list(expand(container, env))}
    if mapped and injected_into(job, replica, container):
        here = {each.name: each.value for each in substitutions(job, replica)}
        told |= {"here": here} if here else {}
    return told
