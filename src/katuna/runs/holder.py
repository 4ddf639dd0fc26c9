"""The process that holds a run, as the lock names it, and whether a signal would reach that process and no other."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

_TEXT = re.compile(r"([1-9][0-9]{0,9})\n(?:(\S+) (\S+) (\S+) (\S+)\n)?")
LARGEST = 1024
"""Bytes of a lock's text."""


@dataclass(frozen=True)
class Holder:
    """`pid` is 0 where the lock does not say it. The rest is "" in a lock of an older katuna: `started` in clock ticks since the boot."""

    pid: int = 0
    host: str = ""
    boot: str = ""
    namespace: str = ""
    started: str = ""

    @classmethod
    def me(cls) -> Holder:
        return cls(os.getpid(), *_place(), _started(os.getpid()))

    @classmethod
    def of(cls, text: bytes) -> Holder:
        """Of a lock's text, which anybody may have written."""
        found = _TEXT.fullmatch(text.decode("ascii", "replace"))
        return cls(int(found[1]), *(word or "" for word in found.groups()[1:])) if found else cls()

    @property
    def text(self) -> bytes:
        return f"{self.pid}\n{self.host} {self.boot} {self.namespace} {self.started}\n".encode("ascii", "replace")

    @property
    def out_of_reach(self) -> str:
        """Why no signal from here is meant for it; "" where one is."""
        host, boot, namespace = _place()
        if not self.pid:
            why = "its lock does not say which process has it"
        elif not self.host:
            why = f"its lock says no more than a pid, {self.pid}, as an older katuna's: end that one yourself if it is katuna"
        elif self.host != host:
            why = f"process {self.pid} on the host {self.host} has it, and this is {host}: stop it there"
        elif self.boot != boot:
            why = f"its lock was written before this machine was last booted, by a process {self.pid} that is gone"
        elif self.namespace != namespace:
            why = f"process {self.pid} of another PID namespace has it, as in a container: stop it there"
        else:
            why = "" if _started(self.pid) == self.started else f"process {self.pid} is not the one that wrote its lock"
        return why

    def signal(self, signum: signal.Signals) -> str:
        """Sends it, unless it is out of reach: then says why. Raises OSError, as where the process is another user's."""
        if not hasattr(os, "pidfd_open"):
            why = self.out_of_reach
            if not why:
                os.kill(self.pid, signum)
            return why
        # From here on the pid cannot come to mean another process.
        with contextlib.ExitStack() as stack:
            fd = None
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(self.pid or os.getpid())
                stack.callback(os.close, fd)
            why = self.out_of_reach
            if not why and fd is not None:
                signal.pidfd_send_signal(fd, signum)
            return why


def _place() -> tuple[str, str, str]:
    """Host, boot and PID namespace; "-" for what this system does not tell."""
    boot = namespace = "-"
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return os.uname().nodename or "-", boot, namespace


def _started(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return "-"
