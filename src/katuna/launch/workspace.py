"""Files of its own for each container of a job: which of three ways this machine allows, and what a container then sees where.

    layer      it sees the folders as they are, and the code as the run keeps it; what it writes goes to a layer (layers.py)
    mirrored   where the kernel allows no mounts: it works in a copy of the folders (mirror.py)
    shared     where neither can be had, or as asked: it writes into the folders themselves

In the job's folder lie afterwards, of the first replica's training container, `work`, what it wrote into the working folder, and
`work.1` and so on, into the folder of a --map that lies elsewhere; in `works/` the same of the other containers, by pod.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from katuna.errors import FilesMixed, LaunchFailed, is_shortage
from katuna.launch import layers
from katuna.launch.layers import Step
from katuna.launch.local_options import LocalOptions
from katuna.launch.mirror import TooMany, changed, check, mirror, read, settle
from katuna.launch.outside import SHM, SOCKETS, TMP, caches, entries, foreign, is_small, is_there, mounted, named, within
from katuna.launch.plan import Planned
from katuna.launch.volumes import PodVolumes, is_ours, make_private, memory_places, private_name
from katuna.manifest.own_paths import map_paths
from katuna.trees import remove

Way = Literal["layer", "mirrored", "shared"]

OWN = ".own"
"""Below the job's folder: what goes when the job has ended."""
CODE, SHM_NAME = ".code", ".shm"
"""In a place in memory."""
SYSTEM = ("/dev", "/proc", "/sys")
"""Folders in which everything changes all the time."""
PROBE_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Kept:
    """The code that a run keeps: its root folders, the absolute paths of its files, and a function that writes it into a new
    folder, one tree named 0, 1, ... a root."""

    folders: Sequence[Path]
    files: Collection[str]
    unpack: Callable[[Path], None]


