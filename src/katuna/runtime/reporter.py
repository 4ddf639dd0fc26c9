"""What a training tells while it runs: Katib's metric line, TensorBoard scalars and hyperparameters, a profiler trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from katuna.runtime.arguments import Common
from katuna.runtime.world import World


class Reporter:
    """`with Reporter(config, world, metrics=("train-loss", "val-loss")) as report:` and then `report({"epoch": 1, "val-loss": 0.2})`.

    Rank 0 prints and writes; the others do nothing. `metrics` are the names that will be reported: the HParams plugin wants
    them first. A name that Katib cannot read raises ValueError. A value of `metrics` that is not finite ends the
    training: one line on stderr, SystemExit(1).
    """

    def __init__(self, config: Common, world: World, metrics: Sequence[str]) -> None:
        raise NotImplementedError

    def __call__(self, values: Mapping[str, float], step: int | None = None) -> None:
        """One line; `step` (default: `epoch` of the values, else a count) is TensorBoard's."""
        raise NotImplementedError

    def stepped(self) -> None:
        """After each optimizer step; moves the profiler on."""
        raise NotImplementedError

    def __enter__(self) -> Reporter:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        raise NotImplementedError
