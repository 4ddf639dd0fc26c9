"""Runs a search or a training under a person's eyes: signals, the closing words and the exit code of `tune`, `train` and `resume`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from katuna.cli.code import say_missing
from katuna.cli.output import say
from katuna.errors import Interrupted
from katuna.text import counted

if TYPE_CHECKING:
    from katuna.cli.screen import Screen
    from katuna.runs.run import Run
    from katuna.search.engine import Watcher


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """Counts SIGINT, SIGTERM and SIGHUP. The run looks at it once a round: nothing is cut off in the middle of a write."""

    def __init__(self) -> None:
        self.signum = 0
        self.count = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def note(self, signum: int, frame: object) -> None:
        del frame
        self.signum, self.count = signum, self.count + 1

    @contextmanager
    def listening(self) -> Iterator[None]:
        # What is ignored stays so: `nohup katuna tune` outlives its terminal.
        heeded = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.note) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def attend(
    run_it: Callable[..., Run], screen: Callable[[StopRequests], Screen], begun: Callable[[Run], None] = say_missing
) -> None:
    """Calls `run_it(interruptions=..., watch=..., look=...)`, shows it as it goes, and exits with the code that the outcome has.
    `begun` is called before anything is shown.

    Raises Interrupted for a run that a signal paused.
    """
    stop = StopRequests()
    shown = screen(stop)

    def watch(run: Run) -> Watcher:
        begun(run)
        return shown.watch(run)

    with stop.listening(), shown:
        run = run_it(interruptions=lambda: stop.count, watch=watch, look=shown.look)
    ended = run.search.ended
    if ended is None:
        say(err=True)
        raise Interrupted(interruption(run), stop.signum)
    if shown.has_seen:
        shown.closing_words(run)
    else:
        how = run.state if run.folder.is_training else ended.message
        say(f"{run.name} has ended: {how}. There is nothing to resume; `katuna show {run.folder.handle}` shows it")
    if run.state == "Failed":
        sys.exit(1)


def interruption(run: Run) -> str:
    go_on = f"go on with `katuna resume {run.folder.handle}`"
    if run.folder.is_training:
        return f"interrupted: {go_on}"
    done, unfinished = run.search.finished, len(run.search.unfinished)
    stopped = f", {unfinished} stopped on the way and will begin again" if unfinished else ""
    return f"interrupted: {counted(done, 'trial')} done{stopped}. Nothing is lost; {go_on}"
