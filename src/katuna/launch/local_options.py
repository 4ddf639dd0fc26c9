"""What a user may say about running a container's command without its image, as plain data that the journal records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from katuna.errors import InputRefused

Device = Literal["job", "cpu", "cuda"]
Restarts = Literal["local", "as-operator"]
Files = Literal["own", "mirrored", "shared"]

JOBS_OWN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
JOBS_OWN_PREFIXES = ("MASTER_", "PET_", "TORCHELASTIC_")
"""Variables that say which replica a process is: only the job's own reach a trial."""


@dataclass(frozen=True)
class LocalOptions:
    """Raises InputRefused for a combination that makes no sense."""

    maps: tuple[tuple[str, str], ...] = ()
    """Paths of the image and where they lie here; each stands for itself and all below it."""
    entrypoints: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Image to what its ENTRYPOINT would be, for containers without a command."""
    pythons: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Image to the interpreter that stands for its `python`; any other image gets the one that runs katuna."""
    pass_env: tuple[str, ...] = ()
    """Names of katuna's own environment variables that trials get too."""
    device: Device = "job"
    """`job`: GPUs as each job asks; `cpu`: none for anybody; `cuda`: one for each trial that does not ask."""
    cwd: str = "."
    """Where a container without workingDir runs, and what relative paths in these options are relative to."""
    data: str = ""
    """The dataset that trainers find in KATUNA_DATA: an absolute path, "" for none."""
    data_digest: str = ""
    """What `katuna.dataset` says of its contents when the run was started; a resume wants the same."""
    claims: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """PersistentVolumeClaim to the folder that stands for it."""
    cold: bool = False
    """Every process starts an interpreter of its own."""
    restarts: Restarts = "local"
    """`local`: the first failure is final unless the file writes backoffLimit; `as-operator`: the cluster's own rules."""
    files: Files = "own"
    """`own`: each container writes into a layer of its own, or, where the kernel allows none, into a mirrored tree; `mirrored`: the
    latter in any case; `shared`: all write into the folders themselves."""

    private_network: bool = False
    """All processes of a job have one network to themselves, in which there is `lo` alone."""

    def __post_init__(self) -> None:
        for source, _ in self.maps:
            if not source.startswith("/") or not source.strip("/"):
                raise InputRefused(
                    f"--map {source}=...: what is mapped must be an absolute path of the image below /, e.g. --map /opt/app=./trainers"
                )
        for name in self.pass_env:
            if name in JOBS_OWN or name.startswith(JOBS_OWN_PREFIXES):
                raise InputRefused(
                    f"--pass-env {name}: this variable says which replica a process is, so only the job may set it; leave it out"
                )
        if self.device not in get_args(Device):
            raise InputRefused(f"--device {self.device}: must be one of {', '.join(get_args(Device))}")

    def as_json(self) -> dict[str, Any]:
        return {
            "maps": [list(pair) for pair in self.maps],
            "entrypoints": {image: list(argv) for image, argv in self.entrypoints.items()},
            "pythons": dict(self.pythons),
            "passEnv": list(self.pass_env),
            "device": self.device,
            "cwd": self.cwd,
            "data": self.data,
            "dataDigest": self.data_digest,
            "claims": dict(self.claims),
            "cold": self.cold,
            "restarts": self.restarts,
            "files": self.files,
            "privateNetwork": self.private_network,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LocalOptions:
        """The inverse of `as_json`."""
        return cls(
            maps=tuple((source, target) for source, target in data["maps"]),
            entrypoints={image: tuple(argv) for image, argv in data["entrypoints"].items()},
            pythons=dict(data["pythons"]),
            pass_env=tuple(data["passEnv"]),
            device=data["device"],
            cwd=data["cwd"],
            data=data.get("data", ""),
            data_digest=data.get("dataDigest", ""),
            claims=dict(data.get("claims", {})),
            cold=data.get("cold", False),
            restarts=data.get("restarts", "local"),
            files=data.get("files", "shared"),
            private_network=data.get("privateNetwork", False),
        )

    def here(self, path: str) -> Path:
        """A path as the options write it, made absolute."""
        return Path(self.cwd).absolute() / Path(path).expanduser()

    def folders(self) -> tuple[Path, ...]:
        """The real paths of the working folder and of each --map that is a folder, the working folder first, none within another."""
        named = [self.here("."), *(self.here(target) for _, target in self.maps)]
        found = list(dict.fromkeys(folder.resolve() for folder in named if folder.is_dir()))
        return tuple(folder for folder in found if not any(other in folder.parents for other in found))
