"""Which examples each rank sees in which step: a function of seed, epoch and position alone; and keeping the device fed."""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice, repeat
from typing import Any

import torch
from torch import Tensor

from katuna.runtime.workers import by_processes
from katuna.runtime.world import World

Loaded = Generator[Any, None, None]


class Order:
    """Shuffled indices in global batches of `batch_size`, of which rank r takes every world-size-th from r on.

    The same global batches whatever the world size, so N ranks train as one does. `state_dict` is the position: epoch, and
    batches taken of it; a restored Order goes on behind it. The last batch of an epoch may be smaller; a rank without an
    example in it gets one of another rank, with weight 0.
    """

    def __init__(self, count: int, batch_size: int, world: World, *, seed: int, shuffle: bool = True) -> None:
        if count < 1 or batch_size < 1:
            raise ValueError(f"{count} examples in batches of {batch_size}: both must be at least 1")
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self._world = world
        self._epoch = self._taken = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(self.count / self.batch_size)

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def whole(self) -> int:
        """Examples in the global batch that was handed out last."""
        return min(self.batch_size, self.count - (max(self._taken, 1) - 1) * self.batch_size)

    @property
    def done(self) -> int:
        """Examples of this epoch that were handed out, of all ranks."""
        return min(self._taken * self.batch_size, self.count)

    def batches(self) -> Batches:
        """This rank's int64 indices (CPU), for what is left of the epoch; then `epoch` has gone up by one."""
        return Batches(self)

    def share(self, batch: Tensor) -> float:
        """What this rank's mean loss over `batch` (what was handed out last, or a part of it) counts for in the global batch's mean,
        times world size: gradients that DDP averages then are those of the whole batch, also where ranks got unequal parts."""
        return 0.0 if self._world.rank >= self.whole else len(batch) * self._world.size / self.whole

    def passes(self, most: int) -> int:
        """Into how many parts, up to `most`, every rank can cut what was handed out last, none of them empty."""
        return max(1, min(most, self.whole // self._world.size))

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self._epoch, "taken": self._taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._epoch, self._taken = state["epoch"], state["taken"]

    def _rest(self) -> Iterator[Tensor]:
        """What is left of the epoch from the position of this moment; takes nothing."""
        left = self._permutation().split(self.batch_size)[self._taken :]
        rank, size = self._world.rank, self._world.size
        return (batch[rank::size] if len(batch) > rank else batch[:1] for batch in left)

    def _permutation(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.count)
        # Neighbouring seeds and epochs must not share orders, as seed + epoch would.
        random = torch.Generator().manual_seed((self.seed * 1_000_003 + self._epoch) % 2**63)
        return torch.randperm(self.count, generator=random)


class Batches(Iterator[Tensor]):
    """The rest of an Order's epoch; each batch that is taken moves the Order's position."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._coming = order._rest()

    def __next__(self) -> Tensor:
        batch = next(self._coming, None)
        if batch is None:
            self._order._epoch, self._order._taken = self._order._epoch + 1, 0
            raise StopIteration
        self._order._taken += 1
        return batch

    def coming(self) -> Iterator[Tensor]:
        """The same batches, without taking them."""
        return self._order._rest()


def fed(
    batches: Iterable[Tensor], load: Callable[[Tensor], Any], world: World, *, ahead: int = 2, workers: int = 0
) -> Iterator[Any]:
    """`load(indices)` for each batch, made in a thread up to `ahead` batches before it is asked for, and on the device; the
    position of an Order counts batches that were handed out. With `ahead` 0 nothing runs beside; with `workers`, so many processes
    load. Where `load` refers to something that says `in_memory`, as `Images` do, nothing runs beside either: no process that was
    forked can read what lies on a GPU. `load` must draw nothing from torch's random state: what it gives depends on the indices
    alone. A SystemExit of it ends the loop; so does any other exception in a process that loads, with one line."""
    coming = batches.coming() if isinstance(batches, Batches) else iter(batches)
    taken = batches if isinstance(batches, Batches) else repeat(None)
    beside = not in_memory(load)
    if workers and beside:
        loaded = _moving(by_processes(coming, load, workers, ahead), world)
    elif ahead and beside:
        loaded = _by_thread(coming, lambda batch: moved(load(batch), world), ahead)
    else:
        loaded = (moved(load(batch), world) for batch in coming)
    with closing(loaded):
        for _, each in zip(taken, loaded, strict=False):  # first the position: at its end the epoch goes up
            yield each


def in_memory(load: Callable[[Tensor], Any]) -> bool:
    """Whether something that `load` refers to, or is a method of, says of itself that it is `in_memory`."""
    if not (inspect.isfunction(load) or inspect.ismethod(load)):
        return False
    seen = inspect.getclosurevars(load)
    named = [*seen.nonlocals.values(), *seen.globals.values(), getattr(load, "__self__", None)]
    return any(getattr(each, "in_memory", None) is True for each in named)


def moved(batch: Any, world: World) -> Any:
    """Tensors, also in tuples, lists and dicts, on the world's device; a copy to a GPU does not wait."""
    if isinstance(batch, Tensor):
        if world.device.type == "cuda" and batch.device.type == "cpu":
            batch = batch.pin_memory()
        return batch.to(world.device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: moved(each, world) for name, each in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(moved(each, world) for each in batch)
    return batch


def _moving(loaded: Loaded, world: World) -> Loaded:
    with closing(loaded):
        for each in loaded:
            yield moved(each, world)


def _by_thread(coming: Iterator[Tensor], load: Callable[[Tensor], Any], ahead: int) -> Loaded:
    pending: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(1, "katuna-load")
    try:
        pending.extend(pool.submit(load, batch) for batch in islice(coming, ahead))
        while pending:
            each = pending.popleft().result()
            pending.extend(pool.submit(load, batch) for batch in islice(coming, 1))
            yield each
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
