"""One guarded process from katuna's side: how the guard is started and told, and how to find what a killed guard left behind.

The lock file `.guard` in the trial's folder is held from before the guard starts until it is gone, whoever dies first. It holds
a token that is also in the environment of the trial and on the guard's command line: 16 random hexadecimal digits, and 16 that
only this very file has, so that a copy of the folder is no claim to its processes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from katuna.errors import LaunchFailed, is_shortage
from katuna.launch import guard, layers
from katuna.trees import open_plain

if TYPE_CHECKING:
    from katuna.launch.layers import Step

LOCK_NAME = ".guard"
PODS = ".pods"
APPENDED = os.O_WRONLY | os.O_APPEND | os.O_CREAT
"""How logs are opened, of which a trial may have made something else before it is started again."""
"""Below the job's folder: a claim for each container."""
START_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 10.0

_TOKEN = re.compile(rb"[0-9a-f]{32}")


@dataclass(frozen=True)
class Command:
    """What to execute: argv[0] is looked up in the PATH of `env`, in `folder` when it is a relative path.

    `view` are the mounts that the process makes before all else, see layers.py; the rest is meant as it sees it. `hides`: a Secret is
    part of the argv, or of where Python looks, and no message may quote these.
    """

    argv: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    folder: Path
    view: tuple[Step, ...] = ()
    hides: bool = False

    def trees(self, path: str | Path) -> list[Path]:
        """Where the process would find an absolute path: the places as this process sees them, the first one first."""
        return list(map(Path, layers.trees(self.view, os.path.abspath(path))))  # noqa: PTH100


@dataclass(frozen=True)
class Claim:
    """A trial's folder, taken: the locked file descriptor and the token."""

    lock: int
    token: str

    def close(self) -> None:
        os.close(self.lock)


