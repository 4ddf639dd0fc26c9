"""What the pods of a job would run, as plain data to be shown and compared: nothing that a Secret holds is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from katuna.spec.job import (
    LOOPBACK,
    MASTER_PORT,
    Container,
    Job,
    Replica,
    expand,
    injected_into,
    replica_environment,
    substitutions,
)

HIDDEN = "(secret)"
"""What stands for a value of a Secret, or of the calling shell in its place."""


def plan(job: Job, *, mapped: bool = True, port: int = MASTER_PORT) -> dict[str, Any]:
    """Each replica's pod with its containers: `env` as the operator makes it, expanded, `argv` as it would be executed.

    `mapped` gives the addresses of this machine and `port`, and names under `here` the variables that are set otherwise on it
    (`substitutions`); else everything is as in a cluster.
    """
    shown = masked(job)
    return {"replicas": [_pod(shown, replica, mapped, port) for replica in shown.replicas]}


def masked(job: Job) -> Job:
    """The job with a mark in the place of every value that a Secret holds, so that what is expanded from it holds none either."""
    return replace(job, replicas=tuple(map(_masked_replica, job.replicas)))


def _masked_replica(replica: Replica) -> Replica:
    return replace(
        replica,
        container=_masked(replica.container),
        sidecars=tuple(map(_masked, replica.sidecars)),
        init_containers=tuple(map(_masked, replica.init_containers)),
        volumes=tuple(replace(each, files={}) if each.kind == "secret" else each for each in replica.volumes),
    )


def _masked(container: Container) -> Container:
    pairs = [(name, HIDDEN if name in container.hidden else value) for name, value in container.env]
    return replace(container, env=(*((name, HIDDEN) for name in container.secrets), *pairs), secrets=())


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
    env = dict(replica_environment(job, replica, address, port, container=container, here={}))
    told: dict[str, Any] = {"name": container.name, "env": env, "argv": list(expand(container, env))}
    if mapped and injected_into(job, replica, container):
        here = {each.name: each.value for each in substitutions(job, replica)}
        told |= {"here": here} if here else {}
    return told
