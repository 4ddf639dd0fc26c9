"""The environment of each container of a job: the Training Operator's and the kubelet's rules (training-operator.md 2.3 and 10.1)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from katuna.manifest.hidden import Hidden, Text
from katuna.manifest.job import (
    LOOPBACK,
    MASTER_PORT,
    Container,
    Job,
    Pairs,
    Replica,
    Variables,
    expand,
    expand_variables,
    words_may_launch,
)


def replica_environment(
    job: Job,
    replica: Replica,
    port: int = MASTER_PORT,
    passed: Mapping[str, str] | None = None,
    container: Container | None = None,
    substituted: bool = True,
) -> Variables:
    """A container's variables in the operator's order, expanded, each name once with the value that wins.

    The container's own entries come first; the entries that controllers inject come last and win. `$(NAME)` in a value refers to
    entries before it. The loopback address and `port` stand for the master's, and for the rendezvous' where a replica serves it.
    `passed` are the calling shell's values for `container.secrets`; names that it does not have are left out. `container` is the
    replica's own unless given: a sidecar or an init container. `substituted` adds `substitutions(job, replica)`.
    """
    chosen = replica.container if container is None else container
    given: dict[str, Text] = {name: Hidden(passed[name]) for name in chosen.secrets if passed and name in passed}
    environment = expand_variables(chosen.env, given)
    hosts = _hosts(job)
    injected = injected_into(job, replica, chosen)
    for name, value in injected:
        environment[name] = _local(name, value, hosts, port)
    if injected and substituted:
        environment |= {each.name: each.value for each in substitutions(job, replica)}
    return tuple(environment.items())


def container_objects(job: Job, replica: Replica) -> list[dict[str, Any]]:
    """Name, environment and argv of the containers of a pod as the operator makes them, with this machine's addresses. Nothing that a
    Secret holds is in it."""
    found = []
    for each in (replica.container, *replica.sidecars):
        marks = dict.fromkeys(each.secrets, "")
        variables = replica_environment(job, replica, passed=marks, container=each, substituted=False)
        env = {name: str(value) for name, value in variables}
        found.append({"name": each.name, "env": env, "argv": list(expand(each, env))})
    return found


def injected_into(job: Job, replica: Replica, container: Container) -> Pairs:
    """The variables that controllers add to a container. Init containers get none; a TrainJob's sidecars get no ranks."""
    if container in replica.init_containers:
        return ()
    if job.kind == "TrainJob" and container in replica.sidecars:
        return tuple(pair for pair in replica.injected if not pair[0].startswith("PET_"))
    return replica.injected


def _hosts(job: Job) -> frozenset[str]:
    """The names of the replicas' Services in a cluster, alone and with the namespace's domain."""
    services = f".{job.name}" if job.kind == "TrainJob" else ""
    domains = ("", f".{job.namespace}", f".{job.namespace}.svc", f".{job.namespace}.svc.cluster.local")
    return frozenset(f"{replica.pod_name}{services}{domain}" for replica in job.replicas for domain in domains)


def _local(name: str, value: str, hosts: Collection[str], port: int) -> str:
    if name.endswith("MASTER_PORT"):
        return str(port)
    if name == "PET_RDZV_ENDPOINT" and value.rpartition(":")[0] in hosts:
        return f"{LOOPBACK}:{port}"
    return LOOPBACK if name.endswith("MASTER_ADDR") and value in hosts else value


@dataclass(frozen=True)
class Substitution:
    """A variable that this machine sets otherwise than the cluster, which sets it to `instead_of` ("": does not set it)."""

    name: str
    value: str
    instead_of: str
    why: str


def substitutions(job: Job, replica: Replica) -> tuple[Substitution, ...]:
    """The variables that torchrun needs otherwise where replicas share a host (training-operator.md 2.4, 10.1, 10.2)."""
    injected = dict(replica.injected)
    found = []
    if "PET_STANDALONE" in injected:
        why = "torchrun ends with an error on the operator's empty value"
        found.append(Substitution("PET_STANDALONE", "1", injected["PET_STANDALONE"], why))
        why = "a standalone torchrun waits for no other replica"
        found.append(Substitution("PET_NNODES", "1", injected["PET_NNODES"], why))
    elif injected.get("PET_RDZV_BACKEND") == "c10d" and sys.platform == "linux":
        # Ranks follow the text of the address, then the pid: one loopback address a replica, all of one length, makes them follow
        # the index. Only Linux answers on all of 127/8.
        place = [each.pod_name for each in job.replicas].index(replica.pod_name)
        if all(name != "PET_LOCAL_ADDR" for name, _ in replica.container.env):
            own = f"127.0.{100 + place // 100}.{100 + place % 100}"
            found.append(Substitution("PET_LOCAL_ADDR", own, "", "ranks follow the replicas' indices"))
    processes = local_processes(job, replica)
    if processes is not None:
        found.append(processes)
    return tuple(found)


def local_processes(job: Job, replica: Replica) -> Substitution | None:
    """A number of processes in place of `auto` and `cpu`, for which every replica's torchrun takes all CPUs of the host.

    The number is the container's whole CPUs, at least 1. None where the file's own value stands: a number, GPUs to count, a single
    replica that names no CPUs, a container that starts no torchrun.
    """
    asked = dict(replica.injected).get("PET_NPROC_PER_NODE", "")
    container = replica.container
    if (
        asked not in ("auto", "cpu")
        or (asked == "auto" and container.gpus)
        or not words_may_launch((*container.command, *container.args))
    ):
        return None
    if container.cpu is None and len(job.replicas) == 1:
        return None
    number = 1 if container.cpu is None else max(1, int(container.cpu))
    why = (
        "one process for each CPU that the container names" if container.cpu is not None else "replicas share this machine's CPUs"
    )
    return Substitution("PET_NPROC_PER_NODE", str(number), asked, why)
