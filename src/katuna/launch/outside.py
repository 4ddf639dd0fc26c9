"""The parts of the machine that a container sees beside its own layers: places that must stay real, and files that forbid
layers."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from katuna.launch.mirror import SMALL_BYTES
from katuna.launch.process import Command

TMP, SHM = "/tmp", "/dev/shm"  # noqa: S108
SOCKETS = (".X11-unix", "nvidia-mps")
"""Below /tmp: what programs look for there to reach others."""
_BETWEEN = re.compile(r"[\s:;,=|&<>(){}'\"\[\]]+")
LOOKED_AT = 20_000
"""How many files and folders are looked at for an owner."""


def foreign(folders: Sequence[Path], leave_out: Collection[Path]) -> str | None:
    """The first file or folder in `folders` that this user may write to but that belongs to another user or group. None where
    the first LOOKED_AT entries have none; `leave_out` is not looked at."""
    waiting = deque(map(str, folders))
    own, seen = (os.geteuid(), os.getegid()), 0
    skipped = set(map(str, leave_out))
    while waiting and seen < LOOKED_AT:
        path = waiting.popleft()
        try:
            status = os.lstat(path)
            is_folder = stat.S_ISDIR(status.st_mode)
            if (is_folder or stat.S_ISREG(status.st_mode)) and (status.st_uid, status.st_gid) != own and os.access(path, os.W_OK):
                return path
            inner = sorted(os.listdir(path)) if is_folder else []  # noqa: PTH208
        except OSError:
            continue
        seen += 1
        waiting += [below for name in inner if (below := f"{path}/{name}") not in skipped]
    return None


def named(command: Command, folders: Sequence[Path]) -> list[Path]:
    """Paths that the command's words and variables may mean, and where the links at the top of the folders lead: any of them may be
    missing, or be no path at all."""
    found = [Path(command.folder, part) for word in (*command.argv, *command.env.values()) for part in _parts(word)]
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as inner:
            found += [Path(folder, os.readlink(each)) for each in inner if each.is_symlink()]  # noqa: PTH115
    return found


def _parts(word: str) -> set[str]:
    """`--data=/tmp/a b:/tmp/c` may name `/tmp/a b:/tmp/c`, `/tmp/a`, `/tmp/c`."""
    return {part for part in (word, word.partition("=")[2], *_BETWEEN.split(word)) if "/" in part}


def entries(place: str, paths: Iterable[Path]) -> list[Path]:
    """The entries of `place` that contain one of the paths, as written or behind links."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            for each in (Path(os.path.normpath(path)), path.resolve()):
                if each.is_relative_to(place) and each != Path(place):
                    entry = Path(place, each.relative_to(place).parts[0])
                    found[entry] = entry.exists()
    return [entry for entry, is_there in found.items() if is_there]


def is_small(path: Path) -> bool:
    """Whether it is a file that may be copied for each container."""
    return path.is_file() and path.stat().st_size <= SMALL_BYTES and os.access(path, os.R_OK)


def caches() -> list[Path]:
    """Where downloads belong, which all share."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return [Path.home() / ".cache", *([Path(named)] if named.startswith("/") else [])]


def mounted() -> Iterator[Path]:
    """Where other file systems are mounted: a layer would hide what they hold."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        yield Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]))


def within(paths: Iterable[Path], folders: Iterable[str]) -> list[Path]:
    """Those below one of the folders."""
    tops = [Path(folder) for folder in folders]
    return [path for path in paths if any(path != top and path.is_relative_to(top) for top in tops)]


def is_there(path: Path) -> bool:
    """False for what this user may not look at too: other people's mounts are in the list."""
    try:
        path.lstat()
    except OSError:
        return False
    return True
