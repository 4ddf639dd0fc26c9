"""From a Job, PyTorchJob or TrainJob to the neutral job: its replicas, and the variables that controllers give each of them
(training-operator.md 2.3)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from katuna.errors import RenderRefused
from katuna.manifest.experiment import Manifest
from katuna.manifest.job import MASTER_PORT, Job, Pairs, Replica, RestartPolicy
from katuna.manifest.pods import Pods, Template, grace_s, smallest
from katuna.manifest.trainjob import resolve, train_replicas

PRIMARY = {"PyTorchJob": "pytorch", "TrainJob": "node"}
"""The name of the container that trains, by kind. In a Job the first container trains."""


def job_from_manifest(
    manifest: Manifest,
    primary_container: str = "",
    references: Sequence[Manifest] = (),
    trial: str = "",
    pass_env: Collection[str] | None = None,
) -> Job:
    """The job of a manifest that `load` has accepted: a Job, PyTorchJob or TrainJob with every replica.

    `primary_container` names the container that trains; "" is the kind's own: `pytorch`, `node`, a Job's first. `references` are the
    ConfigMaps, Secrets and runtimes given with the job. `trial` names the Katib trial that the job belongs to. `pass_env` names the
    variables that the calling shell gives in a Secret's place; None stands for all.

    Raises RenderRefused for a job that cannot run: it has a text that is no quantity, say, or its ConfigMap is missing.
    """
    try:
        manifest = _without_nulls(manifest)
        kind, metadata = manifest["kind"], manifest["metadata"]
        namespace = str(metadata.get("namespace") or "default")
        pods = Pods(
            name_here(metadata), namespace, primary_container or PRIMARY.get(kind, ""), tuple(references), trial, pass_env
        )
        return {"Job": _batch_job, "PyTorchJob": _pytorch_job, "TrainJob": _train_job}[kind](manifest["spec"], pods)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        metadata = manifest.get("metadata")
        name = metadata.get("name", "") if isinstance(metadata, Mapping) else ""
        message = f"the {manifest.get('kind')} {name} is not usable: {type(error).__name__} {error}"
        raise RenderRefused(message) from error


def name_here(metadata: Mapping[str, Any]) -> str:
    """The name, or the generateName, to which an API server would add a few characters."""
    return str(metadata.get("name") or metadata["generateName"].rstrip("-."))


def _without_nulls(value: Any) -> Any:
    """The value without null fields: an API server takes a null field for a missing field."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _batch_job(spec: Mapping[str, Any], pods: Pods) -> Job:
    template = spec["template"]
    injected: Pairs = (("JOB_COMPLETION_INDEX", "0"),) if spec.get("completionMode") == "Indexed" else ()
    labels = {"job-name": pods.job, "batch.kubernetes.io/job-name": pods.job}
    policy = cast("RestartPolicy", template["spec"].get("restartPolicy") or "Never")
    limit = spec.get("backoffLimit")
    return Job(
        kind="Job",
        name=pods.job,
        namespace=pods.namespace,
        replicas=(pods.replica("", 0, template, injected, labels, policy, f"{pods.job}-0"),),
        deadline_s=smallest(spec.get("activeDeadlineSeconds"), template["spec"].get("activeDeadlineSeconds")),
        grace_s=grace_s(template),
        backoff_limit=None if limit is None else int(limit),
        suspend=bool(spec.get("suspend")),
    )


def _pytorch_job(spec: Mapping[str, Any], pods: Pods) -> Job:
    policy = spec.get("runPolicy") or {}
    specs = {role: spec["pytorchReplicaSpecs"][role] for role in ("Master", "Worker") if spec["pytorchReplicaSpecs"].get(role)}
    templates = [each["template"] for each in specs.values()]
    limit = policy.get("backoffLimit")
    deadlines = [template["spec"].get("activeDeadlineSeconds") for template in templates]
    return Job(
        kind="PyTorchJob",
        name=pods.job,
        namespace=pods.namespace,
        replicas=tuple(_pytorch_replicas(spec, specs, pods)),
        deadline_s=smallest(policy.get("activeDeadlineSeconds"), *deadlines),
        grace_s=max(map(grace_s, templates)),
        backoff_limit=None if limit is None else int(limit),
        nproc_per_node=_nproc(spec),
        elastic=elastic_range(spec),
        clean_pod_policy="None" if policy.get("cleanPodPolicy") is None else str(policy["cleanPodPolicy"]),
        suspend=bool(policy.get("suspend")),
    )


def _pytorch_replicas(spec: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]], pods: Pods) -> Iterator[Replica]:
    total = sum(int(each.get("replicas", 1)) for each in specs.values())
    for role, each in specs.items():
        if role == "Worker":
            # Katib's primary container is a container of the Master.
            pods = replace(pods, primary=PRIMARY["PyTorchJob"])
        policy = cast("RestartPolicy", each.get("restartPolicy") or "OnFailure")
        for index in range(int(each.get("replicas", 1))):
            labels = {
                "training.kubeflow.org/operator-name": "pytorchjob-controller",
                "training.kubeflow.org/job-name": pods.job,
                "training.kubeflow.org/replica-type": role.lower(),
                "training.kubeflow.org/replica-index": str(index),
            }
            if role == "Master" or (index == 0 and "Master" not in specs):
                labels["training.kubeflow.org/job-role"] = "master"
            injected = tuple(_operators(spec, specs, pods.job, total, role, index))
            yield pods.replica(role.lower(), index, each["template"], injected, labels, policy)


