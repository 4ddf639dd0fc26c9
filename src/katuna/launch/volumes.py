"""The folders that containers would have mounted: where they lie here, what is in them when a trial or job begins, and what goes with it."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from katuna.errors import LaunchFailed
from katuna.launch.command import map_paths
from katuna.launch.options import LocalOptions
from katuna.metrics.collect import Collecting
from katuna.spec.job import Container, Mount, Replica, Volume

METRICS, CHECKPOINTS = "metrics", "checkpoints"


@dataclass(frozen=True)
class Volumes:
    """`checkpoints` is the container's path of them, "" where the search hands none from trial to trial.

    Below the trial's folder, `metrics` is empty whenever an attempt begins, as a new pod's is; `checkpoints` is a copy of the
    parent's, or empty, when the trial begins, and an attempt finds there what the one before left.
    """

    collecting: Collecting
    checkpoints: str = ""

    def maps(self, trial: Path) -> Mapping[str, str]:
        """Paths of the container to where they lie when `trial` is the trial's folder."""
        here = {path: str(place) for path, place in self.collecting.here(trial / METRICS).items()}
        return {**here, **({posixpath.normpath(self.checkpoints): str(trial / CHECKPOINTS)} if self.checkpoints else {})}

    def problems(self, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Which paths the trial cannot learn of, as (message, hint): they occur in none of the `texts` that paths are mapped in.

        Such a trainer writes to the path that it has built in, which is one for all trials that run at a time.
        """
        given = list(texts)
        asked = {"checkpoints": self.checkpoints, "metrics": next(iter(self.collecting.paths), "")}
        for what, path in asked.items():
            if path and not path.strip("/"):
                yield f"the trial's {what} cannot lie in {path} itself", "name a folder below it"
            elif path and not any(map_paths(text, {posixpath.normpath(path): ""}) != text for text in given):
                message = f"{path}, where the trial's {what} are to lie, occurs nowhere in the job's command, env or workingDir"
                yield (
                    message,
                    f"each trial has a folder of its own here: give the trainer the path as an argument or in env ({path})",
                )

    def begin(self, trial: Path, parent: Path | None) -> None:
        """Before the first attempt of `trial`, which `parent` hands its checkpoints to. Raises LaunchFailed and OSError."""
        if not self.checkpoints:
            return
        _remove(trial / CHECKPOINTS)
        if parent is None:
            (trial / CHECKPOINTS).mkdir()
            return
        source = parent / CHECKPOINTS
        if not source.is_dir():
            raise LaunchFailed(f"the trial begins with the checkpoints of {parent.name}, and there is no folder {source}")
        copy_folder(source, trial / CHECKPOINTS)

    def begin_attempt(self, trial: Path) -> None:
        """Raises OSError."""
        if self.collecting.collector.kind not in ("StdOut", "PrometheusMetric"):
            _remove(trial / METRICS)
            (trial / METRICS).mkdir()


def copy_folder(source: Path, target: Path) -> None:
    """Copies folders and files. A link to something within `source` leads to its copy; other links, pipes and the like are left out."""
    root = os.path.realpath(source)
    for folder, folders, files in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir()
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                real = os.path.realpath(path)
                if os.path.commonpath([root, real]) == root:
                    (place / name).symlink_to(os.path.relpath(real, os.path.realpath(folder)))
            elif path.is_file():
                shutil.copy2(path, place / name)


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


# The volumes of a pod

VOLUMES = "volumes"
"""The folder for what a job's pods have for its time alone, below the job's own."""


@dataclass(frozen=True)
class PodVolumes:
    """Where the volumes of one pod lie: an emptyDir, and the files of ConfigMaps and Secrets, in a folder of its own that nobody else
    may read and that goes with the job; the others where the host has them."""

    folder: Path
    replica: Replica
    options: LocalOptions

    def maps(self, container: Container) -> Mapping[str, str]:
        """The container's mount paths to where they lie."""
        volumes = {volume.name: volume for volume in self.replica.volumes}
        return {
            posixpath.normpath(mount.path): str(self._place(volumes[mount.volume]) / mount.sub_path)
            for mount in container.mounts
            if mount.volume in volumes
        }

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is not here, as (message, hint)."""
        for volume in self.replica.volumes:
            if volume.kind == "persistentVolumeClaim":
                given = self.options.claims.get(volume.source)
                if given is None:
                    message = f"volume {volume.name!r}: there is no PersistentVolumeClaim {volume.source!r} here"
                    yield message, f"--claim {volume.source}=FOLDER says which folder stands for it"
                elif not self.options.here(given).is_dir():
                    yield f"--claim {volume.source}={given}: there is no such folder here", "make it, or correct the option"
        for mount in self._mounts():
            if ".." in Path(mount.sub_path).parts or mount.sub_path.startswith("/"):
                yield f"volumeMount {mount.path}: subPath {mount.sub_path!r} leads out of its volume", "name a folder within it"

    def make(self) -> None:
        """Makes what is not there. Raises OSError."""
        if any(volume.kind in ("emptyDir", "configMap", "secret") for volume in self.replica.volumes):
            self._own.mkdir(mode=0o700, parents=True, exist_ok=True)
        for volume in self.replica.volumes:
            if volume.kind == "emptyDir":
                self._place(volume).mkdir(parents=True, exist_ok=True)
            for name, content in volume.files.items():
                _write_private(self._place(volume) / name, content)
        kinds = {volume.name: volume for volume in self.replica.volumes}
        for mount in self._mounts():
            mounted = kinds.get(mount.volume)
            if mount.sub_path and mounted and mounted.kind in ("emptyDir", "hostPath", "persistentVolumeClaim"):
                place = self._place(mounted) / mount.sub_path
                if not place.exists():
                    place.mkdir(parents=True)

    def remove(self) -> None:
        """Raises OSError."""
        if self._own.is_dir():
            shutil.rmtree(self._own)

    @property
    def _own(self) -> Path:
        return self.folder / VOLUMES / self.replica.pod_name

    def _place(self, volume: Volume) -> Path:
        if volume.kind == "hostPath":
            return Path(volume.source)
        if volume.kind == "persistentVolumeClaim":
            return self.options.here(self.options.claims.get(volume.source, volume.source))
        return self._own / volume.name

    def _mounts(self) -> Iterator[Mount]:
        replica = self.replica
        for container in (replica.container, *replica.sidecars, *replica.init_containers):
            yield from container.mounts


def _write_private(path: Path, content: bytes) -> None:
    """A file of mode 0600; the folders on the way to it, which may be new, have 0700."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "wb") as output:
        output.write(content)
