"""Runs a search under a person's eyes: signals, the live view, the closing words and the exit code of `tune` and `resume`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from katuna.cli.code import say_missing
from katuna.cli.output import say
from katuna.errors import Interrupted

if TYPE_CHECKING:
    from katuna.run import Run
    from katuna.search.engine import Watcher


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """Counts SIGINT, SIGTERM and SIGHUP. The search looks at it once a round: nothing is cut off in the middle of a write."""

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


def attend(search: Callable[..., Run], begun: Callable[[Run], None] = say_missing) -> None:
    """Calls `search(interruptions=..., watch=...)`, shows it as it goes, and exits with the code that the outcome has. `begun` is
    called before anything is shown.

    Raises Interrupted for a search that a signal paused.
    """
    from katuna.cli.screen import screen_for

    stop = StopRequests()
    screen = screen_for(sys.stdout, stop)

    def watch(run: Run) -> Watcher:
        begun(run)
        return screen.watch(run)

    with stop.listening(), screen:
        run = search(interruptions=lambda: stop.count, watch=watch)
    if run.search.ended is None:
        raise Interrupted(interruption(run), stop.signum)
    if screen.has_seen:
        screen.closing_words(run)
    else:
        ended = f"{run.name} has ended: {run.search.ended.message}. There is nothing to resume"
        say(f"{ended}; `katuna show {run.folder.handle}` shows it")
    if not run.search.ended.succeeded:
        sys.exit(1)


def interruption(run: Any) -> str:
    done, unfinished = run.search.finished, len(run.search.unfinished)
    stopped = f", {unfinished} stopped on the way and will begin again" if unfinished else ""
    say(err=True)
    return f"interrupted: {done} trial{'s' if done != 1 else ''} done{stopped}. Nothing is lost; go on with `katuna resume {run.folder.handle}`"
