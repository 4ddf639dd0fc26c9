"""The objects that are sent to a cluster, and the meaning of their status: pure functions of plain dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from katuna.cluster.api import Object
from katuna.jobs.lifecycle import COMPLETED, START_ERROR
from katuna.manifest.experiment import Manifest
from katuna.manifest.job import Job

RUN_LABEL, TRIAL_LABEL = "katuna/run", "katuna/trial"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

JOB_OF_A_POD = ("jobset.sigs.k8s.io/jobset-name", "training.kubeflow.org/job-name", "batch.kubernetes.io/job-name")
"""Labels that name a pod's job; the first that is there counts, as a TrainJob's pods belong to a JobSet's Jobs."""
PODS_OF = {"PyTorchJob": JOB_OF_A_POD[1], "TrainJob": JOB_OF_A_POD[0], "Job": JOB_OF_A_POD[2]}

_STARTING = {"ContainerCreating", "PodInitializing"}
_STUCK = {
    *("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"),
    *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
}
_TOLD_BY_THE_POD = {"FailedScheduling", "BackOff", "Failed"}
"""Events whose reason a pod's own status has too."""
_STUCK_EVENTS = {"FailedCreatePod", "FailedCreate"}
"""Of a job whose pods are refused: by a quota, by Pod Security, by a webhook."""
_ENDS = {"Succeeded": "Succeeded", "Complete": "Succeeded", "Failed": "Failed"}


def labelled(manifest: Manifest, namespace: str, run: str, queue: str = "") -> Manifest:
    """The job as it is sent: in its namespace, with labels of the run, the trial and its queue, and nothing else changed."""
    metadata = {**manifest["metadata"], "namespace": namespace}
    name = metadata.get("name") or metadata["generateName"].rstrip("-.")
    labels = {**(metadata.get("labels") or {}), RUN_LABEL: run, TRIAL_LABEL: name[:63].rstrip("-.")}
    labels |= {QUEUE_LABEL: queue} if queue else {}
    metadata = {key: value for key, value in metadata.items() if key != "generateName"} | {"name": name, "labels": labels}
    return {**manifest, "metadata": metadata}


def templates(manifest: Manifest) -> Iterator[tuple[str | int, ...]]:
    """The paths of the pod templates in a Job or PyTorchJob. A TrainJob has none: its runtime has them."""
    spec = manifest.get("spec") or {}
    if manifest.get("kind") == "Job":
        yield ("spec", "template")
    for role in spec.get("pytorchReplicaSpecs") or {}:
        yield ("spec", "pytorchReplicaSpecs", role, "template")


def job_of(pod: Object) -> str:
    """The name of a pod's job; "" for a pod of no job."""
    labels = pod["metadata"].get("labels") or {}
    return next((labels[each] for each in JOB_OF_A_POD if each in labels), "")


def replica_of(job: Job, pod: Object) -> str:
    """The replica that a pod is, by the name that its pod has on a workstation: a Job's pods have a random end of their names."""
    labels = pod["metadata"].get("labels") or {}
    index = labels.get("batch.kubernetes.io/job-completion-index", "0")
    if job.kind == "TrainJob":
        return f"{job.name}-{labels.get('jobset.sigs.k8s.io/replicatedjob-name', 'node')}-0-{index}"
    return job.replicas[0].pod_name if job.kind == "Job" else str(pod["metadata"]["name"])


@dataclass(frozen=True)
class End:
    """A job's final condition: `condition` is Succeeded or Failed."""

    condition: str
    reason: str
    message: str


def end_of(job: Object) -> End | None:
    """The final condition of a Job, PyTorchJob or TrainJob. Failed counts before Succeeded (training-operator.md 3.2)."""
    found = [
        End(_ENDS[each["type"]], each.get("reason") or "", each.get("message") or "")
        for each in (job.get("status") or {}).get("conditions") or []
        if each.get("type") in _ENDS and each.get("status") == "True"
    ]
    return next((end for end in found if end.condition == "Failed"), found[0] if found else None)


def is_suspended(job: Object) -> bool:
    spec = job.get("spec") or {}
    return bool(spec.get("suspend") or (spec.get("runPolicy") or {}).get("suspend"))