def claim(folder: Path) -> Claim:
    """Takes a trial's folder. Raises OSError when it cannot be written, or when a guard still holds it."""
    lock = open_plain(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        token = secrets.token_hex(8) + _own_half(lock)
        os.ftruncate(lock, 0)
        os.pwrite(lock, token.encode(), 0)
    except BlockingIOError as error:
        os.close(lock)
        raise OSError(errno.EBUSY, "another process still holds it", str(folder)) from error
    except OSError:
        os.close(lock)
        raise
    return Claim(lock, token)


def _own_half(lock: int) -> str:
    """What a token ends with in this very file."""
    return hashlib.sha256(b"katuna %d" % os.fstat(lock).st_ino).hexdigest()[:16]


def _token(lock: int) -> str:
    """The token of an open claim; "" while the claim is not written, and for a claim that was copied from another folder.

    Raises OSError for what katuna did not write.
    """
    text = os.pread(lock, 64, 0)
    if text and not _TOKEN.fullmatch(text):
        raise OSError(errno.EINVAL, "it holds no token of katuna's")
    if os.fstat(lock).st_uid != os.geteuid():
        raise OSError(errno.EPERM, "it is another user's")
    return text.decode() if text.endswith(_own_half(lock).encode()) else ""


def token_in(folder: Path) -> str:
    """The token in a claimed folder; "" where none can be trusted."""
    try:
        lock = open_plain(folder / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return _token(lock)
    except OSError:
        return ""
    finally:
        os.close(lock)


class Starter(Protocol):
    """How main processes come to be: cold, or forked from a process that has imported what they need."""

    def start(
        self, name: str, command: Command, log: Path, held: Claim, *, locks: Sequence[int], deadline_s: float, grace_s: float
    ) -> GuardedProcess:
        """As the constructor of GuardedProcess, which see."""

    def close(self) -> None:
        """Ends what was kept ready; processes that were started go on. Idempotent."""


class ColdStarter:
    """Starts each process with an interpreter of its own."""

    def start(
        self, name: str, command: Command, log: Path, held: Claim, *, locks: Sequence[int], deadline_s: float, grace_s: float
    ) -> GuardedProcess:
        return GuardedProcess(name, command, log, held, locks=locks, deadline_s=deadline_s, grace_s=grace_s)

    def close(self) -> None:
        pass


class Handle(Protocol):
    """What is needed of the guard's process: a Popen has it."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int:
        """0 when it ended as it should. Raises subprocess.TimeoutExpired."""


class GuardedProcess:
    """A trial's main process under its guard. Messages of the guard come through `read`; see guard.py for them.

    `how` is for the trial's record: {"start": "warm"}, or {"start": "cold", "why": ...}.
    """

    how: Mapping[str, str] = MappingProxyType({"start": "cold"})

    def __init__(
        self, name: str, command: Command, log: Path, held: Claim, *, locks: Sequence[int], deadline_s: float, grace_s: float
    ) -> None:
        """Starts it, output appended to `log`. `locks` are held until nothing of it is left; `deadline_s` 0 is none.

        Raises OSError when no guard can be started, LaunchFailed for a command that no process can have. A command that cannot
        be executed is a message of the guard.
        """
        env = {**command.env, guard.TOKEN_VARIABLE: held.token}
        try:
            spec = guard.encode(
                command.argv,
                env,
                folder=str(command.folder),
                view=command.view,
                parent=os.getpid(),
                deadline_s=deadline_s,
                grace_s=grace_s,
            )
        except ValueError as error:
            raise LaunchFailed(f"the trial's command cannot be run: {error}") from error
        self._name = name
        self._log = log
        self._token = held.token
        self._kept = [held.lock, *locks]
        self._spec = spec
        self._text = b""
        self._trial_pid = 0
        self.over = False
        self._socket, self._guard = self._connected(self._new_guard)

    def _connected(self, start: Callable[[socket.socket, int], Handle]) -> tuple[socket.socket, Handle]:
        """A guard that `start` made of its end of a new socket and its output, told what to run; and our end."""
        with os.fdopen(open_plain(self._log, APPENDED, 0o666), "ab") as output:
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    handle = start(theirs, output.fileno())
                except OSError:
                    ours.close()
                    raise
        ours.settimeout(START_TIMEOUT_S)
        with contextlib.suppress(OSError):
            ours.sendall(self._spec)
        ours.setblocking(False)
        return ours, handle

    def _new_guard(self, control: socket.socket, output: int) -> Handle:
        return self._cold_guard(control, output)

    def _cold_guard(self, control: socket.socket, output: int) -> Handle:
        return subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                "-c",
                guard.BOOT,
                str(Path(guard.__file__).parent),
                self._name,
                self._token,
                *map(str, self._kept),
            ],
            stdin=control.fileno(),
            stdout=output,
            stderr=output,
            pass_fds=self._kept,
            start_new_session=True,
            cwd="/",
        )

    @property
    def guard_pid(self) -> int:
        return self._guard.pid

    def fileno(self) -> int:
        """Readable when `read` has something to say."""
        return self._socket.fileno()

    def read(self) -> list[dict[str, Any]]:
        """What the guard said since the last call. Once it is gone `over` is true, and nothing of the trial is left."""
        messages: list[dict[str, Any]] = []
        while not self.over:
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if data:
                *lines, self._text = (self._text + data).split(b"\n")
                messages += [message for line in lines if self._hear(message := json.loads(line))]
            else:
                messages += self._finish()
        return messages

    def _hear(self, message: Mapping[str, Any]) -> bool:
        """Notes what is for us; whether the message is for others too."""
        self._trial_pid = message.get("pid", self._trial_pid)
        return True

    def stop(self, grace_s: float) -> None:
        """SIGTERM now, SIGKILL after the grace period. Again with a shorter one: sooner."""
        if not self.over:
            with contextlib.suppress(OSError):
                self._socket.send(b"stop %.3f\n" % max(0.0, grace_s))

    def kill(self) -> None:
        """For a guard that does not answer: SIGKILL to it and to whatever it guarded."""
        if not self.over:
            self._guard.kill()
            self._finish()

    def _finish(self) -> list[dict[str, Any]]:
        """Once the guard has hung up. Returns what is left to say."""
        self.over = True
        self._socket.close()
        try:
            code = self._guard.wait(KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            code = self._guard.wait()
        if code != 0:
            self._clean_up()
        return []

    def _clean_up(self) -> None:
        """For the guard that did not: its trial's process group, and on Linux all that carry the token."""
        if self._trial_pid:
            with contextlib.suppress(OSError):
                os.killpg(self._trial_pid, signal.SIGKILL)
        end_processes(self._token)


def await_release(folder: Path, timeout_s: float, name: str) -> None:
    """Waits until the guard of an earlier katuna process has let go of a claimed folder, and ends what a killed guard left.

    Raises LaunchFailed when something of it cannot be ended, and for a claim that katuna did not write, OSError in a shortage; `name` is
    the trial's or job's.
    """
    path = folder / LOCK_NAME
    try:
        lock = open_plain(path, os.O_RDWR)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL):
            raise _not_ours(name, path, error) from None
        if is_shortage(error):
            raise
        return
    try:
        try:
            token = _token(lock)
        except OSError as error:
            raise _not_ours(name, path, error) from None
        freed = _lock_within(lock, timeout_s)
        left = end_processes(token) if token else []
        if left or not (freed or _lock_within(lock, KILL_TIMEOUT_S)):
            names = ", ".join(map(str, left)) or "unknown"
            raise LaunchFailed(f"{name}: processes of an earlier run of it cannot be ended (pids {names}); end them, then resume")
    finally:
        os.close(lock)


def _not_ours(name: str, path: Path, error: OSError) -> LaunchFailed:
    return LaunchFailed(
        f"{name}: {path}: {error.strerror}, so no process was ended for it; see that nothing of an earlier run is left, remove the file, "
        f"then resume"
    )


def end_processes(token: str) -> list[int]:
    """SIGKILL to every process that carries the token, until none is left. Returns those that would not go (Linux; else none)."""
    give_up = time.monotonic() + KILL_TIMEOUT_S
    while (left := _carriers(token)) and time.monotonic() < give_up:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return left


def _carriers(token: str) -> list[int]:
    found = []
    mark = token.encode()
    for folder in Path("/proc").glob("[0-9]*") if guard.LINUX else ():
        try:
            carries = mark in (folder / "environ").read_bytes() or mark in (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if carries:
            found.append(int(folder.name))
    return found


def _lock_within(lock: int, timeout_s: float) -> bool:
    give_up = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                return False
            time.sleep(0.02)
        else:
            return True


def await_any(filenos: Sequence[int], timeout_s: float) -> None:
    """Until one of them is readable, or the time is over."""
    waiting = select.poll()
    for fileno in filenos:
        waiting.register(fileno, select.POLLIN)
    waiting.poll(max(0.0, timeout_s) * 1000)
