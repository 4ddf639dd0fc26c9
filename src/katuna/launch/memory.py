"""A container's memory limit, kept: by a cgroup of its own where this user may make one, else by looking ten times a second."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from katuna.launch.guard import LINUX, descendants

CGROUPS = Path("/sys/fs/cgroup")
LOOK_S = 0.1


class MemoryLimit:
    """Of all processes below the guard `guard`, from when it has started `pid`. `parent` is where a cgroup may be made, see `delegated`.

    The cgroup has no swap, as a pod has none, and the kernel ends all of it at once. Without one, what the processes have for
    themselves and their part of what they share is added up (PSS), so a peak between two looks can pass; one process counts
    at least with all memory that is in no file, for a fork of the server of warm starts would have its part alone.
    """

    def __init__(self, limit_bytes: int, guard: int, pid: int, parent: Path | None) -> None:
        self._limit = limit_bytes
        self._guard = guard
        self._cgroup = _own_cgroup(parent, limit_bytes, pid) if parent else None

    def enforce(self) -> bool:
        """Whether the limit has been passed; then everything of the container has been sent SIGKILL."""
        if self._cgroup:
            return _ooms(self._cgroup) > 0
        below = descendants(self._guard) if LINUX else []
        # The resident size is quick to read and never less than what counts.
        if sum(map(_resident, below)) <= self._limit:
            return False
        used = [_used(pid) for pid in below]
        if max(sum(part for part, _ in used), max((own for _, own in used), default=0)) <= self._limit:
            return False
        for pid in below:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        return True

    def close(self) -> None:
        """When nothing of the container is left."""
        if self._cgroup:
            with contextlib.suppress(OSError):
                self._cgroup.rmdir()


def delegated(cgroups: Path = CGROUPS, proc: Path = Path("/proc")) -> Path | None:
    """The cgroup (v2) beside whose children a new one with a memory limit can be made and entered, without privileges: that of this
    process's own parent, where a user's session manager has it delegated. None for v1, or where it is not ours."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    if own.strip("/") == "":
        return None
    parent = cgroups / own.strip("/").rpartition("/")[0]
    try:
        controllers = (parent / "cgroup.subtree_control").read_text().split()
    except OSError:
        return None
    return (
        parent if "memory" in controllers and os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK) else None
    )


def _own_cgroup(parent: Path, limit_bytes: int, pid: int) -> Path | None:
    """A new cgroup with `pid` in it; None where the kernel refuses."""
    folder = parent / f"katuna-{os.getpid()}-{pid}"
    try:
        folder.mkdir()
        (folder / "memory.max").write_text(str(limit_bytes))
        for name, value in (("memory.oom.group", "1"), ("memory.swap.max", "0")):
            with contextlib.suppress(OSError):
                (folder / name).write_text(value)
        (folder / "cgroup.procs").write_text(str(pid))
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return None
    return folder


def _ooms(cgroup: Path) -> int:
    try:
        lines = (cgroup / "memory.events").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _used(pid: int) -> tuple[int, int]:
    """Bytes of a process: with its part of what it shares, and all that is in no file, shared or not."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        # Another user's, or a kernel without it.
        return _resident(pid), 0
    sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    return sizes.get("Pss", 0), sizes.get("Anonymous", 0)
