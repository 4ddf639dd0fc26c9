"""What makes a step faster and changes its numbers: autocast, gradient scaling, TF32, torch.compile, channels_last."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from katuna.runtime.arguments import Common
from katuna.runtime.parallel import clip as clipped
from katuna.runtime.world import World


@dataclass(frozen=True)
class Precision:
    """`autocast()` is entered around the forward pass; `scaler` does nothing but for fp16 on CUDA and belongs in checkpoints."""

    autocast: Callable[[], AbstractContextManager[Any]]
    scaler: torch.amp.GradScaler

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, model: nn.Module, clip: float = 0.0) -> Tensor:
        """Unscales, clips, steps, and clears the gradients; returns their norm before clipping (nan where `clip` is 0)."""
        if clip:
            self.scaler.unscale_(optimizer)
        norm = clipped(model, clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad()
        return norm


def precision(config: Common, world: World) -> Precision:
    """Raises SystemExit(1) with one line for a precision that the device has not."""
    kind = world.device.type
    if config.precision == "fp16" and kind != "cuda":
        raise SystemExit(f"error: --precision fp16 needs CUDA, the device is {kind}; bf16 works here")
    if config.precision == "bf16" and kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise SystemExit("error: --precision bf16: this GPU has none; fp16 works here")
    if kind == "cuda":
        torch.backends.fp32_precision = "tf32" if config.tf32 else "ieee"  # type: ignore[attr-defined]
    scaler = torch.amp.GradScaler(kind, enabled=config.precision == "fp16")
    if config.precision == "float32":
        return Precision(nullcontext, scaler)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float16
    return Precision(partial(torch.autocast, kind, dtype), scaler)


def prepared(model: nn.Module, config: Common, world: World, *, channels_last: bool = False) -> nn.Module:
    """The model on its device, in channels_last and compiled where asked. Wrap it afterwards."""
    model = model.to(world.device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()  # in place: the names in its state_dict stay
    return model
