"""Checkpoints that are whole or not there, and a resume that equals the uninterrupted run bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from katuna.runtime.world import World


class Checkpoints:
    """`folder/step-000120/` each: tensors as safetensors, the rest as JSON, digests of both; written beside, fsynced, renamed.

    `state` names what is saved: modules (DDP, compiled and FSDP2 ones too: full tensors, gathered), optimizers, schedulers, scalers, an
    Order, or anything with state_dict and load_state_dict. Random states of Python, NumPy and torch are saved with them, of each
    rank. `keep` newest stay. Rank 0 writes; every rank calls. With `folder` None nothing is done.
    """

    def __init__(
        self, folder: Path | None, world: World, state: Mapping[str, Any], *, keep: int = 2, asynchronous: bool = False
    ) -> None:
        raise NotImplementedError

    def save(self, step: int, **values: float | str | bool | None) -> None:
        """Saves under `step`; `values` are kept beside (the best metric so far, ...). Raises SystemExit(1) with one line when the disk
        is full: the checkpoint before stays."""
        raise NotImplementedError

    def restore(self) -> tuple[int, dict[str, Any]]:
        """Loads the newest whole checkpoint into `state`, in place; (its step, its values), or (0, {}) where there is none.

        A torn or altered one is refused, saying so on stderr, and the one before it taken. One of a model of another shape
        raises SystemExit(1), naming the tensors.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Waits for what is still being written."""
        raise NotImplementedError


def trial_folder(given: str, name: str) -> Path | None:
    """`name` below `given`, else below $KATUNA_TRIAL_DIR; None where neither is set."""
    raise NotImplementedError
