"""DDP or FSDP2 around a model, gradient accumulation without syncs, clipping; all of them nothing much in one process."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn

from katuna.runtime.world import World


def wrap(model: nn.Module, world: World, strategy: str = "ddp", blocks: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """The model shared by all ranks: as it is (one process), in DDP, or sharded by FSDP2 (`blocks` are sharded one by one first)."""
    raise NotImplementedError


def unwrap(model: nn.Module) -> nn.Module:
    """The trainer's own module again, beneath DDP and torch.compile."""
    raise NotImplementedError


def syncing(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Around a backward pass: gradients are shared among ranks only at the `last` of a step's."""
    raise NotImplementedError


def clip(model: nn.Module, most: float) -> Tensor:
    """Clips the gradients' norm to `most` (0: not at all); returns the norm before, over all ranks."""
    raise NotImplementedError
