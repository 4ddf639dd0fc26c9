"""Kubeflow Trainer's TrainJob: its runtime, its changes to the runtime, and the variables of its nodes (training-operator.md 6)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from katuna.errors import RenderRefused
from katuna.manifest.experiment import Manifest
from katuna.manifest.job import Pairs, Replica, RestartPolicy
from katuna.manifest.pods import Pods, Template
from katuna.manifest.quantity import quantity
from katuna.manifest.references import find

API = "trainer.kubeflow.org/v1alpha1"
NODE = "node"
"""The name of the container that trains, and of its replicated job."""
PORT = 29500
STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
RESERVED = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")
"""Variables that the webhook refuses in spec.trainer.env."""
BUILT_IN = "torch-distributed"

_POD = {"spec": {"containers": [{"name": NODE, "image": "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"}]}}
_JOB = {"name": NODE, "template": {"metadata": {"labels": {STEP: "trainer"}}, "spec": {"template": _POD}}}
_TORCH_DISTRIBUTED: Manifest = {
    "apiVersion": API,
    "kind": "ClusterTrainingRuntime",
    "metadata": {"name": BUILT_IN},
    "spec": {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": {"spec": {"replicatedJobs": [_JOB]}}},
}
"""The runtime that every installation has."""


@dataclass(frozen=True)
class Resolved:
    """A TrainJob on its runtime: the pods' template with the trainer's changes, and `nproc` as the controller resolves it.

    `others` are the runtime's jobs that do not train. `policy` is the framework of the runtime's mlPolicy, "" for none; nodes get PET_
    variables under torch only."""

    template: Template
    nodes: int
    nproc: str
    backoff_limit: int | None
    deadline_s: int | None
    others: tuple[str, ...]
    policy: str


def find_runtime(spec: Mapping[str, Any], references: Sequence[Manifest], namespace: str) -> Manifest | None:
    """The runtime of a TrainJob's spec, from the documents given with the job or built in; None for an unknown runtime."""
    reference = spec["runtimeRef"]
    kind, name = reference.get("kind") or "ClusterTrainingRuntime", reference.get("name", "")
    found = find(references, kind, name, namespace)
    built_in = _TORCH_DISTRIBUTED if (kind, name) == ("ClusterTrainingRuntime", BUILT_IN) else None
    return built_in if found is None else found


def replicated_jobs(spec: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The jobs of a runtime's spec."""
    return ((spec.get("template") or {}).get("spec") or {}).get("replicatedJobs") or []


def resolve(spec: Mapping[str, Any], references: Sequence[Manifest], namespace: str) -> Resolved:
    """The TrainJob on its runtime. Raises RenderRefused where the runtime is unknown, or has no container that trains."""
    runtime = find_runtime(spec, references, namespace)
    if runtime is None:
        raise RenderRefused(f"the runtime {spec['runtimeRef'].get('name')} is not among the files given")
    jobs = replicated_jobs(runtime.get("spec") or {})
    trains = next((each for each in jobs if _step(each) == "trainer"), None)
    containers = [] if trains is None else trains["template"]["spec"]["template"]["spec"].get("containers") or []
    if trains is None or all(each.get("name") != NODE for each in containers):
        name = spec["runtimeRef"].get("name")
        raise RenderRefused(f"the runtime {name} has no job with the label {STEP}: trainer and a container named {NODE}")
    trainer = spec.get("trainer") or {}
    template = _with_trainer(trains["template"]["spec"]["template"], trainer)
    policy, job = runtime["spec"].get("mlPolicy") or {}, trains["template"]["spec"]
    container = next(each for each in template["spec"]["containers"] if each.get("name") == NODE)
    return Resolved(
        template=template,
        nodes=int(trainer.get("numNodes") or policy.get("numNodes") or 1),
        nproc=_processes(trainer.get("numProcPerNode"), container.get("resources") or {}),
        backoff_limit=job.get("backoffLimit"),
        deadline_s=job.get("activeDeadlineSeconds"),
        others=tuple(str(each["name"]) for each in jobs if each is not trains),
        policy=next((each for each in policy if each != "numNodes"), ""),
    )


def train_replicas(spec: Mapping[str, Any], resolved: Resolved, pods: Pods) -> Iterator[Replica]:
    """One replica for each node. Nodes get ranks only from a TrainJob with a trainer, on a runtime for torch. Pods' names lack their
    random end."""
    for index in range(resolved.nodes):
        ranks: Pairs = ()
        if "trainer" in spec and resolved.policy == "torch":
            ranks = (
                ("PET_NNODES", str(resolved.nodes)),
                ("PET_NPROC_PER_NODE", resolved.nproc),
                ("PET_NODE_RANK", str(index)),
                ("PET_MASTER_ADDR", f"{pods.job}-{NODE}-0-0.{pods.job}"),
                ("PET_MASTER_PORT", str(PORT)),
            )
        labels = {"jobset.sigs.k8s.io/jobset-name": pods.job, "batch.kubernetes.io/job-completion-index": str(index)}
        injected = (*ranks, ("JOB_COMPLETION_INDEX", str(index)))
        policy = cast("RestartPolicy", resolved.template["spec"].get("restartPolicy") or "OnFailure")
        yield pods.replica(NODE, index, resolved.template, injected, labels, policy, f"{pods.job}-{NODE}-0-{index}")


def _step(job: Mapping[str, Any]) -> str:
    labels = ((job.get("template") or {}).get("metadata") or {}).get("labels") or {}
    return str(labels.get(STEP, ""))


def _processes(given: int | None, resources: Mapping[str, Any]) -> str:
    """Processes of a node. Without GPUs the controller counts CPUs, requests before limits."""
    if given is not None:
        return str(given)
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    if any("gpu" in name.lower() for name in (*limits, *requests)):
        return "auto"
    return str(max(1, math.ceil(quantity(requests.get("cpu", limits.get("cpu", 1))))))


def _with_trainer(template: Template, trainer: Mapping[str, Any]) -> Template:
    pod = template["spec"]
    containers = [_trained(each, trainer) if each.get("name") == NODE else each for each in pod["containers"]]
    return {**template, "spec": {**pod, "containers": containers}}


def _trained(container: Mapping[str, Any], trainer: Mapping[str, Any]) -> Mapping[str, Any]:
    changed = {name: trainer[name] for name in ("image", "command", "args") if trainer.get(name)}
    if trainer.get("resourcesPerNode"):
        changed["resources"] = trainer["resourcesPerNode"]
    env = {str(each.get("name")): each for each in (*(container.get("env") or ()), *(trainer.get("env") or ()))}
    return {**container, **changed, "env": list(env.values())}
