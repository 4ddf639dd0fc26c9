"""One guarded process from katuna's side: how the guard is started and told, and how to find what a killed guard left behind.

The lock file `.guard` in the trial's folder is held from before the guard starts until it is gone, whoever dies first. It holds
a random token that is also in the environment of the trial and on the guard's command line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from katuna.errors import LaunchFailed
from katuna.launch import guard

LOCK_NAME = ".guard"
TOKEN_VARIABLE = "KATUNA_TRIAL_TOKEN"  # noqa: S105
START_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Command:
    """What to execute: argv[0] is looked up in the PATH of `env`, in `folder` when it is a relative path."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    folder: Path


@dataclass(frozen=True)
class Claim:
    """A trial's folder, taken: the locked file descriptor and the token."""

    lock: int
    token: str

    def close(self) -> None:
        os.close(self.lock)


def claim(folder: Path) -> Claim:
    """Takes a trial's folder. Raises OSError when it cannot be written, BlockingIOError when a guard still holds it."""
    lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        token = secrets.token_hex(16)
        os.ftruncate(lock, 0)
        os.pwrite(lock, token.encode(), 0)
    except OSError:
        os.close(lock)
        raise
    return Claim(lock, token)


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


class GuardedProcess:
    """A trial's main process under its guard. Messages of the guard come through `read`; see guard.py for them.

    `how` is for the trial's record: {"start": "warm"}, or {"start": "cold", "why": ...}.
    """

    how: Mapping[str, str] = MappingProxyType({"start": "cold"})

    def __init__(
        self, name: str, command: Command, log: Path, held: Claim, *, locks: Sequence[int], deadline_s: float, grace_s: float
    ) -> None:
        """Starts it, output appended to `log`. `locks` are held until nothing of it is left; `deadline_s` 0 is none.

        Raises OSError when no guard can be started, LaunchFailed for a command that no process can be given; that it cannot be
        executed is one of the guard's messages.
        """
        env = {**command.env, TOKEN_VARIABLE: held.token}
        try:
            spec = guard.encode(
                list(command.argv), env, folder=str(command.folder), parent=os.getpid(), deadline_s=deadline_s, grace_s=grace_s
            )
        except ValueError as error:
            raise LaunchFailed(f"the trial's command cannot be run: {error}") from error
        kept = [held.lock, *locks]
        with log.open("ab") as output:
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    self._guard = subprocess.Popen(
                        [sys.executable, "-I", "-S", guard.__file__, name, held.token, *map(str, kept)],
                        stdin=theirs.fileno(),
                        stdout=output.fileno(),
                        stderr=output.fileno(),
                        pass_fds=kept,
                        start_new_session=True,
                        cwd="/",
                    )
                except OSError:
                    ours.close()
                    raise
        self._socket = ours
        self._token = held.token
        self._text = b""
        self._trial_pid = 0
        self.over = False
        ours.settimeout(START_TIMEOUT_S)
        with contextlib.suppress(OSError):
            ours.sendall(spec)
        ours.setblocking(False)

    @property
    def guard_pid(self) -> int:
        return int(self._guard.pid)

    def fileno(self) -> int:
        """Readable when `read` has something to say."""
        return self._socket.fileno()

    def read(self) -> list[dict[str, Any]]:
        """What the guard said since the last call. Once it is gone `over` is true, and nothing of the trial is left."""
        while not self.over:
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if data:
                self._text += data
            else:
                self._finish()
        *lines, self._text = self._text.split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:
            self._trial_pid = message.get("pid", self._trial_pid)
        return messages

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

    def _finish(self) -> None:
        self.over = True
        self._socket.close()
        try:
            code = self._guard.wait(KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            code = self._guard.wait()
        if code != 0:
            self._clean_up()

    def _clean_up(self) -> None:
        """For the guard that did not: its trial's process group, and on Linux all that carry the token."""
        if self._trial_pid:
            with contextlib.suppress(OSError):
                os.killpg(self._trial_pid, signal.SIGKILL)
        end_processes(self._token)


def await_release(folder: Path, timeout_s: float) -> None:
    """Waits until the guard of an earlier katuna process has let go of a trial's folder, and ends what a killed guard left.

    Raises LaunchFailed when something of that trial cannot be ended.
    """
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        token = os.pread(lock, 64, 0).decode("ascii", "replace")
        freed = _lock_within(lock, timeout_s)
        left = end_processes(token) if token else []
        if left or not (freed or _lock_within(lock, KILL_TIMEOUT_S)):
            names = ", ".join(map(str, left)) or "unknown"
            raise LaunchFailed(
                f"{folder.name}: processes of an earlier run of this trial cannot be ended (pids {names}); end them, then resume"
            )
    finally:
        os.close(lock)


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
