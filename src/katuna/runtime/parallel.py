"""DDP or FSDP2 around a model, gradient accumulation without syncs, clipping; all of them nothing much in one process."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from katuna.runtime.world import World


def wrap(model: nn.Module, world: World, strategy: str = "ddp", blocks: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """The model for all ranks: unchanged with one process, else in DDP or sharded by FSDP2, which shards each of `blocks`
    first.

    Make the optimizer afterwards: FSDP2 puts other parameters in the place of the model's.
    """
    if not world.backend:
        return model
    if strategy == "fsdp":
        return _sharded(model, world, blocks)
    devices = [world.device] if world.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def _sharded(model: nn.Module, world: World, blocks: tuple[type[nn.Module], ...]) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in model.modules():
        if module is not model and isinstance(module, blocks):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)  # in place
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """The trainer's own module again, beneath DDP and torch.compile; under FSDP2 it is the same, its parameters still shards."""
    while isinstance(inner := getattr(model, "module", None) or getattr(model, "_orig_mod", None), nn.Module) and (
        isinstance(model, nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod")
    ):
        model = inner
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict of the trainer's own module, whole and on the CPU, also of shards. Every rank calls."""
    return {name: _whole(tensor).detach().cpu() for name, tensor in unwrap(model).state_dict().items()}


def syncing(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Around a forward and its backward pass: gradients are shared among ranks only at the `last` of a step's."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return nullcontext() if last else model.no_sync()
    switch: Any = getattr(model, "set_requires_gradient_sync", None)
    if switch is not None:
        switch(last)
    return nullcontext()


def clip(model: nn.Module, most: float) -> Tensor:
    """Clips the gradients' norm to `most`; returns the norm before, over all ranks. With 0 it does nothing and returns nan."""
    if not most:
        return torch.tensor(torch.nan)
    return _whole(nn.utils.clip_grad_norm_(model.parameters(), most))


def _whole(tensor: Tensor) -> Tensor:
    """A DTensor put together from its shards; any other as it is."""
    full: Any = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()
