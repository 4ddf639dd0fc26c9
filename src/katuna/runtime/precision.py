"""What makes a step faster and changes its numbers: autocast, gradient scaling, TF32, torch.compile, channels_last."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from katuna.runtime.arguments import Common
from katuna.runtime.world import World


@dataclass(frozen=True)
class Precision:
    """`autocast()` is entered around the forward pass; `scaler` does nothing but for fp16 on CUDA and belongs in checkpoints."""

    autocast: Callable[[], AbstractContextManager[None]]
    scaler: torch.amp.GradScaler

    def backward(self, loss: Tensor) -> None:
        raise NotImplementedError

    def step(self, optimizer: torch.optim.Optimizer, model: nn.Module, clip: float = 0.0) -> Tensor:
        """Unscales, clips, steps, and clears the gradients; returns their norm before clipping."""
        raise NotImplementedError


def precision(config: Common, world: World) -> Precision:
    """Raises SystemExit(1) with one line for a precision that the device has not."""
    raise NotImplementedError


def prepared(model: nn.Module, config: Common, world: World, *, channels_last: bool = False) -> nn.Module:
    """The model on its device, in channels_last and compiled where asked. Wrap it afterwards."""
    raise NotImplementedError
