"""`katuna logs`: what trials printed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from katuna.cli.options import complete_run
from katuna.errors import RunNotFound
from katuna.text import printable

if TYPE_CHECKING:
    from katuna.run import Run
    from katuna.store.rundir import RunDir
    from katuna.trials import Trial

LOOK_EVERY_S = 0.2
LINE_LIMIT = 65536


@click.command("logs")
@click.argument("target", metavar="RUN[/TRIAL]", shell_complete=complete_run)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes, until the run has ended.")
def command(target: str, follow: bool) -> None:
    """Print the output of one trial, or of all trials of a run.

    TRIAL is a name, a unique part of one, or a number. Control characters are shown, not obeyed.
    """

    run, trial = _resolve(target)
    if trial is None:
        _all(run, follow=follow)
    else:
        log = run.folder.log(trial.name)
        reader = _Lines(log)
        reader.print_new("")
        while follow and run.folder.holder() and not _has_ended(run.folder, trial.number):
            time.sleep(LOOK_EVERY_S)
            reader.print_new("")
        reader.print_new("", last=True)


def _resolve(target: str) -> tuple[Run, Trial | None]:
    from katuna.run import Run
    from katuna.store.rundir import find

    try:
        return Run(find(target)), None
    except RunNotFound:
        name, slash, wanted = target.rpartition("/")
        if not slash:
            raise
    run = Run(find(name))
    if wanted.isdecimal() and int(wanted) in run.search.trials:
        return run, run.search.trials[int(wanted)]
    matches = [trial for trial in run.trials if wanted in trial.name]
    if len(matches) != 1:
        count = "no trial" if not matches else "more than one trial"
        raise RunNotFound(f"{count} of {run.name} fits {wanted!r}; `katuna trials {run.name}` lists them")
    return run, matches[0]


def _all(run: Run, *, follow: bool) -> None:
    readers: dict[int, _Lines] = {}
    while True:
        going = follow and run.folder.holder() is not None
        for number, name in _asked(run.folder).items():
            reader = readers.setdefault(number, _Lines(run.folder.log(name)))
            reader.print_new(f"[{number}] ", last=not going)
        if not going:
            return
        time.sleep(LOOK_EVERY_S)


def _asked(folder: RunDir) -> dict[int, str]:
    """Number and name of every trial, from the journal alone."""
    from katuna.store.journal import read
    from katuna.trials import Asked

    return {event.number: event.name for event, _ in read(folder.journal) if isinstance(event, Asked)}


def _has_ended(folder: RunDir, number: int) -> bool:
    from katuna.store.journal import read
    from katuna.trials import Exited

    return any(isinstance(event, Exited) and event.number == number for event, _ in read(folder.journal))


class _Lines:
    """A log from where it was last read; a line that is still being written waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def print_new(self, prefix: str, *, last: bool = False) -> None:
        for line in self._new(last=last):
            click.echo(prefix + printable(line, newlines=True))

    def _new(self, *, last: bool) -> Iterator[str]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            while chunk := file.read(LINE_LIMIT):
                self._offset += len(chunk)
                *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
                if len(self._rest) > LINE_LIMIT:
                    lines, self._rest = [*lines, self._rest], b""
                yield from (line.decode(errors="replace") for line in lines)
        if last and self._rest:
            yield self._rest.decode(errors="replace")
            self._rest = b""
