"""A frozen dataclass is a trainer's flags: their names, defaults, help and checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def flag(default: Any, doc: str) -> Any:
    """A dataclass field with its default and its line of help."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Common:
    """Flags that every trainer has. A trainer's own dataclass extends it; `__post_init__` raises ValueError for what cannot train."""

    data: str = flag("", "dataset: a folder with a manifest, or a file; empty is $KATUNA_DATA, else what the trainer says")
    seed: int = flag(0, "of weights, order and whatever is random")
    device: Literal["auto", "cpu", "cuda", "mps"] = flag("auto", "auto takes CUDA, else MPS, else the CPU")
    precision: Literal["float32", "bf16", "fp16"] = flag("float32", "of the forward pass, by autocast")
    tf32: bool = flag(False, "TF32 matrix products where the GPU has them")
    compile: bool = flag(False, "torch.compile the model")
    strategy: Literal["ddp", "fsdp"] = flag("ddp", "how several processes share a model")
    accumulate: int = flag(1, "backward passes a step; their gradients add up to one batch")
    clip: float = flag(0.0, "largest norm of the gradients; 0 does not clip")
    workers: int = flag(0, "processes that load data")
    max_steps: int = flag(0, "stop after so many optimizer steps; 0 is no limit")
    time_limit: float = flag(0.0, "stop after so many seconds; 0 is no limit")
    checkpoint_every: int = flag(0, "steps between checkpoints; 0 saves at the end of each epoch")
    keep_checkpoints: int = flag(2, "newest checkpoints that stay")
    async_checkpoints: bool = flag(False, "write checkpoints while training goes on")
    profile: bool = flag(False, "write a torch.profiler trace of a few steps")
    trial_dir: str = flag("", "folder for events/, checkpoints/ and export/; empty is $KATUNA_TRIAL_DIR, or none are written")


def parse(config: type[T], argv: list[str] | None = None, *, doc: str = "") -> T:
    """The flags are the fields of `config`; underscores become dashes, a bool has a --no- form. Unknown flags, values that are none
    of a Literal's and ValueErrors of `__post_init__` exit with 2."""
    raise NotImplementedError
