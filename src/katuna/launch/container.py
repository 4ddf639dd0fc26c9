"""A container of a pod and its process: started under a claim of its own, watched, within its memory limit, its end told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from katuna.clock import on_clock
from katuna.errors import OF_THE_MACHINE
from katuna.jobs.lifecycle import COMPLETED, ContainerExited, ContainerStarted
from katuna.launch import memory
from katuna.launch.ending import Ending, ending
from katuna.launch.plan import Planned
from katuna.launch.process import APPENDED, Claim, GuardedProcess, Starter, claim
from katuna.log import ANEW
from katuna.search.contracts import Clock
from katuna.trees import open_plain

OUT_OF_MEMORY = "OOMKilled"


class Part:
    """`number` is its trial's. `due` is when it is to be started next, None for not at all; `restarts` counts within its pod. Where it
    is `followed`, its end is told once `was_read` is set; `ended_at` is when it ended."""

    def __init__(self, planned: Planned, due: float, number: int, *, followed: bool = False) -> None:
        self.number = number
        self.planned = planned
        self.due: float | None = due
        self.restarts = 0
        self.crashes = 0
        self.log_start = 0
        self.process: GuardedProcess | None = None
        self.ending: Ending | None = None
        self.was_read = False
        self.ended_at: float | None = None
        self._followed = followed
        self._said: dict[str, Mapping[str, Any]] = {}
        self._claim: Claim | None = None
        self._limit: memory.MemoryLimit | None = None
        self._out_of_memory = False
        self._files = ""

    @property
    def pod(self) -> str:
        return self.planned.replica.pod_name

    @property
    def name(self) -> str:
        return self.planned.container.name

    @property
    def completed(self) -> bool:
        return self.process is None and self.ending is not None and self.ending.reason == COMPLETED

    @property
    def ran_s(self) -> float:
        """How long its last process ran."""
        started, exited = (self._said.get(name, {}).get("at", 0.0) for name in ("started", "exited"))
        return float(max(0.0, exited - started)) if started else 0.0

    def start(
        self,
        given: Planned,
        folder: Path,
        attempt: int,
        starter: Starter,
        *,
        locks: Sequence[int],
        deadline_s: float,
        grace_s: float,
    ) -> None:
        """`folder` is what is claimed. Its log goes on behind a line of ours. Raises LaunchFailed and OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        given.log.parent.mkdir(parents=True, exist_ok=True)
        self._said = {}
        self.ending = self.ended_at = None
        self.was_read = False
        self._out_of_memory = False
        self._files = given.files
        self._claim = claim(folder)
        try:
            with os.fdopen(open_plain(given.log, APPENDED, 0o666), "ab") as log:
                if log.tell():
                    log.write(b"\n%s%s ---\n" % (ANEW, b"attempt %d" % attempt if attempt > 1 else b"resumed"))
                self.log_start = log.tell()
            name = self.pod if given.is_main else f"{self.pod}.{self.name}"
            self.process = starter.start(
                name, given.command, given.log, self._claim, locks=locks, deadline_s=deadline_s, grace_s=grace_s
            )
        except BaseException:
            self.release()
            raise

    def look(self, clock: Clock, *, memory: bool) -> Iterator[ContainerStarted | ContainerExited]:
        """What its guard has told since; `memory`: see to its limit too. Raises OSError for a shortage that let it not start."""
        assert self.process is not None
        if memory and self._limit and self._limit.enforce():
            self._out_of_memory = True
        for message in self.process.read():
            self._said[message["event"]] = message
            if message["event"] == "started":
                yield self._started(self.process, message, clock)
        if self.process.over:
            self.ended_at = on_clock(clock.now(), self._said.get("exited", {}).get("at") or time.time())
            # One that never started has said nothing.
            if not self._followed or self.was_read or "started" not in self._said:
                yield self._exited(self.ended_at)

    def _started(self, process: GuardedProcess, message: Mapping[str, Any], clock: Clock) -> ContainerStarted:
        limit = self.planned.container.memory_bytes
        if limit:
            self._limit = memory.MemoryLimit(limit, process.guard_pid, message["pid"], memory.delegated())
        record = {"pid": message["pid"], "guard": process.guard_pid, **process.how, "files": self._files}
        return ContainerStarted(on_clock(clock.now(), message["at"]), self.number, self.pod, self.name, self.restarts, record)

    def _exited(self, at: float) -> ContainerExited:
        number = self._said.get("failed", {}).get("errno")
        if number in OF_THE_MACHINE:
            self.release()
            raise OSError(number, os.strerror(number))
        end = ending(self._said, self.planned.told.argv, self.planned.log, self.log_start, hides=self.planned.command.hides)
        if self._limit and end.reason == "Error" and (self._out_of_memory or self._limit.enforce()):
            limit = (self.planned.container.memory_bytes or 0) / 2**20
            end = Ending(137, OUT_OF_MEMORY, f"it used more than its memory limit of {limit:g} MiB and was ended")
        self.ending = end
        self.release()
        return ContainerExited(at, self.number, self.pod, self.name, self.restarts, end.code, end.reason, end.message)

    def kill(self) -> None:
        """At once, its guard included."""
        if self.process:
            self.process.kill()
        self.release()

    def release(self) -> None:
        self.process = None
        if self._limit:
            self._limit.close()
        if self._claim:
            self._claim.close()
        self._limit = self._claim = None
