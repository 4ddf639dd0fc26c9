"""A frozen dataclass is a trainer's flags: their names, defaults, help and checks."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def flag(default: Any, doc: str) -> Any:
    """A dataclass field with its default and its line of help."""
    return field(default=default, metadata={"doc": doc})


def bounded(config: Any, *names: str, least: float = -math.inf, above: float = -math.inf, below: float = math.inf) -> None:
    """Raises ValueError when any of the flags `names` is not at least `least`, above `above` and below `below`, or is not finite."""
    limits = [("at least", least), ("above", above), ("below", below)]
    rules = [f"{word} {limit if type(limit) is int else format(limit, 'g')}" for word, limit in limits if abs(limit) < math.inf]
    values = {name: getattr(config, name) for name in names}
    wrong = [name for name, value in values.items() if not (least <= value and above < value < below)]
    if wrong:
        rule = " and ".join(rules if all(abs(values[name]) < math.inf for name in wrong) else [*rules, "finite"])
        raise ValueError("; ".join(f"--{dashed(name)} is {values[name]}; it must be {rule}" for name in wrong))


@dataclass(frozen=True)
class Common:
    """Flags that every trainer has. A trainer's own dataclass extends it; `__post_init__` raises ValueError for what cannot train."""

    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            *("data", "trial_dir", "device", "strategy", "workers", "profile", "export"),
            *("max_steps", "time_limit", "checkpoint_every", "keep_checkpoints", "async_checkpoints"),
        }
    )
    """Flags that do not shape the course of a training: a resume may have others. A trainer adds its own: `FREE = Common.FREE | {...}`."""

    data: str = flag("", "dataset: a folder with a manifest, or a file; empty is $KATUNA_DATA, else what the trainer says")
    seed: int = flag(0, "of weights, order and whatever is random")
    device: Literal["auto", "cpu", "cuda", "mps"] = flag("auto", "auto takes CUDA, else MPS, else the CPU")
    precision: Literal["float32", "bf16", "fp16"] = flag("float32", "of the forward pass, by autocast")
    tf32: bool = flag(False, "TF32 matrix products where the GPU has them")
    compile: bool = flag(False, "torch.compile the model")
    strategy: Literal["ddp", "fsdp"] = flag("ddp", "how several processes share a model")
    accumulate: int = flag(1, "backward passes a step; their gradients add up to one batch")
    clip: float = flag(0.0, "largest norm of the gradients; 0 does not clip")
    workers: int = flag(0, "processes that load data which is not in memory")
    max_steps: int = flag(0, "stop after so many optimizer steps; 0 is no limit")
    time_limit: float = flag(0.0, "stop after so many seconds; 0 is no limit")
    checkpoint_every: int = flag(0, "steps between checkpoints; 0 saves at the end of each epoch")
    keep_checkpoints: int = flag(2, "newest checkpoints that stay")
    async_checkpoints: bool = flag(False, "write checkpoints while training goes on")
    profile: bool = flag(False, "write a torch.profiler trace of a few steps")
    trial_dir: str = flag("", "folder for events/, checkpoints/ and export/; empty is $KATUNA_TRIAL_DIR, or none are written")

    def __post_init__(self) -> None:
        bounded(self, "accumulate", "keep_checkpoints", least=1)
        bounded(self, "seed", least=0, below=2**63)
        bounded(self, "clip", "workers", "max_steps", "time_limit", "checkpoint_every", least=0)


def course(config: Common) -> dict[str, Any]:
    """The flags, and their values, that a training cannot go on without: all but the `FREE` ones."""
    return {name: value for name, value in asdict(config).items() if name not in config.FREE}


def parse(config: type[T], argv: list[str] | None = None, *, doc: str = "") -> T:
    """The flags are the fields of `config`; underscores become dashes, a bool has a --no- form. Unknown flags, values that are none
    of a Literal's and ValueErrors of `__post_init__` exit with 2. The first line of `doc` is what --help says first."""
    parser = _Parser(description=doc.partition("\n")[0], allow_abbrev=False, formatter_class=_Help)
    types = get_type_hints(config)
    for each in fields(config):  # type: ignore[arg-type]
        doc_line = each.metadata["doc"].replace("%", "%%")
        parser.add_argument(f"--{dashed(each.name)}", default=each.default, help=doc_line, **_reading(types[each.name]))
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_meant(unknown, [dashed(name) for name in vars(known)])}")
    try:
        return config(**vars(known))
    except ValueError as error:
        parser.error(str(error))


def dashed(name: str) -> str:
    return name.replace("_", "-")


def _meant(unknown: list[str], names: list[str]) -> str:
    given = [each.removeprefix("--").partition("=")[0] for each in unknown if each.startswith("--")]
    near = [f"--{match[0]}" for each in given if (match := get_close_matches(each, names, 1))]
    return f"; did you mean {', '.join(near)}?" if near else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line: the usage of forty flags would hide it."""
        self.exit(2, f"{self.prog}: error: {message}\ntry {self.prog} --help\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default == "" else super()._get_help_string(action)


def _reading(kind: Any) -> dict[str, Any]:
    """What argparse is told of a field's type."""
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"type": type(get_args(kind)[0]), "choices": get_args(kind)}
    return {"type": kind, "metavar": kind.__name__.upper()}
