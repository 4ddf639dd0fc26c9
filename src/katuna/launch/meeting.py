"""The store at which the ranks of a job meet, held on the loopback address: the port is katuna's from the start, and the first who
connects to it finds a store of storehost.py, one process for all jobs of a run that begins when one is needed."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from katuna.launch.command import inherited
from katuna.launch.ports import HOST, bound

BACKLOG = 1024
STOREHOST = Path(__file__).with_name("storehost.py")


class Stores:
    """The stores of a run's jobs. `close` ends them all."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._numbers = itertools.count()

    def get_ready(self) -> None:
        """Begins to import torch, unless that has been done. Raises OSError when no process can be started."""
        if self.is_there:
            return
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(STOREHOST), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
                env={**inherited(self._environ), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
        self._socket = ours

    @property
    def is_there(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def name(self) -> bytes:
        """One that no other store of the run has."""
        return b"%d" % next(self._numbers)

    def begin(self, name: bytes, listening: socket.socket) -> None:
        """An empty store for those who connect there. Raises OSError when no process can be started."""
        self.get_ready()
        assert self._socket is not None
        socket.send_fds(self._socket, [name], [listening.fileno()])

    def end(self, name: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._socket is not None:
                self._socket.send(name)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket = self._process = None


class Meeting:
    """The store of one job, from its start to its end. Raises LaunchFailed when there is no port for it."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._name = stores.name()
        self._listening = bound(HOST)
        self._listening.listen(BACKLOG)
        self._begun = False

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def filenos(self) -> list[int]:
        """Readable when `look` has something to do."""
        return [] if self._begun or self._listening.fileno() < 0 else [self._listening.fileno()]

    def look(self) -> None:
        """Raises OSError when no process can be started."""
        waiting = self.filenos()
        if waiting and select.select(waiting, [], [], 0)[0]:
            self._stores.begin(self._name, self._listening)
            self._begun = True
        elif self._begun and not self._stores.is_there:
            # Whoever comes is refused, and need not wait.
            self.close()

    def forget(self) -> None:
        """The store goes; the next who connects finds an empty one."""
        if self._begun:
            self._stores.end(self._name)
        self._begun = False

    def close(self) -> None:
        """Idempotent."""
        self.forget()
        self._listening.close()
