"""Which examples each rank sees in which step: a function of seed, epoch and position alone; and keeping the device fed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from katuna.runtime.world import World


class Order:
    """Shuffled indices in global batches of `batch_size`, of which rank r takes every world-size-th from r on.

    The same global batches whatever the world size, so N ranks train as one does. `state_dict` is the position: epoch, and
    batches taken of it; a restored Order goes on behind it. The last batch of an epoch may be smaller.
    """

    def __init__(self, count: int, batch_size: int, world: World, *, seed: int, shuffle: bool = True) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        """Batches an epoch."""
        raise NotImplementedError

    @property
    def epoch(self) -> int:
        raise NotImplementedError

    def batches(self) -> Iterator[Tensor]:
        """This rank's int64 indices (CPU), for what is left of the epoch; then `epoch` has gone up by one."""
        raise NotImplementedError

    def share(self, batch: Tensor) -> float:
        """What this rank's mean loss over `batch` counts for in the global batch's mean, times world size: gradients that DDP
        averages then are those of the whole batch, also where ranks got unequal parts."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, int]:
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, int]) -> None:
        raise NotImplementedError


def fed(batches: Iterable[Tensor], load: Callable[[Tensor], Any], world: World, *, ahead: int = 2) -> Iterator[Any]:
    """`load(indices)` for each batch, made in a thread up to `ahead` batches before it is asked for, and on the device; the
    position of an Order counts batches that were handed out. With `ahead` 0 nothing runs beside."""
    raise NotImplementedError
