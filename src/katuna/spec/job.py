"""The neutral job: what a Job or PyTorchJob asks for, in one form that the launcher runs and that knows no Kubernetes object.

Environment rules are the Training Operator's and the kubelet's (training-operator.md 2.3 and 10.1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from katuna.errors import RenderRefused
from katuna.spec.env import Facts, container_env
from katuna.spec.model import Manifest
from katuna.spec.quantity import quantity

Pairs = tuple[tuple[str, str], ...]
"""Environment variables in order; of two with one name the later wins."""

GPU = "nvidia.com/gpu"
MASTER_PORT = 23456
LOOPBACK = "127.0.0.1"
DEFAULT_GRACE_S = 30.0

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


@dataclass(frozen=True)
class Container:
    """The container that trains.

    `env` is in Kubernetes' own form: `$(NAME)` is still to be expanded, `$$` stands for a dollar. `secrets` are variables
    that the file takes from a Secret: their values can only come from the calling shell (`--pass-env`). `cpu` counts cores
    and is None when the file says nothing.
    """

    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Pairs = ()
    secrets: tuple[str, ...] = ()
    working_dir: str = ""
    cpu: float | None = None
    gpus: int = 0
    memory_bytes: int | None = None
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True)
class Mount:
    """Where a container sees a volume of its pod, by the volume's name."""

    volume: str
    path: str
    sub_path: str = ""
    read_only: bool = False


VolumeKind = Literal["emptyDir", "hostPath", "persistentVolumeClaim", "configMap", "secret"]


@dataclass(frozen=True)
class Volume:
    """A volume that means something here. `source` is the host's path or the claim's, ConfigMap's or Secret's name; `files` are
    the contents of the last two, by their path below the mount."""

    name: str
    kind: VolumeKind
    source: str = ""
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))


RestartPolicy = Literal["Always", "OnFailure", "Never", "ExitCode"]


@dataclass(frozen=True)
class Replica:
    """One pod of the job. `role` is lower case (`master`, `worker`; a batch Job's is `""`, a TrainJob's `node`), `index` counts
    within the role. `container` is the one that trains.

    `init_containers` run first, one after the other, and get nothing injected; `sidecars` run beside `container`. `injected` is what
    controllers add after the own env of all but init containers, with the cluster's addresses and ports.
    """

    role: str
    index: int
    pod_name: str
    container: Container
    injected: Pairs = ()
    sidecars: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    restart_policy: RestartPolicy = "OnFailure"


@dataclass(frozen=True)
class Job:
    """`retries` counts restarts after failures: what the file itself writes as backoffLimit, else 0; `backoff_limit` is what it
    writes, None for nothing. A failure is retried when its exit code (128 + signal for a signal) is at least `retry_from`.
    `deadline_s` is counted from the job's start and covers all attempts; None is no limit. `elastic` is (least, most) replicas
    of an elasticPolicy. `clean_pod_policy` is as written: what is neither None nor Running counts as All."""

    kind: str
    name: str
    namespace: str
    replicas: tuple[Replica, ...]
    retries: int = 0
    retry_from: int = 1
    deadline_s: float | None = None
    grace_s: float = DEFAULT_GRACE_S
    backoff_limit: int | None = None
    nproc_per_node: str = "auto"
    elastic: tuple[int, int] | None = None
    clean_pod_policy: str = "None"
    suspend: bool = False


def job_from_manifest(
    manifest: Manifest,
    primary_container: str,
    config_maps: Sequence[Manifest] = (),
    trial: str = "",
    pass_env: Collection[str] | None = None,
) -> Job:
    """The job of a manifest that `load` has accepted. `trial` names the Katib trial that it belongs to. Without `pass_env` every
    variable that comes from a Secret counts as passed.

    Raises RenderRefused where substitution made a job that cannot run (a quantity that is none, a ConfigMap that is missing).
    """
    builder = _Builder(manifest, primary_container, tuple(config_maps), trial, pass_env)
    try:
        return builder.batch_job() if manifest["kind"] == "Job" else builder.pytorch_job()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RenderRefused(f"the {manifest.get('kind')} of this trial is not usable: {type(error).__name__} {error}") from error


