"""Programs started under a guard, cold or warm, for tests of what becomes of them."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch_jobs import PATIENCE_S

from katuna.launch.command import inherited
from katuna.launch.layers import Step
from katuna.launch.process import ColdStarter, Command, GuardedProcess, Starter, claim
from katuna.launch.warm.starter import WarmStarter

STARTERS = {"cold": ColdStarter, "warm": WarmStarter}


@dataclass
class Trial:
    """A process under its guard, in a folder, until its end."""

    process: GuardedProcess
    folder: Path
    lock: Any
    said: dict[str, dict[str, Any]]

    @property
    def text(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        return int(self.said["started"]["pid"])

    def listen(self, until_event: str = "") -> Trial:
        """Reads on until this was said, or the end."""
        give_up = time.monotonic() + PATIENCE_S
        while not self.process.over and until_event not in self.said:
            assert time.monotonic() < give_up, (self.said, self.text)
            select.select([self.process], [], [], 0.1)
            self.said |= {message["event"]: message for message in self.process.read()}
        if self.process.over:
            self.lock.close()
        return self

    @property
    def end(self) -> tuple[int, int]:
        """Exit code and signal."""
        return self.said["exited"]["code"], self.said["exited"]["signal"]


@dataclass
class Bench:
    """Starts trials in folders of their own below `folder`; their files are in `folder` itself."""

    starter: Starter
    folder: Path
    count: int = 0

    def begin(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        view: Sequence[Step] = (),
        deadline_s: float = 0.0,
        grace_s: float = 5.0,
    ) -> Trial:
        self.count += 1
        own = self.folder / f"trial{self.count}"
        own.mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = Command(argv, {**inherited(os.environ), "PATH": path, **(env or {})}, self.folder / cwd, tuple(view))
        held = claim(own)
        process = self.starter.start("t", command, own / "log", held, locks=(), deadline_s=deadline_s, grace_s=grace_s)
        return Trial(process, own, held, {})

    def run(self, *argv: str, **options: Any) -> Trial:
        return self.begin(*argv, **options).listen()

    def script(self, text: str, name: str = "program.py") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name


def is_warm(trial: Trial) -> bool:
    return dict(trial.process.how) == {"start": "warm"}


# Processes of this machine


def everyone() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def how_started(pid: int, ancestor: int) -> bool:
    """Whether `pid` comes from `ancestor`."""
    while pid > 1 and pid != ancestor:
        pid = parent(pid)
    return pid == ancestor


def below(pid: int) -> list[int]:
    return [one for one in everyone() if parent(one) == pid]


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