@dataclass(frozen=True)
class Instance:
    """One run of a container. `uid` is its pod's, `restarts` counts within the pod. `ended` is None while it runs."""

    pod: str
    uid: str
    container: str
    restarts: int
    node: str
    ended: Ended | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        return self.uid, self.container, self.restarts


@dataclass(frozen=True)
class Ended:
    """`code` is None for a container that was never executed. `at` is the kubelet's time, None where it says none."""

    code: int | None
    reason: str
    message: str
    at: float | None


def instances(pod: Object) -> list[Instance]:
    """The runs of a pod's containers that its status tells of: the latest, and the one before it; init containers first."""
    status, found = pod.get("status") or {}, []
    for each in (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])):
        restarts = int(each.get("restartCount") or 0)
        state, last = each.get("state") or {}, (each.get("lastState") or {}).get("terminated")
        if last and restarts:
            found.append(_instance(pod, each["name"], restarts - 1, _ended(last)))
        if "running" in state:
            found.append(_instance(pod, each["name"], restarts, None))
        elif "terminated" in state:
            found.append(_instance(pod, each["name"], restarts, _ended(state["terminated"])))
    return found


def _instance(pod: Object, container: str, restarts: int, ended: Ended | None) -> Instance:
    metadata = pod["metadata"]
    return Instance(metadata["name"], metadata["uid"], container, restarts, (pod.get("spec") or {}).get("nodeName") or "", ended)


def _ended(state: Mapping[str, Any]) -> Ended:
    """A kubelet's `terminated`. A container that could not be started has code 128 and a reason that says so."""
    code, reason = int(state.get("exitCode") or 0), state.get("reason") or ""
    at = seconds(state.get("finishedAt"))
    if reason in ("StartError", "ContainerCannotRun"):
        return Ended(None, START_ERROR, state.get("message") or reason, at)
    if code == 0:
        return Ended(0, COMPLETED, "", at)
    words = {137: "killed by SIGKILL", 139: "a segmentation fault", 143: "ended by SIGTERM"}
    why = "used more than its memory limit" if reason == "OOMKilled" else words.get(code, "")
    said = (state.get("message") or "").strip()
    message = f"it exited with code {code}" + (f" ({why})" if why else "") + (f": {said}" if said else "")
    return Ended(code, reason if reason == "OOMKilled" else "Error", message, at)


def seconds(time: str | None) -> float | None:
    """Seconds since the epoch of a time as the API server writes it."""
    return datetime.fromisoformat(time).timestamp() if time else None


@dataclass(frozen=True)
class Wait:
    """Why a pod does not run, in the cluster's own words. `is_stuck`: waiting alone does not mend it."""

    why: str
    is_stuck: bool = False


def waits_for(pod: Object) -> Iterator[Wait]:
    """See Wait; nothing for a pod that runs or has run."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    for each in status.get("conditions") or []:
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            yield Wait(f"pod {name} waits for a node: {each.get('message') or each.get('reason')}")
    for each in (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])):
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") and waiting["reason"] not in _STARTING:
            said = f": {waiting['message']}" if waiting.get("message") else ""
            yield Wait(f"pod {name}, container {each['name']}: {waiting['reason']}{said}", waiting["reason"] in _STUCK)
    if status.get("phase") == "Failed" and status.get("reason"):
        yield Wait(f"pod {name} failed: {status['reason']}{': ' + status['message'] if status.get('message') else ''}")


@dataclass(frozen=True)
class Warned:
    """A Warning event: the kind, name and uid of the object that it is about, its time, and what it says."""

    kind: str
    name: str
    uid: str
    at: str
    says: Wait


def warning_of(event: Object) -> Warned | None:
    """None for an event that is no warning."""
    about, reason = event.get("involvedObject") or {}, event.get("reason") or ""
    if event.get("type") != "Warning" or not about.get("name") or reason in _TOLD_BY_THE_POD:
        return None
    kind, name = str(about.get("kind")), str(about["name"])
    says = Wait(f"{kind} {name}: {reason}: {(event.get('message') or '').strip()}", reason in _STUCK_EVENTS)
    at = event.get("lastTimestamp") or (event.get("eventTime") or "")[:19] + "Z"
    return Warned(kind, name, about.get("uid") or "", at, says)


def owners(found: Object) -> Iterator[tuple[str, str]]:
    """Kind and uid of each owner."""
    return ((each["kind"], each["uid"]) for each in found["metadata"].get("ownerReferences") or [])