@dataclass(frozen=True)
class _Builder:
    manifest: Manifest
    primary: str
    config_maps: tuple[Manifest, ...]
    trial: str
    pass_env: Collection[str] | None

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"].get("namespace") or "default")

    def batch_job(self) -> Job:
        spec = self.manifest["spec"]
        template = spec["template"]
        injected = (("JOB_COMPLETION_INDEX", "0"),) if spec.get("completionMode") == "Indexed" else ()
        labels = {"job-name": self.name, "batch.kubernetes.io/job-name": self.name}
        replica = self._replica("", 0, f"{self.name}-0", template, injected, labels)
        return Job(
            kind="Job",
            name=self.name,
            namespace=self.namespace,
            replicas=(replica,),
            retries=int(spec.get("backoffLimit") or 0),
            deadline_s=_smallest(spec.get("activeDeadlineSeconds"), template["spec"].get("activeDeadlineSeconds")),
            grace_s=_grace_s(template),
        )

    def pytorch_job(self) -> Job:
        spec = self.manifest["spec"]
        policy = spec.get("runPolicy") or {}
        specs = {
            role: spec["pytorchReplicaSpecs"][role] for role in ("Master", "Worker") if spec["pytorchReplicaSpecs"].get(role)
        }
        replicas: list[Replica] = []
        total = sum(int(replica.get("replicas", 1)) for replica in specs.values())
        for role, replica_spec in specs.items():
            for index in range(int(replica_spec.get("replicas", 1))):
                replicas.append(self._pytorch_replica(role.lower(), index, replica_spec["template"], total))
        first = next(iter(specs.values()))
        restart = first.get("restartPolicy") or "OnFailure"
        return Job(
            kind="PyTorchJob",
            name=self.name,
            namespace=self.namespace,
            replicas=tuple(replicas),
            retries=0 if restart == "Never" else int(policy.get("backoffLimit") or 0),
            retry_from=128 if restart == "ExitCode" else 1,
            deadline_s=_smallest(policy.get("activeDeadlineSeconds"), first["template"]["spec"].get("activeDeadlineSeconds")),
            grace_s=_grace_s(first["template"]),
        )

    def _pytorch_replica(self, role: str, index: int, template: Mapping[str, Any], total: int) -> Replica:
        spec = self.manifest["spec"]
        nproc = str(spec.get("nprocPerNode", "auto"))
        injected = [("PYTHONUNBUFFERED", "1")]
        master = spec["pytorchReplicaSpecs"].get("Master")
        if master:
            rank = str(index + (role == "worker"))
            port, host = str(_master_port(master["template"])), f"{self.name}-master-0"
            injected += [("MASTER_PORT", port), ("PET_MASTER_PORT", port), ("MASTER_ADDR", host), ("PET_MASTER_ADDR", host)]
            injected += [("WORLD_SIZE", str(total * _processes(nproc))), ("RANK", rank), ("PET_NODE_RANK", rank)]
        injected += [("PET_NPROC_PER_NODE", nproc), ("PET_NNODES", str(total))]
        labels = {
            "training.kubeflow.org/operator-name": "pytorchjob-controller",
            "training.kubeflow.org/job-name": self.name,
            "training.kubeflow.org/replica-type": role,
            "training.kubeflow.org/replica-index": str(index),
        }
        return self._replica(role, index, f"{self.name}-{role}-{index}", template, tuple(injected), labels)

    def _replica(
        self, role: str, index: int, pod_name: str, template: Mapping[str, Any], injected: Pairs, labels: Mapping[str, str]
    ) -> Replica:
        metadata = template.get("metadata") or {}
        facts = Facts(pod_name, self.namespace, {**(metadata.get("labels") or {}), **labels}, metadata.get("annotations") or {})
        containers = {each.get("name"): each for each in template["spec"]["containers"]}
        if self.trial:
            injected = (*injected, ("KATIB_TRIAL_NAME", self.trial))
        return Replica(role, index, pod_name, self._container(containers[self.primary], facts), injected)

    def _container(self, container: Mapping[str, Any], facts: Facts) -> Container:
        env = container_env(container, facts, self.config_maps, self.pass_env)
        if env.remarks:
            raise RenderRefused("; ".join(remark.message for remark in env.remarks))
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        cpu, memory = limits.get("cpu", requests.get("cpu")), limits.get("memory")
        return Container(
            name=container["name"],
            image=container.get("image", ""),
            command=tuple(container.get("command") or ()),
            args=tuple(container.get("args") or ()),
            env=env.pairs,
            secrets=env.secrets,
            working_dir=container.get("workingDir") or "",
            cpu=None if cpu is None else float(quantity(cpu)),
            gpus=int(quantity(limits.get(GPU, requests.get(GPU, 0)))),
            memory_bytes=None if memory is None else int(quantity(memory)),
        )


def _processes(nproc: str) -> int:
    """The operator counts a word, and anything else that is not a number, as one process."""
    try:
        return int(nproc)
    except ValueError:
        return 1


def _master_port(template: Mapping[str, Any]) -> int:
    """The operator looks for the port's name, in the container named pytorch (the first one when none is)."""
    containers = template["spec"]["containers"]
    container = next((each for each in containers if each.get("name") == "pytorch"), containers[0])
    for port in container.get("ports") or []:
        if port.get("name") == "pytorchjob-port":
            return int(port["containerPort"])
    return MASTER_PORT


def _grace_s(template: Mapping[str, Any]) -> float:
    grace = template["spec"].get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE_S if grace is None else float(grace)


def _smallest(*seconds: int | None) -> float | None:
    given = [float(each) for each in seconds if each is not None]
    return min(given) if given else None


# Environment and argv. A kubelet's rules; pure.


def replica_environment(
    job: Job, replica: Replica, address: str = LOOPBACK, port: int = MASTER_PORT, passed: Mapping[str, str] | None = None
) -> Pairs:
    """The replica's variables in the operator's order, expanded, each name once with the value that wins.

    The container's own entries come first, what controllers inject comes last and wins. `$(NAME)` in a value refers to
    entries before it. `address` and `port` stand for the master's. `passed` are the calling shell's values for
    `container.secrets`; names it does not have are left out.
    """
    names = {f"{other.pod_name}" for other in job.replicas}
    environment = {name: passed[name] for name in replica.container.secrets if passed and name in passed}
    for name, value in replica.container.env:
        environment[name] = expand_text(value, environment)
    for name, value in replica.injected:
        environment[name] = _local(name, value, names, address, port)
    return tuple(environment.items())


def _local(name: str, value: str, names: Iterable[str], address: str, port: int) -> str:
    if name.endswith("MASTER_PORT"):
        return str(port)
    return address if name.endswith("MASTER_ADDR") and value in names else value


def expand(container: Container, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The container's argv, command then args, with `$(NAME)` replaced from `environment`. Empty without a command and args."""
    return tuple(expand_text(word, environment) for word in (*container.command, *container.args))


def expand_text(text: str, environment: Mapping[str, str]) -> str:
    """Kubernetes' expansion: `$(NAME)` of a known variable is its value, of an unknown one stays, `$$` is one dollar."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] is None else environment.get(match[1], match[0])

    return _REFERENCE.sub(value, text)
