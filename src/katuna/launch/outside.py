"""What of the machine a container sees where its working folder, /tmp and /dev/shm are its own: what must stay real, and what is in the
way of that."""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

TMP, SHM = "/tmp", "/dev/shm"  # noqa: S108
SOCKETS = (".X11-unix", "nvidia-mps")
"""Below /tmp: what programs look for there to reach others."""


LOOKED_AT = 20_000
"""How many files and folders are looked at for an owner."""


def foreign(folders: Sequence[Path], leave_out: Collection[Path]) -> str | None:
    """A file or folder in the folders, the topmost first, that this user may write to and that is not of his user and group; None where
    the first LOOKED_AT hold none, but for those in `leave_out`."""
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


def tops(paths: Sequence[Path]) -> list[Path]:
    """The entries of /tmp that the paths lie below."""
    below = [each.relative_to(TMP).parts for each in map(Path.resolve, paths) if each.is_relative_to(TMP)]
    return [Path(TMP, each) for each in dict.fromkeys(parts[0] for parts in below if parts)]


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
