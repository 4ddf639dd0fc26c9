"""The neutral job: what a Job, PyTorchJob or TrainJob asks for, in one form that the launcher runs and that knows no Kubernetes object.

Environment rules are the Training Operator's and the kubelet's (training-operator.md 2.3 and 10.1).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from katuna.manifest.hidden import Hidden, Text, revealed

Pairs = tuple[tuple[str, str], ...]
"""Environment variables in order; of two with one name the later wins."""
Variables = tuple[tuple[str, Text], ...]
"""`Pairs` of which a Secret may give some."""

GPU = "nvidia.com/gpu"
MASTER_PORT = 23456
LOOPBACK = "127.0.0.1"
DEFAULT_GRACE_S = 30.0

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


@dataclass(frozen=True)
class Container:
    """The container that trains.

    `env` is in Kubernetes' own form: `$(NAME)` is still to be expanded, `$$` stands for a dollar. `secrets` are variables
    that the file takes from a Secret that is not here: their values can only come from the calling shell (`--pass-env`). `cpu` counts
    cores and is None when the file says nothing.
    """

    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: Variables = ()
    secrets: tuple[str, ...] = ()
    working_dir: str = ""
    cpu: float | None = None
    gpus: int = 0
    memory_bytes: int | None = None
    mounts: tuple[Mount, ...] = ()

    @property
    def hides(self) -> bool:
        """Whether values of a Secret may be in what is expanded for it."""
        return bool(self.secrets) or any(isinstance(value, Hidden) for _, value in self.env)


@dataclass(frozen=True)
class Mount:
    """Where a container sees a volume of its pod, by the volume's name."""

    volume: str
    path: str
    sub_path: Text = ""
    read_only: bool = False


VolumeKind = Literal["emptyDir", "hostPath", "persistentVolumeClaim", "configMap", "secret"]


@dataclass(frozen=True)
class Volume:
    """A volume that means something here. `source` is the host's path or the claim's, ConfigMap's or Secret's name; `files` are
    the contents of the last two, by their path below the mount, which leads nowhere else. `missing`: the pod needs a ConfigMap or
    Secret that was not given."""

    name: str
    kind: VolumeKind
    source: str = ""
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    missing: bool = False


RestartPolicy = Literal["Always", "OnFailure", "Never", "ExitCode"]


