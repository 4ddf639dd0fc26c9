"""The volumes of pods on this machine: their folders, their first contents, and their removal.

What a Secret holds lies in memory where the machine has a place for that (XDG_RUNTIME_DIR, /dev/shm), and is removed when the job ends.
So does an emptyDir in which a Secret names a folder. After a SIGKILL of katuna it stays there, for its user alone, until the run is
resumed or removed, under another name too, or the machine is started anew; other scratch folders and the files of ConfigMaps then stay
in the run folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from katuna.errors import LaunchFailed
from katuna.launch.command import FINE, Foresee
from katuna.launch.local_options import LocalOptions
from katuna.manifest.diagnostic import listed
from katuna.manifest.hidden import Hidden, Text, revealed
from katuna.manifest.job import Container, Mount, Replica, Volume
from katuna.manifest.volumes import DEFAULT_MODE, HeldFiles, HostPath
from katuna.trees import PATH_MAX, open_plain

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

    def maps(self, container: Container, say: Callable[[Text], str] = revealed) -> Mapping[str, str]:
        """The container's mount paths to where they lie; with `str` for `say`, as messages may show it."""
        return {
            posixpath.normpath(mount.path): str(self._place(volume) / say(mount.sub_path))
            for mount, volume in self._mounts(container)
        }

    def elsewhere(self) -> list[Path]:
        """Where volumes lie outside of the job's folder: what is written there is meant for others too."""
        places = [self._place(volume) for volume in self.replica.volumes]
        return [place for place in places if not place.is_relative_to(self.folder)]

    def scratch(self, container: Container) -> Mapping[str, str]:
        """`maps` of emptyDirs alone."""
        paths = {posixpath.normpath(mount.path) for mount, volume in self._mounts(container) if volume.kind == "emptyDir"}
        return {path: place for path, place in self.maps(container).items() if path in paths}

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
            elif isinstance(volume, HostPath) and volume.type:
                yield from _unlike_its_type(volume)
        for container in self._containers():
            for mount in container.mounts:
                sub_path = revealed(mount.sub_path)
                if ".." in Path(sub_path).parts or sub_path.startswith("/"):
                    yield (
                        f"volumeMount {mount.path}: subPath {mount.sub_path!r} leads out of its volume",
                        "name a folder within it",
                    )

    def foresee(self, container: Container, also: Collection[str] = ()) -> Foresee:
        """What paths of the container come to once `make` has made what it makes and init containers have run. Folders of `also` will
        be there."""

        def tell(path: str, runs: bool) -> tuple[str, str] | None:
            path = os.path.normpath(path)
            around = [volume for volume in self.replica.volumes if Path(path).is_relative_to(self._place(volume))]
            volume = max(around, key=lambda each: len(self._place(each).parts), default=None)
            if path in also or (volume and volume.kind == "emptyDir"):
                return FINE
            if volume is None:
                return None
            place = self._place(volume)
            if isinstance(volume, HeldFiles):
                return _among(volume, Path(path).relative_to(place).as_posix(), runs=runs, hides=container.hides)
            if Path(path).exists() or place == Path("/"):
                return None
            return (
                FINE
                if any(Path(path) == new for new, _ in self._new_folders())
                else ("does not exist here", f"its volume is {place} here")
            )

        return tell

    def make(self) -> None:
        """Makes what is not there, once nothing is left of an earlier pod. Raises LaunchFailed and OSError."""
        if any(volume.kind in ("emptyDir", "configMap", "secret") for volume in self.replica.volumes):
            self._own.mkdir(mode=0o700, parents=True, exist_ok=True)
        for volume in self.replica.volumes:
            place = self._place(volume)
            if self._is_held(volume):
                self._make_hidden()
            if volume.kind in ("emptyDir", "configMap", "secret"):
                place.mkdir(parents=True, exist_ok=True)
            for name, content in volume.files.items():
                modes = volume.modes if isinstance(volume, HeldFiles) else {}
                _write_private(place / name, content, modes.get(name, DEFAULT_MODE))
            if isinstance(volume, HostPath) and volume.type == "FileOrCreate":
                os.close(os.open(place, os.O_RDONLY | os.O_CREAT, 0o644))
        for folder, told in self._new_folders():
            if not folder.exists():
                try:
                    folder.mkdir(mode=0o755, parents=True)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, str(told)) from None

    def remove(self) -> None:
        """Raises OSError."""
        if self._own.is_dir():
            shutil.rmtree(self._own)
        for hidden in memory_places(self.folder):
            if is_ours(hidden):
                shutil.rmtree(hidden / self.replica.pod_name, ignore_errors=True)
                with contextlib.suppress(OSError):
                    hidden.rmdir()

    @property
    def _own(self) -> Path:
        return self.folder / VOLUMES / self.replica.pod_name

    def _place(self, volume: Volume) -> Path:
        if volume.kind == "hostPath":
            return Path(volume.source)
        if volume.kind == "persistentVolumeClaim":
            return self.options.here(self.options.claims.get(volume.source, volume.source))
        hidden = next(memory_places(self.folder), None) if self._is_held(volume) else None
        return (hidden / self.replica.pod_name if hidden else self._own) / volume.name

    def _is_held(self, volume: Volume) -> bool:
        """Whether a value of a Secret is in it when it is made, in a file or as a folder's name."""
        mounts = (mount for container in self._containers() for mount in container.mounts if mount.volume == volume.name)
        named = volume.kind == "emptyDir" and any(isinstance(mount.sub_path, Hidden) for mount in mounts)
        return volume.kind == "secret" or named

    def _make_hidden(self) -> None:
        """The folder, if there is a place for one, that the Secrets of all pods of the job lie in."""
        hidden = next(memory_places(self.folder), None)
        if hidden:
            make_private(self.folder, hidden)

    def _new_folders(self) -> Iterator[tuple[Path, Path]]:
        """Folders that the pod gets where they are not yet, each with what messages may show of its path."""
        for volume in self.replica.volumes:
            if isinstance(volume, HostPath) and volume.type == "DirectoryOrCreate":
                yield self._place(volume), self._place(volume)
        for container in self._containers():
            for mount, volume in self._mounts(container):
                if mount.sub_path and volume.kind in ("emptyDir", "hostPath", "persistentVolumeClaim"):
                    place = self._place(volume)
                    yield place / revealed(mount.sub_path), place / str(mount.sub_path)

    def _containers(self) -> Iterator[Container]:
        replica = self.replica
        yield from (replica.container, *replica.sidecars, *replica.init_containers)

    def _mounts(self, container: Container) -> Iterator[tuple[Mount, Volume]]:
        """Those of volumes that mean something here."""
        volumes = {volume.name: volume for volume in self.replica.volumes}
        yield from ((mount, volumes[mount.volume]) for mount in container.mounts if mount.volume in volumes)


