"""When a training ends before its time: steps, seconds, SIGTERM."""

from __future__ import annotations

from types import TracebackType

from katuna.runtime.arguments import Common
from katuna.runtime.world import World


class Stop:
    """`with Stop(config, world) as stop:` and, after each step, `if stop.now(step): save; break`.

    All ranks agree on the answer, in the same step. When it was SIGTERM, leaving the block raises SystemExit(143).
    """

    reason: str
    """"", "max-steps", "time-limit" or "SIGTERM"."""

    def __init__(self, config: Common, world: World) -> None:
        raise NotImplementedError

    def __enter__(self) -> Stop:
        raise NotImplementedError

    def now(self, step: int) -> bool:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        raise NotImplementedError