@dataclass(frozen=True)
class Replica:
    """One pod of the job. `role` is lower case (`master`, `worker`; a batch Job's is `""`, a TrainJob's `node`), `index` counts
    within the role. `container` is the one that trains.

    `init_containers` run first, one after the other, and get nothing injected; `sidecars` run beside `container`. `injected` is what
    controllers add after the own env of all but init containers, with the cluster's addresses and ports. `order` has the names of
    `container` and `sidecars` in the file's order.
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
    order: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """`backoff_limit` is what the file itself writes, None for nothing. `deadline_s` is counted from the job's start and covers all
    attempts; None is no limit. `elastic` is (least, most) replicas of an elasticPolicy. `clean_pod_policy` is as written: what is neither
    None nor Running counts as All."""

    kind: str
    name: str
    namespace: str
    replicas: tuple[Replica, ...]
    deadline_s: float | None = None
    grace_s: float = DEFAULT_GRACE_S
    backoff_limit: int | None = None
    nproc_per_node: str = "auto"
    elastic: tuple[int, int] | None = None
    clean_pod_policy: str = "None"
    suspend: bool = False


# Environment and argv. A kubelet's rules; pure.


def replica_environment(
    job: Job,
    replica: Replica,
    address: str = LOOPBACK,
    port: int = MASTER_PORT,
    passed: Mapping[str, str] | None = None,
    container: Container | None = None,
    here: Mapping[str, str] | None = None,
) -> Variables:
    """A container's variables in the operator's order, expanded, each name once with the value that wins.

    The container's own entries come first, what controllers inject comes last and wins. `$(NAME)` in a value refers to
    entries before it. `address` and `port` stand for the master's, and for the rendezvous' where a replica serves it; an address ""
    leaves the cluster's names and ports. `passed` are
    the calling shell's values for `container.secrets`; names it does not have are left out. `container` is the replica's own unless
    given: one of its sidecars or init containers. `here` comes last of all: what differs on this machine, by default
    `substitutions(job, replica)`; an empty one leaves the cluster's values.
    """
    chosen = replica.container if container is None else container
    environment: dict[str, Text] = {name: Hidden(passed[name]) for name in chosen.secrets if passed and name in passed}
    for name, value in chosen.env:
        environment[name] = expand_text(value, environment)
    hosts = _hosts(job)
    injected = injected_into(job, replica, chosen)
    for name, value in injected:
        environment[name] = _local(name, value, hosts, address, port) if address else value
    if injected:
        environment |= {each.name: each.value for each in substitutions(job, replica)} if here is None else here
    return tuple(environment.items())


def injected_into(job: Job, replica: Replica, container: Container) -> Pairs:
    """What controllers add to one container: nothing to init containers, and Kubeflow Trainer speaks of ranks to the one that trains
    alone."""
    if container in replica.init_containers:
        return ()
    if job.kind == "TrainJob" and container in replica.sidecars:
        return tuple(pair for pair in replica.injected if not pair[0].startswith("PET_"))
    return replica.injected


def _hosts(job: Job) -> frozenset[str]:
    """The names under which replicas find each other in a cluster: a Service's, alone or with its namespace's domain."""
    services = f".{job.name}" if job.kind == "TrainJob" else ""
    domains = ("", f".{job.namespace}", f".{job.namespace}.svc", f".{job.namespace}.svc.cluster.local")
    return frozenset(f"{replica.pod_name}{services}{domain}" for replica in job.replicas for domain in domains)


def _local(name: str, value: str, hosts: Collection[str], address: str, port: int) -> str:
    if name.endswith("MASTER_PORT"):
        return str(port)
    if name == "PET_RDZV_ENDPOINT" and value.rpartition(":")[0] in hosts:
        return f"{address}:{port}"
    return address if name.endswith("MASTER_ADDR") and value in hosts else value


@dataclass(frozen=True)
class Substitution:
    """A variable that this machine sets otherwise than the cluster, whose value is `instead_of` ("" for none), and why."""

    name: str
    value: str
    instead_of: str
    why: str


def substitutions(job: Job, replica: Replica, platform: str = sys.platform) -> tuple[Substitution, ...]:
    """What torchrun has to be told otherwise where replicas share a host (training-operator.md 2.4, 10.1, 10.2)."""
    injected = dict(replica.injected)
    found = []
    if "PET_STANDALONE" in injected:
        why = "torchrun ends with an error on the operator's empty value"
        found.append(Substitution("PET_STANDALONE", "1", injected["PET_STANDALONE"], why))
        why = "a standalone torchrun waits for no other replica"
        found.append(Substitution("PET_NNODES", "1", injected["PET_NNODES"], why))
    elif injected.get("PET_RDZV_BACKEND") == "c10d" and platform == "linux":
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
    """A number of processes for `auto` and `cpu`, which torchrun takes for all CPUs of the host, in each replica. None where the
    file's own value stands: a number, GPUs to count, a single replica that names no CPUs, a container that starts no torchrun.

    Whole CPUs of the container are the number, at least 1; 1 where it names none.
    """
    asked = dict(replica.injected).get("PET_NPROC_PER_NODE", "")
    container = replica.container
    if asked not in ("auto", "cpu") or (asked == "auto" and container.gpus) or not may_launch(container):
        return None
    if container.cpu is None and len(job.replicas) == 1:
        return None
    number = 1 if container.cpu is None else max(1, int(container.cpu))
    why = (
        "one process for each CPU that the container names" if container.cpu is not None else "replicas share this machine's CPUs"
    )
    return Substitution("PET_NPROC_PER_NODE", str(number), asked, why)


_PYTHON = re.compile(r"python[0-9.]*\Z")
_TORCHRUN = ("torchrun", "torch.distributed.run", "torch.distributed.launch")


def may_launch(container: Container) -> bool:
    """Whether the command may start several processes: all but plain python with a script may."""
    return words_may_launch((*container.command, *container.args))


def words_may_launch(words: Sequence[str]) -> bool:
    """`may_launch` of a command line."""
    return not words or not _PYTHON.match(words[0].rpartition("/")[2]) or name_torchrun(words)


def name_torchrun(words: Sequence[str]) -> bool:
    return any(word in _TORCHRUN or word.endswith("/torchrun") for word in words)


def expand(container: Container, environment: Mapping[str, Text]) -> tuple[Text, ...]:
    """The container's argv, command then args, with `$(NAME)` replaced from `environment`. Empty without a command and args."""
    return tuple(expand_text(word, environment) for word in (*container.command, *container.args))


def expand_text(text: Text, environment: Mapping[str, Text]) -> Text:
    """Kubernetes' expansion: `$(NAME)` of a known variable is its value, of an unknown one stays, `$$` is one dollar. What a Hidden is
    part of is Hidden."""
    used = [text]

    def value(match: re.Match[str]) -> str:
        found = "$" if match[1] is None else environment.get(match[1], match[0])
        used.append(found)
        return revealed(found)

    def told(match: re.Match[str]) -> str:
        return "$" if match[1] is None else str(environment.get(match[1], match[0]))

    expanded = _REFERENCE.sub(value, revealed(text))
    hides = any(isinstance(each, Hidden) for each in used)
    return Hidden(expanded, _REFERENCE.sub(told, str(text))) if hides else expanded


def unknown_references(text: str, names: Collection[str]) -> list[str]:
    """The names in `$(NAME)` that none of `names` is."""
    return [match[1] for match in _REFERENCE.finditer(text) if match[1] is not None and match[1] not in names]
