"""What a cluster has of what katuna can use, for `katuna doctor`: kinds, rights, quotas, security, GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from katuna.cluster.api import Api
from katuna.errors import ClusterRefused

RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("batch", "jobs", ("create", "get", "list", "watch", "delete")),
    ("kubeflow.org", "pytorchjobs", ("create", "get", "list", "watch", "delete")),
    ("trainer.kubeflow.org", "trainjobs", ("create", "get", "list", "watch", "delete")),
    ("", "pods", ("get", "list", "watch", "delete")),
    ("", "pods/log", ("get",)),
    ("", "events", ("list", "watch")),
    ("", "configmaps", ("create", "list", "delete")),
)
"""API group, resource and verbs that a run on a cluster uses; deploy/role.yaml gives them."""

KINDS = (
    ("PyTorchJob", "kubeflow.org/v1", "pytorchjobs", "the Training Operator"),
    ("TrainJob", "trainer.kubeflow.org/v1alpha1", "trainjobs", "Kubeflow Trainer v2"),
    ("Experiment", "kubeflow.org/v1beta1", "experiments", "Katib, which katuna does without"),
    ("Workload", "kueue.x-k8s.io/v1beta1", "workloads", "Kueue"),
    ("InferenceService", "serving.kserve.io/v1beta1", "inferenceservices", "KServe"),
)
"""Kind, API version, resource, and who brings it."""

GPUS = ("nvidia.com/gpu", "amd.com/gpu")
PSS = "pod-security.kubernetes.io/enforce"


@dataclass(frozen=True)
class Checked:
    """One line of a checkup. `is_fine` is None for what is no fault, or cannot be seen with these rights. `mend` is the next step."""

    what: str
    found: str
    is_fine: bool | None = True
    mend: str = ""


def checkup(api: Api) -> Iterator[Checked]:
    """Each thing as it is found out. Raises ClusterUnreachable, and ClusterRefused for an unknown user."""
    yield Checked("API server", str(api.read("/version").get("gitVersion", "answers")))
    yield Checked("namespace", api.namespace)
    kinds = set()
    for kind, version, resource, who in KINDS:
        if resource in _resources(api, version):
            kinds.add(resource)
            yield Checked(kind, f"{version} is installed")
        else:
            yield Checked(kind, f"no {version}: {who}", None)
    yield from _rights(api, kinds)
    yield from _namespace(api)
    yield from _quotas(api)
    yield from _gpus(api)


def _resources(api: Api, version: str) -> set[str]:
    try:
        return {each["name"] for each in api.read(f"/apis/{version}")["resources"]}
    except ClusterRefused:
        return set()


def _rights(api: Api, kinds: set[str]) -> Iterator[Checked]:
    """What the user may not do, a line a resource; kinds that are not there need no rights."""
    refused = False
    for group, resource, verbs in RIGHTS:
        if group in ("", "batch") or resource in kinds:
            missing = [verb for verb in verbs if not api.may(group, resource, verb)]
            refused = refused or bool(missing)
            if missing:
                yield Checked(
                    f"rights on {resource}",
                    f"not {', '.join(missing)}",
                    False,
                    "apply deploy/role.yaml, and bind it to this user",
                )
    if not refused:
        yield Checked("rights", "all that `--on cluster` uses")


def _namespace(api: Api) -> Iterator[Checked]:
    try:
        labels = api.read(f"/api/v1/namespaces/{api.namespace}")["metadata"].get("labels") or {}
    except ClusterRefused as refused:
        if refused.status == 404:
            yield Checked("namespace", f"there is no {api.namespace}", False, "--namespace names another")
        else:
            yield Checked("pod security", "not to be seen with these rights", None)
        return
    level = labels.get(PSS, "")
    hint = (
        "a PyTorchJob with a Master and Workers cannot run there: its operator's own init container is refused"
        if level == "restricted"
        else ""
    )
    yield Checked("pod security", level or "no level is enforced", None if level == "restricted" else True, hint)


def _quotas(api: Api) -> Iterator[Checked]:
    try:
        items = api.read(f"/api/v1/namespaces/{api.namespace}/resourcequotas")["items"]
    except ClusterRefused:
        yield Checked("quotas", "not to be seen with these rights", None)
        return
    for each in items:
        hard, used = each["status"].get("hard") or {}, each["status"].get("used") or {}
        words = ", ".join(f"{name} {used.get(name, '0')} of {limit}" for name, limit in sorted(hard.items()))
        yield Checked(f"quota {each['metadata']['name']}", words, None)
    if not items:
        yield Checked("quotas", "none")


def _gpus(api: Api) -> Iterator[Checked]:
    try:
        nodes = api.read("/api/v1/nodes")["items"]
    except ClusterRefused:
        yield Checked("GPUs", "not to be seen with these rights", None)
        return
    rooms = [each["status"].get("allocatable") or {} for each in nodes]
    counts = {gpu: sum(int(room.get(gpu, 0)) for room in rooms) for gpu in GPUS}
    found = ", ".join(f"{count} {gpu}" for gpu, count in counts.items() if count)
    yield Checked("GPUs", f"{found or 'none'} on {len(nodes)} node{'' if len(nodes) == 1 else 's'}", True if found else None)
