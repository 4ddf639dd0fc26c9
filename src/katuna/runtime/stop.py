"""When a training ends before its time: steps, seconds, SIGTERM."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from katuna.runtime.arguments import Common
from katuna.runtime.world import World

REASONS = ("", "time-limit", "SIGTERM")
"""In the order in which one rank's outweighs another's."""


class Stop:
    """`with Stop(config, world) as stop:` and, after each step, `if stop.now(step): save; break`.

    All ranks agree on the answer, in the same step. When it was SIGTERM, leaving the block raises SystemExit(143).
    """

    reason: str
    """"", "max-steps", "time-limit" or "SIGTERM"."""

    def __init__(self, config: Common, world: World) -> None:
        self.reason = ""
        self._world = world
        self._max_steps = config.max_steps
        self._until_s = time.monotonic() + config.time_limit if config.time_limit else float("inf")
        self._told = False
        self._before: Any = None
        self._vote: tuple[torch.Tensor, Any] | None = None

    def __enter__(self) -> Stop:
        self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def _hear(self, _signal: int, _frame: FrameType | None) -> None:
        self._told = True

    def now(self, step: int) -> bool:
        """Whether to stop after `step` optimizer steps. With several ranks the answer to a signal or to the clock is the one of the
        step before, which was on its way meanwhile: no step waits for it."""
        wish = self._wish()
        if self._world.backend:
            wish, self._vote = self._counted(), self._ask(wish)
        self.reason = REASONS[wish]
        if not wish and self._max_steps and step >= self._max_steps:
            self.reason = "max-steps"
        return bool(self)

    def __bool__(self) -> bool:
        """What `now` said last."""
        return self.reason != ""

    def _wish(self) -> int:
        if self._told:
            return 2
        return int(time.monotonic() >= self._until_s)

    def _ask(self, wish: int) -> tuple[torch.Tensor, Any]:
        votes = torch.tensor(wish)
        return votes, dist.all_reduce(votes, dist.ReduceOp.MAX, async_op=True)

    def _counted(self) -> int:
        if self._vote is None:
            return 0
        votes, work = self._vote
        work.wait()
        return int(votes.item())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.signal(signal.SIGTERM, self._before if self._before is not None else signal.SIG_DFL)
        if kind is not None:
            return
        self._counted()
        if self.reason == "SIGTERM":
            self._world.barrier()
            raise SystemExit(143)
