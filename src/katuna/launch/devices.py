"""Which CUDA devices this machine has, and who may use them: leases across katuna processes, held by file locks.

A lease is a locked file a device. The kernel frees it when the last process that holds the file has ended, so the guard of a
trial, which inherits it, keeps the device until nothing of the trial is left, katuna alive or not.
The leases are tested with made-up devices; they were not measured on a machine with a GPU.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import overload

from katuna.errors import LaunchFailed

_LISTED = re.compile(r"^(?P<indent>\s*)(?:GPU (?P<index>\d+)|MIG \S+).*\(UUID: (?P<uuid>[\w-]+)\)", re.MULTILINE)


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
    """The devices that this process may hand out. `folder` holds the locks and is the same for all katuna processes of a user."""

    def __init__(self, devices: Sequence[str], folder: Path) -> None:
        self.devices = devices
        self._folder = folder

    def lease(self, count: int) -> Lease | None:
        """`count` devices that nobody else has, or None while there are not as many. Raises LaunchFailed when locks cannot be made."""
        if count == 0:
            return Lease((), ())
        _private(self._folder)
        taken: list[tuple[str, int]] = []
        for device in self.devices:
            lock = _lock(self._folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', device)}.lock")
            if lock is not None:
                taken.append((device, lock))
            if len(taken) == count:
                return Lease(tuple(device for device, _ in taken), tuple(lock for _, lock in taken))
        Lease((), tuple(lock for _, lock in taken)).close()
        return None


def lease_folder(environ: Mapping[str, str]) -> Path:
    """Where this user's katuna processes meet: XDG_RUNTIME_DIR, or a folder of the user's own under the temporary directory."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime, "katuna") if runtime else Path(tempfile.gettempdir(), f"katuna-{os.getuid()}")


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
    command = shutil.which("nvidia-smi")
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


def _private(folder: Path) -> None:
    """Makes the folder; refuses one that another user could have put there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise LaunchFailed(
            f"{folder}: the folder for device leases cannot be made: {error.strerror}; set XDG_RUNTIME_DIR"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise LaunchFailed(
            f"{folder}: the folder for device leases must be yours alone (owner you, mode 0700); remove it or set XDG_RUNTIME_DIR"
        )


def _lock(path: Path) -> int | None:
    """A locked file descriptor, or None when somebody has the lock."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LaunchFailed(f"{path}: a device lease cannot be made: {error.strerror}") from error
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
