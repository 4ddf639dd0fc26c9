"""The neutral job: a Job, PyTorchJob or TrainJob in one form, as plain values, for launchers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from katuna.manifest.hidden import Hidden, Text, revealed

Pairs = tuple[tuple[str, str], ...]
"""Environment variables in order. Of two variables with one name the later wins."""
Variables = tuple[tuple[str, Text], ...]
"""`Pairs` whose values may come from a Secret."""

GPU = "nvidia.com/gpu"
MASTER_PORT = 23456
LOOPBACK = "127.0.0.1"
DEFAULT_GRACE_S = 30.0

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


@dataclass(frozen=True)
class Container:
    """The container that trains.

    `env` is not expanded: `$(NAME)` refers to another variable, `$$` stands for a dollar. `secrets` are variables that the file takes
    from a Secret that was not given: only the calling shell can give their values (`--pass-env`). `cpu` counts cores; None means that
    the file names no CPUs.
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
        """Whether an expanded command of this container may hold a value of a Secret."""
        return bool(self.secrets) or any(isinstance(value, Hidden) for _, value in self.env)


@dataclass(frozen=True)
class Mount:
    """A container's mount of a volume of its pod. `volume` is the volume's name."""

    volume: str
    path: str
    sub_path: Text = ""


VolumeKind = Literal["emptyDir", "hostPath", "persistentVolumeClaim", "configMap", "secret"]


@dataclass(frozen=True)
class Volume:
    """A volume that a job on this machine can use.

    `source` is the host's path, or the name of the claim, ConfigMap or Secret. `files` are the contents of a ConfigMap or Secret by
    path below the mount; no path leads out of the mount. `missing`: the pod needs a ConfigMap or Secret that was not given.
    """

    name: str
    kind: VolumeKind
    source: str = ""
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    missing: bool = False


RestartPolicy = Literal["Always", "OnFailure", "Never", "ExitCode"]


@dataclass(frozen=True)
class Replica:
    """One pod of the job. `role` is `master`, `worker`, `node` for a TrainJob, or "" for a batch Job; `index` counts within the role.

    `container` trains, and `sidecars` run at the same time. `init_containers` run before them, one after the other. `injected` are the
    variables that controllers add after a container's own, with the cluster's addresses and ports. Init containers get none of them.
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
    """All replicas of a job, and its limits.

    `backoff_limit` is the file's own, None where the file has none. `deadline_s` counts from the job's start over all attempts; None
    is no limit. `elastic` is (least, most) replicas of an elasticPolicy. `clean_pod_policy` is as written; the operator takes a value
    other than None and Running for All.
    """

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


# Commands, variables and the references in them.


_PYTHON = re.compile(r"python[0-9.]*\Z")
_TORCHRUN = ("torchrun", "torch.distributed.run", "torch.distributed.launch")


def words_may_launch(words: Sequence[str]) -> bool:
    """Whether a command line may start several processes: all but plain python with a script may."""
    return not words or not _PYTHON.match(words[0].rpartition("/")[2]) or name_torchrun(words)


def name_torchrun(words: Sequence[str]) -> bool:
    return any(word in _TORCHRUN or word.endswith("/torchrun") for word in words)


def expand(container: Container, environment: Mapping[str, Text]) -> tuple[Text, ...]:
    """The container's argv, command then args, with `$(NAME)` replaced from `environment`. Empty without a command and args."""
    return tuple(expand_text(word, environment) for word in (*container.command, *container.args))


def expand_text(text: Text, environment: Mapping[str, Text]) -> Text:
    """Kubernetes' expansion: `$(NAME)` becomes the variable's value, `$$` one dollar; an unknown name stays. The result is Hidden
    where a Hidden is part of it."""
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


def expand_variables(variables: Variables, before: Mapping[str, Text] | None = None) -> dict[str, Text]:
    """The variables by name, after those of `before`; `$(NAME)` in a value refers to a variable before it."""
    expanded = dict(before or {})
    for name, value in variables:
        expanded[name] = expand_text(value, expanded)
    return expanded


def unknown_references(text: str, names: Collection[str]) -> list[str]:
    """The names in `$(NAME)` that are not among `names`."""
    return [match[1] for match in _REFERENCE.finditer(text) if match[1] is not None and match[1] not in names]
