"""Bytes between ranks: from rank 0 to all, and from all to rank 0. As tensors, since torch's own way for objects is pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from katuna.runtime.world import World

_PIECE_BYTES = 64 << 20


def from_main(parts: Sequence[bytes] | None, world: World) -> list[bytes] | None:
    """Rank 0's `parts` (two of them, or None), in every rank."""
    if not world.backend:
        return None if parts is None else list(parts)
    sizes = torch.tensor([-1, -1] if parts is None else [len(part) for part in parts])
    dist.broadcast(sizes, 0)
    if sizes[0] < 0:
        return None
    return [_spread(parts[index] if parts else b"", int(size)) for index, size in enumerate(sizes)]


def to_main(data: bytes, world: World) -> list[bytes]:
    """Each rank's `data`, in the order of ranks, in every rank."""
    if not world.backend:
        return [data]
    size = torch.tensor([len(data)])
    sizes = [torch.zeros_like(size) for _ in range(world.size)]
    dist.all_gather(sizes, size)
    most = max(int(each) for each in sizes)
    padded = torch.frombuffer(bytearray(data.ljust(most, b"\0")), dtype=torch.uint8)
    gathered = [torch.empty_like(padded) for _ in range(world.size)]
    dist.all_gather(gathered, padded)
    return [each.numpy().tobytes()[: int(length)] for each, length in zip(gathered, sizes, strict=True)]


def to_bytes(form: Any, tensors: dict[str, Tensor]) -> bytes:
    """What a Packer made, as one piece."""
    text = torch.frombuffer(bytearray(json.dumps(form).encode()), dtype=torch.uint8)
    return safetensors.torch.save({**tensors, "form": text})


def from_bytes(data: bytes) -> tuple[Any, dict[str, Tensor]]:
    """The inverse of `to_bytes`."""
    tensors = safetensors.torch.load(data)
    return json.loads(tensors.pop("form").numpy().tobytes()), tensors


def _spread(data: bytes, size: int) -> bytes:
    whole = bytearray(data) if data else bytearray(size)
    for start in range(0, size, _PIECE_BYTES):
        piece = torch.frombuffer(memoryview(whole)[start : start + _PIECE_BYTES], dtype=torch.uint8)
        dist.broadcast(piece, 0)
    return bytes(whole)