class Files:
    """Of the jobs of one run. `run` is its folder, or any folder where `way` alone is asked for; `close` removes what it keeps in memory.

    The way is found out when it is first asked for.
    """

    def __init__(self, options: LocalOptions, run: Path, kept: Kept | None = None) -> None:
        self._options = options
        self._run = run.absolute()
        self.kept = kept
        self._folders = options.folders()
        self._unpacked: Path | None = None

    @property
    def run_name(self) -> str:
        return self._run.name

    # Which way

    @property
    def way(self) -> Way:
        return self._found[0]

    @property
    def why(self) -> str:
        """Why it is not a layer; "" where it is, or where something else was asked for."""
        return self._found[1]

    @property
    def is_unwanted(self) -> bool:
        """Whether the folders are shared for want of anything better."""
        return self.way == "shared" and self._options.files != "shared"

    @cached_property
    def _found(self) -> tuple[Way, str]:
        if self._options.files == "shared":
            return "shared", ""
        why = self._no_layers() if self._options.files == "own" else ""
        if self._options.files == "own" and not why:
            return "layer", ""
        try:
            check(self._folders, leave_out=[self._run.parent])
        except TooMany as error:
            return "shared", f"{why}; {error}" if why else str(error)
        return "mirrored", why

    def _no_layers(self) -> str:
        """Why there can be none here; "" where there can."""
        if not layers_exist():
            return f"{sys.platform} has no layers"
        if Path("/") in self._folders:
            return "the working folder is /"
        place = self._run / OWN / "probe"
        try:
            view = self._layers(self._run, "probe", place, self._folders)
            done = subprocess.run(
                [sys.executable, "-I", "-S", layers.__file__, *layers.flat(view)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROBE_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                return done.stderr.strip().rpartition("\n")[2] or "the kernel refuses them"
            real = [self._run.parent, *map(self._options.here, self._options.claims.values())]
            others = foreign(self._folders, real) if "user" in done.stdout else None
            return (
                f"{others} is not your own user's and group's alone, and a layer refuses what is written to it" if others else ""
            )
        except (OSError, subprocess.SubprocessError) as error:
            if isinstance(error, OSError) and is_shortage(error):
                raise
            return str(error)
        finally:
            for each in (place, *(self._run / name for name in _names("probe", self._folders))):
                remove(each)
            _remove_empty(place.parent)

    # A container

    def prepare(self, folder: Path, planned: Planned) -> Planned:
        """Makes the files of a container and returns the container with them. `folder` is the job's. A container that ran
        before finds its files as it left them.

        Raises LaunchFailed and OSError.
        """
        if self.way == "shared":
            return replace(planned, files=self.way)
        pod, container = planned.replica.pod_name, planned.container.name
        name = "work" if planned.log == folder / "log" else f"works/{planned.log.name.removesuffix('.log')}"
        own = folder / OWN / pod / container
        folders = self._seen(folder, planned)
        if self.way == "layer":
            return self._layered(folder, planned, name, own, folders)
        return self._mirrored(folder, planned, name, own, folders)

    def _seen(self, folder: Path, planned: Planned) -> tuple[Path, ...]:
        """The folders that the container has to itself: those of the run, and its working folder where it lies elsewhere."""
        here = planned.command.folder
        if not here.is_dir():
            return self._folders
        here = here.resolve()
        others = (*self._folders, folder, *PodVolumes(folder, planned.replica, self._options).elsewhere())
        is_new = here != Path("/") and not any(here.is_relative_to(other) for other in others)
        return (*self._folders, here) if is_new else self._folders

    # Layers

    def _layered(self, folder: Path, planned: Planned, name: str, own: Path, folders: Sequence[Path]) -> Planned:
        volumes = PodVolumes(folder, planned.replica, self._options)
        command = replace(planned.command, env=_with_tmp(planned, planned.command.env, TMP))
        view = self._layers(folder, name, own, folders, volumes.elsewhere(), needed=[command.folder, *named(command, folders)])
        return replace(planned, files=self.way, command=replace(command, view=view))

    def _layers(
        self,
        folder: Path,
        name: str,
        own: Path,
        folders: Sequence[Path],
        volumes: Sequence[Path] = (),
        needed: Sequence[Path] = (),
    ) -> tuple[Step, ...]:
        """A view in which `folders` are layers over what is there, /tmp, /dev/shm and the folder of all runs begin empty but for what is
        used and `needed`, and what others are to see stays as it is: the job's folder, volumes, caches, file systems that are mounted
        within."""
        over: dict[str, Step] = {}
        for number, (each, place) in enumerate(zip(folders, _names(name, folders), strict=True)):
            code = [self._code() / str(self._index(each))] if self._index(each) is not None else []
            over[str(each)] = _layer(each, folder / place, own / f"inner-{number}", code)
        real = [path.resolve() for path in (folder, *volumes, *caches(), *(Path(TMP, each) for each in SOCKETS))]
        emptied = self._emptied(folder, own, folders)
        hidden = {*within(real, [*over, *emptied])}
        used = [*folders, folder, *volumes, *needed, *self._programs()]
        apart = {*real, self._run, self._run.resolve(), *memory_places(folder), *memory_places(self._run)}
        for number, (place, instead) in enumerate(emptied.items()):
            for entry in entries(place, used):
                if str(entry) in over or entry in apart:
                    continue
                if entry.is_dir():
                    over[str(entry)] = _layer(
                        entry, own / f"tops-{number}" / entry.name, own / f"inner-{number}-{entry.name}", []
                    )
                elif not is_small(entry):
                    hidden.add(entry)
                elif not os.path.lexists(instead / entry.name):
                    shutil.copy2(entry, instead / entry.name)
        hidden |= {
            each for each in within(mounted(), over) if str(each) not in emptied and not within([each], self._home(folders))
        }
        keeps = [("keep", str(each)) for each in hidden if str(each) not in over and is_there(each)]
        owns = [("own", place, str(instead)) for place, instead in emptied.items()]
        return tuple(sorted([*owns, *over.values(), *keeps], key=lambda step: (step[1].count("/"), step[0] == "keep")))

    def _emptied(self, folder: Path, own: Path, folders: Sequence[Path]) -> dict[str, Path]:
        """Places that begin empty for the job in `folder`, each with the folder that stands in for it."""
        found = dict.fromkeys(self._home(folders), own / "runs")
        if not any(Path(TMP).is_relative_to(each) for each in folders):
            found[TMP] = own / "tmp"
        for instead in found.values():
            instead.mkdir(parents=True, exist_ok=True)
        shm = _shared_memory(folder)
        return {**found, SHM: shm} if shm else found

    def _home(self, folders: Sequence[Path]) -> list[str]:
        """The folder of all runs, where a container would come upon what others have written there."""
        home = self._run.parent.resolve()
        return [str(home)] if within([home], map(str, folders)) else []

    def _programs(self) -> list[Path]:
        """What a command runs and reads besides its folders."""
        words = [sys.prefix, sys.base_prefix, __file__, self._options.data, *self._options.pythons.values()]
        return [Path(word) for word in words if word.startswith("/")]

    def _index(self, folder: Path) -> int | None:
        """Which tree of the kept code belongs to a folder."""
        folders = list(self.kept.folders) if self.kept else []
        return folders.index(folder) if folder in folders else None

    def _code(self) -> Path:
        """The kept code as files, for this process's time. A layer's parts may not lie within each other, so it lies in none of the folders."""
        assert self.kept is not None
        # It is looked for each time: of a training that is taken up, what lay in memory before is swept away once it is shown.
        if self._unpacked is None or not self._unpacked.is_dir():
            places = [*memory_places(self._run), Path(tempfile.gettempdir(), private_name(self._run))]
            place = next((each for each in places if not any(each.is_relative_to(folder) for folder in self._folders)), None)
            if place is None:
                raise LaunchFailed("there is no place for the run's code outside of the working folder")
            make_private(self._run, place)
            remove(place / CODE)
            self.kept.unpack(place / CODE)
            self._unpacked = place / CODE
        return self._unpacked

    # Mirrors

    def _mirrored(self, folder: Path, planned: Planned, name: str, own: Path, folders: Sequence[Path]) -> Planned:
        (own / "tmp").mkdir(parents=True, exist_ok=True)
        (folder / name).parent.mkdir(exist_ok=True)
        mirrors = []
        for number, (each, place) in enumerate(zip(folders, _names(name, folders), strict=True)):
            code = self._code() / str(self._index(each)) if self._index(each) is not None else None
            made = mirror(each, folder / place, code=code, leave_out=[self._run.parent], state=own / f"mirror-{number}.json")
            mirrors.append(made)
        volumes = PodVolumes(folder, planned.replica, self._options).elsewhere()
        real = [folder, self._run.parent, *volumes, *filter(None, [self._options.data and Path(self._options.data)])]
        maps = {str(each): str(each) for each in real}
        for tree in mirrors:
            maps |= {str(tree.root): str(tree.work), **{str(tree.root / whole): str(tree.root / whole) for whole in tree.whole}}
        given = planned.command
        env = _with_tmp(planned, {key: map_paths(value, maps) for key, value in given.env.items()}, str(own / "tmp"))
        argv = tuple(map_paths(word, maps) for word in given.argv)
        command = replace(given, argv=argv, env=env, folder=Path(map_paths(str(given.folder), maps)))
        return replace(planned, files=self.way, command=command)

    # The end

    def ended(self, folder: Path, *, begins_again: bool = False) -> None:
        """To be called when no process of the job in `folder` is left. Files that a job needs to begin again stay.

        Raises FilesMixed where it has changed a file that its mirrored tree only linked to.
        """
        mirrors = [read(path) for path in sorted((folder / OWN).glob("*/*/mirror-*.json"))]
        touched = [each.root / path for each in mirrors for path in changed(each)]
        for each in () if begins_again else mirrors:
            settle(each)
        for inner in (folder / OWN).glob("*/*/inner-*"):
            remove(inner)
        if not begins_again:
            remove(folder / OWN)
        for hidden in memory_places(folder):
            if is_ours(hidden):
                remove(hidden / SHM_NAME)
                _remove_empty(hidden)
        if touched:
            raise FilesMixed(
                f"{folder.name} has changed {touched[0]}{f' and {len(touched) - 1} more' if touched[1:] else ''}, which is too large to be "
                f"copied for each trial ({self.why or 'as mirrored trees were asked for'}): put it back, let the trainer write "
                f"elsewhere, and go on with `katuna resume {self.run_name}`"
            )

    def watch(self) -> Callable[[], list[str]]:
        """What will tell which files of the folders have been written since now, where these are shared."""
        before = stamps(self._folders, [self._run.parent])

        def written() -> list[str]:
            after = stamps(self._folders, [self._run.parent])
            return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))

        return written

    def close(self) -> None:
        """Idempotent."""
        for hidden in (*memory_places(self._run), *([self._unpacked.parent] if self._unpacked else [])):
            if is_ours(hidden):
                remove(hidden / CODE)
                remove(hidden / SHM_NAME)
                _remove_empty(hidden)
        self._unpacked = None


