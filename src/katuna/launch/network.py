"""A network of its own for a job (`--private-network`, Linux): one namespace, in which there is `lo` alone, for all its processes.

A small process holds it for as long as katuna has the job; the job's own enter it as a step of their view (layers.py).
"""

from __future__ import annotations

import select
import subprocess
import sys

from katuna.errors import LaunchFailed
from katuna.launch import layers
from katuna.launch.layers import Step

READY_TIMEOUT_S = 30.0


class Network:
    """Raises LaunchFailed, and OSError, where none can be made."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            [sys.executable, "-I", "-S", layers.__file__, *layers.flat([("lone",)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if select.select([self._holder.stdout], [], [], READY_TIMEOUT_S)[0] and self._holder.stdout.read(5) == b"ready":
            return
        self._holder.kill()
        why = self._holder.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        self.close()
        raise LaunchFailed(
            f"--private-network: this machine refuses it ({why or 'no network namespace was made'}); leave the option out"
        )

    def step(self) -> Step:
        """What a view has of it."""
        return ("net", f"/proc/{self._holder.pid}/ns")

    def close(self) -> None:
        """Idempotent. It is there until its last process has gone."""
        self._holder.kill()
        self._holder.communicate()


def refusal() -> str:
    """Why no job can have a network of its own here; "" where it can."""
    if not sys.platform.startswith("linux"):
        return f"--private-network: {sys.platform} has none; leave the option out"
    try:
        Network().close()
    except (LaunchFailed, OSError) as error:
        return str(error)
    return ""
