"""What a training tells while it runs: Katib's metric line, TensorBoard scalars and hyperparameters, a profiler trace."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any

from katuna.metric_line import metric_line, report
from katuna.runtime.arguments import Common
from katuna.runtime.checkpoint import diverged, trial_folder
from katuna.runtime.world import World

PLACES = ("data", "trial_dir")
"""Flags that say where things lie: they are no hyperparameters."""


class Reporter:
    """`with Reporter(config, world, metrics=("train-loss", "val-loss")) as report:` and then `report({"epoch": 1, "val-loss": 0.2})`.

    Rank 0 prints and writes; the others do nothing. `metrics` are the names that will be reported: the HParams plugin wants
    them first. A folder that cannot be written ends the training with one line and SystemExit(1).

    A name that Katib cannot read raises ValueError. A value of `metrics` that is not finite ends the
    training, in every rank that sees it: one line on stderr, SystemExit(1). Any other value that is not finite is left out of the
    line, and a line of none is none.
    """

    def __init__(self, config: Common, world: World, metrics: Sequence[str]) -> None:
        metric_line(dict.fromkeys(metrics, 0))
        self._metrics = tuple(metrics)
        self._config = config
        self._main = world.is_main
        self._folder = trial_folder(config.trial_dir, "events") if world.is_main else None
        self._count = 0
        self._writer: Any = None
        self._profiler: Any = None
        self._open = ExitStack()
        if config.profile and world.is_main and self._folder is None:
            raise SystemExit("error: --profile needs a folder for its trace; give --trial-dir")

    def __enter__(self) -> Reporter:
        if self._folder is not None:
            self._open.callback(setattr, threading, "excepthook", threading.excepthook)
            threading.excepthook = partial(_unless_writers, threading.excepthook)
            with _writing(self._folder):
                self._writer = self._open.enter_context(_board(self._folder))
                started, flags, self._ended = _hyperparameters(self._config, self._metrics)
                self._writer.file_writer.add_summary(started)
                self._writer.file_writer.add_summary(flags)
                self._writer.flush()
            if self._config.profile:
                self._profiler = self._open.enter_context(_profiler(self._folder))
        return self

    def __call__(self, values: Mapping[str, float], step: int | None = None) -> None:
        """One line; `step` (default: `epoch` of the values, else a count) is TensorBoard's. Floats are printed with 7 digits."""
        self._count += 1
        at = int(values.get("epoch", self._count)) if step is None else step
        for name in self._metrics:
            if not math.isfinite(values.get(name, 0.0)):
                when = "in epoch" if at == values.get("epoch") else "at step"
                raise SystemExit(diverged(name, values[name], f"{when} {at}") if self._main else 1)
        finite = {
            name: int(value) if isinstance(value, Integral) else float(f"{value:.7g}")
            for name, value in values.items()
            if math.isfinite(value)
        }
        if not self._main or not finite:
            return
        report(finite)
        if self._writer is None or self._folder is None:
            return
        with _writing(self._folder):
            for name, value in finite.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, at)
            self._writer.flush()

    def stepped(self) -> None:
        """After each optimizer step; moves the profiler on."""
        if self._profiler is not None:
            self._profiler.step()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _writing(self._folder or Path()), self._open:
            if self._writer is not None and kind is None:
                self._writer.file_writer.add_summary(self._ended)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Around what writes there: an error of the disk becomes one line."""
    try:
        yield
    except OSError as error:
        raise SystemExit(
            f"error: {folder} cannot be written: {error.strerror or error}; give another --trial-dir, or make room"
        ) from None


def _unless_writers(before: Any, about: threading.ExceptHookArgs) -> None:
    """TensorBoard's writer raises its errors in the thread that gives it events; that it also prints them is too much."""
    if type(about.thread).__name__ != "_AsyncWriterThread":
        before(about)


def _board(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def _hyperparameters(config: Common, metrics: Sequence[str]) -> tuple[Any, Any, Any]:
    """Three summaries of the HParams plugin: what there is to see, this session's flags, and its good end."""
    from torch.utils.tensorboard.summary import hparams

    flags = {name: value for name, value in asdict(config).items() if name not in PLACES}
    summaries: tuple[Any, Any, Any] = hparams(flags, dict.fromkeys(metrics, 0.0))
    return summaries


def _profiler(folder: Path) -> Any:
    """Leaves out the first step, whose times are those of starting, warms up in the second and records three."""
    from torch import profiler

    return profiler.profile(
        schedule=profiler.schedule(wait=1, warmup=1, active=3, repeat=1),
        on_trace_ready=profiler.tensorboard_trace_handler(str(folder)),
    )
