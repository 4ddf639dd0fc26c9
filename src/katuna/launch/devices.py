"""Which CUDA devices this machine has, and who may use them: leases across katuna processes and users.

A lease is a name a device, which one process can have at a time: on Linux that of an abstract socket, which hangs on no folder, user
or variable. The kernel frees it when the last process that holds the socket has ended, so the guard of a trial, which inherits it,
keeps the device until nothing of the trial is left, katuna alive or not. Abstract names belong to a network namespace: containers
that have their own do not see each other's leases. Whoever binds a device's name, katuna or not, makes it look taken.
The leases are tested with made-up devices; they were not measured on a machine with a GPU.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import overload

from katuna.trees import open_plain

_LISTED = re.compile(r"^(?P<indent>\s*)(?:GPU (?P<index>\d+)|MIG \S+).*\(UUID: (?P<uuid>[\w-]+)\)", re.MULTILINE)

USUAL_PATH = "/usr/bin:/usr/local/bin:/usr/lib/wsl/lib"


@dataclass(frozen=True)
class Lease:
    """Devices that are ours, as CUDA_VISIBLE_DEVICES names them, and the locks that say so."""

    devices: tuple[str, ...]
    locks: tuple[int, ...]

    def close(self) -> None:
        """Lets go of the locks in this process; a guard that inherited them holds on."""
        for lock in self.locks:
            os.close(lock)


class DevicePool:
    """The devices that this process may hand out."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = devices

    def lease(self, count: int) -> Lease | None:
        """A lease of `count` devices that no other process holds, or None while fewer are free. Raises OSError when no lease can be made."""
        with contextlib.ExitStack() as unless_whole:
            lease = Lease((), ())
            for device in self.devices if count else ():
                lock = _take(device)
                if lock is not None:
                    unless_whole.callback(os.close, lock)
                    lease = Lease((*lease.devices, device), (*lease.locks, lock))
                if len(lease.devices) == count:
                    break
            if len(lease.devices) == count:
                unless_whole.pop_all()
                return lease
        return None

    def holders(self) -> str:
        """Who has leases of these devices, for people, as far as it can be told (Linux); "" where it cannot."""
        return ", ".join(dict.fromkeys(filter(None, map(_holder, self.devices))))


class Found(Sequence[str]):
    """Devices that are looked for when somebody wants to know: nvidia-smi can take seconds, and a job without GPUs need not wait."""

    def __init__(self, visible: str | None) -> None:
        self._visible = visible

    @cached_property
    def _devices(self) -> tuple[str, ...]:
        return allowed(_installed(), self._visible)

    @property
    def complaint(self) -> str:
        """What nvidia-smi says beside its list: a driver that does not fit, a GPU that is broken. "" where all is well."""
        command = shutil.which("nvidia-smi")
        return _asked(command)[1] if command else ""

    def __len__(self) -> int:
        return len(self._devices)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self._devices[index]


def cuda_devices(environ: Mapping[str, str]) -> Sequence[str]:
    """The devices of this machine that `environ` lets its processes see, by UUID where nvidia-smi gives one, else by number.
    nvidia-smi is asked when they are first looked at, and once in a process.

    Numbers in CUDA_VISIBLE_DEVICES count as nvidia-smi counts (CUDA_DEVICE_ORDER=PCI_BUS_ID).
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip():
        return ()
    return Found(visible)


def allowed(installed: Mapping[str, Sequence[str]], visible: str | None) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES leaves of `installed` (GPU number to the devices on it); CUDA stops at the first bad entry."""
    if visible is None:
        return tuple(device for devices in installed.values() for device in devices)
    known = [device for devices in installed.values() for device in devices]
    chosen: dict[str, None] = {}
    for entry in (part.strip() for part in visible.split(",")):
        named = installed.get(entry) or [device for device in known if entry and device.startswith(entry) and not entry.isdigit()]
        if not named:
            break
        chosen.update(dict.fromkeys(named))
    return tuple(chosen)


def parse_listing(text: str) -> dict[str, list[str]]:
    """`nvidia-smi -L` as GPU number to device UUIDs: the GPU itself, or its MIG parts where it is divided."""
    found: dict[str, list[str]] = {}
    number = ""
    for match in _LISTED.finditer(text):
        if match["index"] is not None:
            number = match["index"]
            found[number] = [match["uuid"]]
        elif number:
            found[number] = [uuid for uuid in found[number] if uuid.startswith("MIG-")] + [match["uuid"]]
    return found


def _installed() -> Mapping[str, Sequence[str]]:
    # Whoever looks with another PATH is to find the same names.
    command = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=USUAL_PATH)
    if command:
        return _asked(command)[0]
    return {name: [name] for name in _numbers(Path("/dev").glob("nvidia[0-9]*"))}


@cache
def _asked(command: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """The list and the other words. Where one GPU is broken nvidia-smi fails, and lists the others all the same."""
    try:
        done = subprocess.run([command, "-L"], capture_output=True, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return {}, str(getattr(error, "strerror", "") or error)
    other = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip() and not _LISTED.match(line)]
    return parse_listing(done.stdout), "; ".join(other[:3]) or (f"exit code {done.returncode}" if done.returncode else "")


def _numbers(paths: Iterable[Path]) -> list[str]:
    return sorted((path.name.removeprefix("nvidia") for path in paths), key=int)


def _take(device: str) -> int | None:
    """The file descriptor that holds the device, or None when another process holds it. Raises OSError."""
    if sys.platform != "linux":
        return _lock(Path(pwd.getpwuid(os.getuid()).pw_dir, ".cache", "katuna"), device)
    with socket.socket(socket.AF_UNIX) as named:
        try:
            named.bind(_name(device))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            raise
        # So that whoever waits can be told who has it.
        named.listen()
        return named.detach()


def _name(device: str) -> bytes:
    return b"\0katuna/" + os.fsencode(device)


def _holder(device: str) -> str:
    with socket.socket(socket.AF_UNIX) as caller, contextlib.suppress(OSError):
        caller.setblocking(False)
        caller.connect(_name(device))
        pid, uid, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return f"pid {pid} of user {uid}"
    return ""


def _lock(folder: Path, device: str) -> int | None:
    """`_take` where there are no abstract sockets: by a locked file, between the processes of one user."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open_plain(folder / f"{device}.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
