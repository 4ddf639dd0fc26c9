"""`katuna logs`: what trials, and replicas of jobs, printed."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

import click

from katuna.cli.lines import Lines
from katuna.cli.output import say
from katuna.cli.targets import asked, complete_target, names, resolve, split_job
from katuna.errors import InputRefused, RunNotFound
from katuna.text import printable

if TYPE_CHECKING:
    from katuna.run import Run
    from katuna.store.rundir import RunDir
    from katuna.training import Training

LOOK_EVERY_S = 0.2
AT_ONCE = 1000
"""Lines in one write."""


def _complete_replica(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    del param
    # An option without its value yet, and click has sorted no argument in.
    run = ctx.params.get("target") or next(iter(ctx.args), "")
    return [name for name in names(run, jobs_only=True) if name.startswith(incomplete)]


@click.command("logs")
@click.argument("target", metavar="RUN[/TRIAL]", shell_complete=complete_target)
@click.option(
    "--replica",
    metavar="NAME",
    shell_complete=_complete_replica,
    help="Of a job, one replica's: master-0, worker-1, or a container's: master-0/sidecar.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes, until the run has ended.")
def command(target: str, replica: str | None, follow: bool) -> None:
    """Print the output of one trial, or of all trials of a run; of a job, that of its replicas, each line with its replica's name.

    TRIAL is a name, a unique part of one, or a number; of a job, a replica. Control characters are shown, not obeyed.
    """
    found = split_job(target)
    if found is not None:
        _replicas(found[0], replica or found[1], follow=follow)
        return
    run, trial = resolve(target)
    if replica is not None:
        raise InputRefused(
            f"--replica {replica}: {run.name} is a search, which has trials; `katuna logs {run.folder.handle}/0` prints one"
        )
    if trial is None:
        _all(run, follow=follow)
    else:
        log = run.folder.log(trial.name)
        reader = Lines(log)
        _print(reader)
        while follow and run.folder.holder() is not None and not _has_ended(run.folder, trial.number):
            time.sleep(LOOK_EVERY_S)
            _print(reader)
        _print(reader, last=True)


def _replicas(run: Training, wanted: str, *, follow: bool) -> None:
    """The logs of a job, each after the other; as they come where they are followed."""
    from katuna.cli.replicas import logs_of, prefixes
    from katuna.cli.statusline import StatusLine

    logs = logs_of(run)
    chosen = [log for log in logs if wanted in ("", log.label, log.pod)]
    if not chosen:
        raise RunNotFound(f"no replica of {run.name} is called {wanted!r}; it has: {', '.join(log.label for log in logs)}")
    screen = StatusLine()
    before = [""] if wanted and len(chosen) == 1 else [f"{prefix} " for prefix in prefixes(chosen, screen)]
    readers = [(Lines(log.path), prefix) for log, prefix in zip(chosen, before, strict=True)]
    while True:
        going = follow and run.folder.holder() is not None
        for reader, prefix in readers:
            _print(reader, prefix, last=not going)
        if not going:
            return
        time.sleep(LOOK_EVERY_S)


def _print(reader: Lines, prefix: str = "", *, last: bool = False) -> None:
    lines = (f"{prefix}{printable(line, newlines=True)}\n" for line in reader.new(last=last))
    while block := "".join(islice(lines, AT_ONCE)):
        say(block, newlines=True, nl=False)


def _all(run: Run, *, follow: bool) -> None:
    readers: dict[int, Lines] = {}
    while True:
        going = follow and run.folder.holder() is not None
        for number, name in asked(run.folder).items():
            reader = readers.setdefault(number, Lines(run.folder.log(name)))
            _print(reader, f"[{number}] ", last=not going)
        if not going:
            return
        time.sleep(LOOK_EVERY_S)


def _has_ended(folder: RunDir, number: int) -> bool:
    from katuna.store.journal import read
    from katuna.trials import Exited

    return any(isinstance(event, Exited) and event.number == number for event, _ in read(folder.journal))
