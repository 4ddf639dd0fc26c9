"""Who this process is among its peers, and the collectives that are no-ops when it is alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class World:
    """`backend` is "gloo", "nccl", or "" for a process alone (rank 0 of 1), where nothing is initialised."""

    rank: int
    local_rank: int
    size: int
    device: torch.device
    backend: str

    @property
    def is_main(self) -> bool:
        """Rank 0: the one that prints and writes."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, in each of them; a new tensor."""
        raise NotImplementedError

    def mean(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def barrier(self) -> None:
        raise NotImplementedError

    def agree(self, flag: bool) -> bool:
        """Whether any rank says so."""
        raise NotImplementedError


@contextmanager
def world(device: str = "auto", timeout_s: float = 300.0) -> Iterator[World]:
    """The process's place, from RANK, WORLD_SIZE, LOCAL_RANK and MASTER_* as torchrun and PyTorchJobs set them, or none.

    Raises SystemExit(1) with one line when the device is absent or ranks do not join within `timeout_s`, naming them.
    """
    raise NotImplementedError
    yield