def layers_exist() -> bool:
    return sys.platform == "linux"


def forecast(options: LocalOptions) -> tuple[Way, str]:
    """The way that a run would take, and why it is not a layer; nothing is left of finding out."""
    with tempfile.TemporaryDirectory(prefix="katuna-") as folder:
        files = Files(options, Path(folder, "runs", "run"))
        with contextlib.closing(files):
            return files.way, files.why


def in_words(way: Way, why: str, place: str) -> str:
    """What a person is told of the way; `place` is where the files of a trial or job lie then."""
    return {
        "layer": f"what is written here goes to {place}",
        "mirrored": f"processes run in copies of this folder, {place}{f', as they can have no layer over it ({why})' if why else ''}",
        "shared": f"all processes write into this folder itself{f', as they can have none of their own ({why})' if why else ''}",
    }[way]


def left(folder: Path) -> list[tuple[str, int | None]]:
    """What the containers of the job in `folder` wrote, once it has ended: path below `folder` and bytes, None for a file of the
    user's that was removed."""
    found: list[tuple[str, int | None]] = []
    for place in sorted([*folder.glob("work"), *folder.glob("work.[0-9]*"), *folder.glob("works/*")]):
        for base, folders, names in os.walk(place):
            folders[:] = [each for each in folders if each != "__pycache__"]
            found += [_left(folder, Path(base, name)) for name in names]
    return sorted(found)