def _operators(
    spec: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]], job: str, total: int, role: str, index: int
) -> Iterator[tuple[str, str]]:
    """The operator's variables in its order; a replica's rank counts pods, not processes."""
    yield "PYTHONUNBUFFERED", "1"
    elastic = spec.get("elasticPolicy")
    if "Master" in specs:
        rank, host = str(index + (role == "Worker")), f"{job}-master-0"
        port = str(port_of(specs["Master"]["template"]))
        yield from (("MASTER_PORT", port), ("PET_MASTER_PORT", port), ("MASTER_ADDR", host), ("PET_MASTER_ADDR", host))
        words = spec.get("nprocPerNode") or "auto"
        yield from (("WORLD_SIZE", str(total * _processes(words))), ("RANK", rank), ("PET_NODE_RANK", rank))
    if elastic is None or elastic.get("nProcPerNode") is None:
        yield "PET_NPROC_PER_NODE", str(spec.get("nprocPerNode", "auto"))
    if elastic is None:
        yield "PET_NNODES", str(total)
    else:
        yield from _elastic_variables(spec, job, port_of(specs["Worker"]["template"]))


def elastic_range(spec: Mapping[str, Any]) -> tuple[int, int] | None:
    """(least, most) replicas of a PyTorchJob's spec, None without an elasticPolicy. Of two limits a missing limit equals the other;
    without both the number of Workers counts."""
    policy = spec.get("elasticPolicy")
    if policy is None:
        return None
    workers = ((spec.get("pytorchReplicaSpecs") or {}).get("Worker") or {}).get("replicas", 1)
    low, high = policy.get("minReplicas"), policy.get("maxReplicas")
    low, high = (
        (workers if high is None else high) if low is None else low,
        (workers if low is None else low) if high is None else high,
    )
    return int(low), int(high)


def _elastic_variables(spec: Mapping[str, Any], job: str, port: int) -> Iterator[tuple[str, str]]:
    """The variables that the operator adds for an elasticPolicy; `port` is the Workers' own."""
    policy, (low, high) = spec["elasticPolicy"], elastic_range(spec) or (1, 1)
    host = policy.get("rdzvHost", f"{job}-worker-0")
    yield "PET_RDZV_ENDPOINT", f"{host}:{policy.get('rdzvPort', port)}"
    yield "PET_RDZV_BACKEND", policy.get("rdzvBackend", "c10d")
    yield "PET_NNODES", f"{low}:{high}"
    for field, name in (("maxRestarts", "PET_MAX_RESTARTS"), ("nProcPerNode", "PET_NPROC_PER_NODE"), ("rdzvId", "PET_RDZV_ID")):
        if policy.get(field) is not None:
            yield name, str(policy[field])
    if policy.get("rdzvConf"):
        yield "PET_RDZV_CONF", ",".join(f"{each.get('key', '')}={each.get('value', '')}" for each in policy["rdzvConf"])
    if policy.get("standalone"):
        yield "PET_STANDALONE", ""


def _nproc(spec: Mapping[str, Any]) -> str:
    deprecated = (spec.get("elasticPolicy") or {}).get("nProcPerNode")
    return str(spec.get("nprocPerNode", "auto") if deprecated is None else deprecated)


def _processes(nproc: str) -> int:
    """The operator counts a word, and any text that Go's Atoi refuses, as one process."""
    number = int(nproc) if re.fullmatch(r"[+-]?[0-9]+", nproc) else 1
    return number if -(2**63) <= number < 2**63 else 1


def port_of(template: Template) -> int:
    """The operator looks for the port by its name, in the container `pytorch` or else in the first container."""
    containers = template["spec"]["containers"]
    container = next((each for each in containers if each.get("name") == "pytorch"), containers[0])
    for port in container.get("ports") or []:
        if port.get("name") == "pytorchjob-port":
            return int(port["containerPort"])
    return MASTER_PORT


def _train_job(spec: Mapping[str, Any], pods: Pods) -> Job:
    resolved = resolve(spec, pods.references, pods.namespace)
    template = resolved.template
    return Job(
        kind="TrainJob",
        name=pods.job,
        namespace=pods.namespace,
        replicas=tuple(train_replicas(spec, resolved, pods)),
        deadline_s=smallest(
            spec.get("activeDeadlineSeconds"), resolved.deadline_s, template["spec"].get("activeDeadlineSeconds")
        ),
        grace_s=grace_s(template),
        backoff_limit=resolved.backoff_limit,
        nproc_per_node=resolved.nproc,
        suspend=bool(spec.get("suspend")),
    )
