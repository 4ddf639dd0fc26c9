"""The random states that a training draws from: Python's, NumPy's, torch's on the CPU and on this process's CUDA device."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch


def seed(number: int, rank: int = 0) -> None:
    """Seeds all of them; ranks draw differently. `number` is below 2**63."""
    own = number + 1_000_003 * rank
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)


def captured(device: torch.device) -> dict[str, Any]:
    """All of them, as tensors, arrays and numbers. Generators that a program made for itself are not among them."""
    version, words, gauss = random.getstate()
    state = {
        "python": {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss},
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def put_back(state: dict[str, Any], device: torch.device) -> None:
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def put_derived(first: dict[str, Any], rank: int) -> None:
    """For a rank that no state was saved of: seeds made of rank 0's state and this rank's number, the same ones each time."""
    digest = hashlib.sha256(first["torch"].numpy().tobytes() + b"rank %d" % rank).digest()
    seed(int.from_bytes(digest[:8], "little") >> 1)
