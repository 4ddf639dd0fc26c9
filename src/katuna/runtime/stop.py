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

    All ranks agree on the answer, in the same step. Leaving the block raises SystemExit(143) when any rank heard SIGTERM, unless
    `finished` was set: then all that was to be done is done. The time limit waits for one step after the first `now`.
    """

    reason: str
    """"", "max-steps", "time-limit" or "SIGTERM"."""

    finished: bool
    """Set by the trainer, in all ranks, when nothing is left that a signal could cut short."""

    def __init__(self, config: Common, world: World) -> None:
        self.reason, self.finished = "", False
        self._world = world
        self._first_step: int | None = None
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
        self._first_step = step if self._first_step is None else self._first_step
        wish = self._agreed(self._wish(step > self._first_step))
        self.reason = REASONS[wish]
        if not wish and self._max_steps and step >= self._max_steps:
            self.reason = "max-steps"
        return bool(self)

    def told(self) -> bool:
        """Whether to leave what is no training, e.g. after each batch of an evaluation: for SIGTERM alone, as the limits are about
        steps. All ranks call it equally often; it answers as `now` does."""
        if self._agreed(self._wish(False)) == REASONS.index("SIGTERM"):
            self.reason = "SIGTERM"
        return self.reason == "SIGTERM"

    def __bool__(self) -> bool:
        """What `now` or `told` said last."""
        return self.reason != ""

    def _wish(self, limited: bool) -> int:
        if self._told:
            return REASONS.index("SIGTERM")
        return int(limited and time.monotonic() >= self._until_s)

    def _agreed(self, wish: int) -> int:
        """This rank's wish when it is alone, else what the ranks' wishes of the call before came to."""
        if self._world.backend:
            wish, self._vote = self._counted(), self._ask(wish)
        return wish

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
        try:
            if kind is not None:
                return
            self._counted()
            if not self.finished and self._world.agree(self._told or self.reason == "SIGTERM"):
                raise SystemExit(143)
        finally:
            signal.signal(signal.SIGTERM, self._before if self._before is not None else signal.SIG_DFL)