def sweep(folder: Path) -> None:
    """Removes what a killed katuna left in memory for the job or run in `folder`, of which nothing runs."""
    for hidden in memory_places(folder):
        if is_ours(hidden):
            shutil.rmtree(hidden, ignore_errors=True)
    with contextlib.suppress(OSError):
        (folder / RECORD).unlink()
        # Once more, for what is named by the path that it has now.
        sweep(folder)


def memory_places(folder: Path) -> Iterator[Path]:
    """Places in memory for the job or run in `folder`, where this user can write. The first is used. The others may hold a
    place of an earlier session, which had another XDG_RUNTIME_DIR."""
    for base in dict.fromkeys((os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm", f"/run/user/{os.geteuid()}")):  # noqa: S108
        if base.startswith("/") and Path(base).is_dir() and os.access(base, os.W_OK | os.X_OK):
            yield Path(base, private_name(folder))


def private_name(folder: Path) -> str:
    """What a place outside of a run folder is called that belongs to it, for this user, also once the folder has been renamed."""
    owned = os.fsencode(f"{os.geteuid()} {_named_by(folder)}")
    return f"katuna-{hashlib.sha256(owned).hexdigest()[:32]}"


RECORD = ".place"
"""In a folder for which a place has been made outside of it: the path that the folder had then."""


def _named_by(folder: Path) -> str:
    """The path that the folder's places in memory are named by: its path when they were made. Where another folder at that path
    has the places still, this folder is a copy, and its record does not count."""
    own = os.path.realpath(folder)
    recorded = _recorded(own)
    return recorded if recorded and _recorded(recorded) != recorded else own


def _recorded(folder: str) -> str:
    """The text of a folder's record; "" where it is not as katuna writes it."""
    try:
        with os.fdopen(open_plain(Path(folder, RECORD), os.O_RDONLY), "rb") as file:
            path = os.fsdecode(file.read(PATH_MAX + 1))
    except OSError:
        return ""
    return path if len(path) <= PATH_MAX and "\0" not in path and path == os.path.normpath(path) and path.startswith("/") else ""


def make_private(folder: Path, place: Path) -> None:
    """A private folder for `folder`, in a place where other users may write too. Raises LaunchFailed where another user has
    made the folder, and OSError."""
    named_by = _named_by(folder)
    if _recorded(os.path.realpath(folder)) != named_by:
        with os.fdopen(open_plain(folder / RECORD, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(os.fsencode(named_by))
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    if not is_ours(place):
        raise LaunchFailed(
            f"{place}, where files of the run are to lie, belongs to somebody else or is open to others: remove it"
        )


def is_ours(folder: Path) -> bool:
    """Whether it is a folder, and this user's alone: others may write beside it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


_TYPES = {
    "Directory": stat.S_ISDIR,
    "File": stat.S_ISREG,
    "Socket": stat.S_ISSOCK,
    "CharDevice": stat.S_ISCHR,
    "BlockDevice": stat.S_ISBLK,
}


def _unlike_its_type(volume: HostPath) -> Iterator[tuple[str, str]]:
    """A kubelet's checks; FileOrCreate makes no folder for its file."""
    what = f"volume {volume.name!r}: hostPath {volume.source} of type {volume.type}"
    wanted = volume.type.removesuffix("OrCreate")
    path = Path(volume.source)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if wanted == volume.type:
            yield f"{what} does not exist here", "make it, or write another path"
        elif wanted == "File" and not path.parent.is_dir():
            yield f"{what}: the folder for it does not exist here", f"make {path.parent}"
    except OSError as error:
        yield f"{what}: {error.strerror}", "write another path"
    else:
        if not _TYPES[wanted](mode):
            yield f"{what} is something else here", "write another path or type"


def _among(volume: HeldFiles, name: str, *, runs: bool, hides: bool) -> tuple[str, str]:
    """`Foresee` of what lies at `name` in a ConfigMap's or Secret's volume; `hides`: not naming it."""
    holder = f"{'ConfigMap' if volume.kind == 'configMap' else 'Secret'} {volume.source!r}"
    if name in volume.files:
        mode = volume.modes.get(name, DEFAULT_MODE)
        if runs and not mode & 0o100:
            hint = f"write defaultMode: 0755 in volume {volume.name!r}, or let an interpreter run it"
            return f"has mode {mode:04o} and cannot be executed", hint
        return FINE
    if name == "." or any(file.startswith(f"{name}/") for file in volume.files):
        return FINE
    if volume.missing:
        return f"does not exist: the {holder} is not among the files given", "give its file too, after this one"
    key = "such key" if hides else f"key {name!r}"
    return (
        f"does not exist: the {holder} of volume {volume.name!r} has no {key}",
        f"it has: {listed(sorted(volume.files)) or 'none'}",
    )


def _write_private(path: Path, content: bytes, mode: int) -> None:
    """A file with the owner's part of `mode`, which may at least read and write it; the folders on the way to it may be new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600 | mode & 0o700)
    with os.fdopen(file, "wb") as output:
        output.write(content)
