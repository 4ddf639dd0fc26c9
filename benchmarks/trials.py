"""Single trials as katuna starts them, for benchmarks: a script under its guard, its output in a file."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from katuna.launch.command import inherited
from katuna.launch.layers import Step
from katuna.launch.process import Command, GuardedProcess, Starter, claim


class Running:
    """A trial between its start and its end; times are seconds since its start was asked for."""

    def __init__(
        self,
        starter: Starter,
        folder: Path,
        argv: tuple[str, ...],
        env: Mapping[str, str],
        view: Callable[[], tuple[Step, ...]] = tuple,
    ) -> None:
        """`view` makes what the trial sees, as part of its start."""
        folder.mkdir(parents=True)
        self.log = folder / "log"
        self._claim = claim(folder)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        base = {**inherited(os.environ), "PATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        self.began = time.perf_counter()
        command = Command((sys.executable, *argv), {**base, **env}, folder, view())
        self.process: GuardedProcess = starter.start("t", command, self.log, self._claim, locks=(), deadline_s=0.0, grace_s=5.0)
        self._said: dict[str, int] = {}

    def first_line(self) -> float:
        """When something was in its output."""
        while not self.log.stat().st_size:
            self._listen(0.0003)
            assert not self.process.over or self.log.stat().st_size, "it ended without output"
        return time.perf_counter() - self.began

    def end(self) -> float:
        """When nothing of it was left. Fails when it did not succeed."""
        while not self.process.over:
            self._listen(1.0)
        taken = time.perf_counter() - self.began
        self._claim.close()
        assert self._said.get("exited") == 0, self.log.read_text()
        return taken

    def _listen(self, timeout_s: float) -> None:
        select.select([self.process], [], [], timeout_s)
        self._said |= {message["event"]: message.get("code", 0) for message in self.process.read()}