def _left(folder: Path, path: Path) -> tuple[str, int | None]:
    status = path.lstat()
    gone = status.st_mode & 0o170000 == 0o020000
    return str(path.relative_to(folder)), None if gone else status.st_size


def stamps(folders: Sequence[Path], leave_out: Collection[Path], most: int = 200_000) -> Mapping[str, tuple[int, int, int]]:
    """Size, time and inode of the files in `folders`, of the first `most` at least."""
    found: dict[str, tuple[int, int, int]] = {}
    left_out = {*leave_out, *map(Path, SYSTEM)}
    for top in folders:
        for base, inner, names in os.walk(top):
            inner[:] = [each for each in inner if Path(base, each) not in left_out and each != "__pycache__"]
            for name in names:
                with contextlib.suppress(OSError):
                    status = os.lstat(os.path.join(base, name))  # noqa: PTH118
                    found[os.path.join(base, name)] = (status.st_size, status.st_mtime_ns, status.st_ino)  # noqa: PTH118
            if len(found) > most:
                return found
    return found


def _layer(target: Path, upper: Path, inner: Path, code: Sequence[Path]) -> Step:
    upper.mkdir(parents=True, exist_ok=True)
    remove(inner)
    inner.mkdir(parents=True)
    return ("layer", *map(str, (target, upper, inner, *code, target)))


def _names(name: str, folders: Sequence[Path]) -> list[str]:
    return [f"{name}.{number}" if number else name for number in range(len(folders))]


def _shared_memory(folder: Path) -> Path | None:
    """What stands for /dev/shm in all containers of the job in `folder`; None where there is none."""
    hidden = next((each for each in memory_places(folder) if each.parent == Path(SHM)), None)
    if hidden is None:
        return None
    make_private(folder, hidden)
    (hidden / SHM_NAME).mkdir(mode=0o700, exist_ok=True)
    return hidden / SHM_NAME


def _with_tmp(planned: Planned, env: Mapping[str, str], tmp: str) -> Mapping[str, str]:
    """The environment of a container whose /tmp is its own. PyTorch keeps what it compiles in /tmp, so TORCHINDUCTOR_CACHE_DIR
    leads elsewhere; else each trial would compile again."""
    more = {"TMPDIR": tmp, "TORCHINDUCTOR_CACHE_DIR": str(caches()[-1] / "katuna" / "torchinductor")}
    asked = dict(planned.container.env)
    if (tmp == TMP and "TMPDIR" not in env) or "TMPDIR" in asked:
        del more["TMPDIR"]
    if "TORCHINDUCTOR_CACHE_DIR" in env:
        del more["TORCHINDUCTOR_CACHE_DIR"]
    return {**env, **more}


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
