"""Processes that load batches beside the training: forked, asked batch by batch, gone with the loop or with the training."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

from katuna.runtime.randomness import seed

PATIENCE_S = 2.0
"""How long a process may go on with the batch that nobody wants any more, before it is killed."""
CAUSES = {
    signal.SIGKILL: "; this is also how a system ends what takes too much memory",
    signal.SIGBUS: "; /dev/shm, through which batches pass, may be full",
}


def by_processes(coming: Iterator[Tensor], load: Callable[[Tensor], Any], workers: int, ahead: int) -> Generator[Any, None, None]:
    """`load(batch)` for each of `coming` in its order, by so many processes, each up to `ahead` batches before they are asked for.

    A SystemExit of `load` is raised in the loop. For any other exception of `load`, a SystemExit with its traceback and a last
    line is raised; for a process that died, a SystemExit with one line. Each process has its own pipe and no lock: a process
    that dies holds up no other, and all may be killed.
    """
    with _crew(load, workers) as crew:
        asked, answering = cycle(crew), cycle(crew)
        under_way = 0
        for batch in islice(coming, workers * max(ahead, 1)):
            next(asked).ask(batch)
            under_way += 1
        while under_way:
            found = next(answering).answer()
            under_way -= 1
            for batch in islice(coming, 1):
                next(asked).ask(batch)
                under_way += 1
            yield found


@contextmanager
def _crew(load: Callable[[Tensor], Any], workers: int) -> Iterator[list[_Process]]:
    """The processes. An exception may keep the loop's frames, and with them this block, till the interpreter's end, where
    multiprocessing waits for its processes: so they end before that, too."""
    crew: list[_Process] = []

    def dismiss() -> None:
        for each in crew:
            each.close()
        until = time.monotonic() + PATIENCE_S
        for each in crew:
            each.end(until)

    atexit.register(dismiss)
    try:
        for number in range(workers):
            crew.append(_Process(load, number, [each.pipe for each in crew]))
        yield crew
    finally:
        atexit.unregister(dismiss)
        dismiss()


class _Process:
    def __init__(self, load: Callable[[Tensor], Any], number: int, others: list[Connection]) -> None:
        """`others` are the training's ends of the pipes made before, which a fork has as well."""
        fork = multiprocessing.get_context("fork")  # `load` need not be a thing that can be sent
        self.pipe, theirs = fork.Pipe()
        self._process = fork.Process(target=_serve, args=(load, number, theirs, [*others, self.pipe]), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, batch: Tensor) -> None:
        try:
            self.pipe.send(batch.clone())  # of a view the whole storage would travel
        except OSError as error:
            self._give_up(error)

    def answer(self) -> Any:
        try:
            ended, found = self.pipe.recv()
        except (EOFError, OSError) as error:
            self._give_up(error)
        if ended:
            raise SystemExit(found)
        return found

    def _give_up(self, error: Exception) -> None:
        self._process.join(PATIENCE_S)
        code = self._process.exitcode
        why = f"{type(error).__name__}: {error}" if code is None else f"it ended with exit code {code}"
        if code is not None and code < 0:
            number = signal.Signals(-code)
            why = f"{number.name} ended it{CAUSES.get(number, '')}"
        raise SystemExit(
            f"error: a process that loads data is gone: {why}; load with fewer of them, --workers 0 has none"
        ) from None

    def close(self) -> None:
        self.pipe.close()

    def end(self, until: float) -> None:
        """At once where it waits for a batch to load; killed where it has not ended `until` (of time.monotonic)."""
        self._process.join(max(until - time.monotonic(), 0))
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _serve(load: Callable[[Tensor], Any], number: int, pipe: Connection, not_mine: list[Connection]) -> None:
    """A SIGTERM or Ctrl-C for the whole process group is for the training to answer, which needs its processes till the step's
    end. They end when its end of the pipe is closed, by itself or by its death."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    for other in not_mine:
        other.close()
    torch.set_num_threads(1)
    seed(0, number)
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_answer(load, pipe.recv()))


def _answer(load: Callable[[Tensor], Any], batch: Tensor) -> Any:
    """Whether `load` has ended the training, and with what, else the batch; as `send` would have it."""
    try:
        return ForkingPickler.dumps((False, load(batch)))  # what cannot be sent fails here
    except SystemExit as error:
        code = error.code
    except Exception as error:  # noqa: BLE001
        words = " ".join(f"{type(error).__name__}: {error}".split())
        code = f"{traceback.format_exc()}error: a process that loads data failed: {words}"
    return ForkingPickler.dumps((True, code if isinstance(code, int | None) else str(code)))
