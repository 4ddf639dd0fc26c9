"""`katuna logs`: what the containers of trials and trainings printed."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

import click

from katuna.cli.lines import Lines
from katuna.cli.output import say
from katuna.cli.targets import Target, asked, complete_target, names, resolve
from katuna.errors import InputRefused, RunNotFound
from katuna.text import printable

if TYPE_CHECKING:
    from katuna.runs.run import Run
    from katuna.runs.rundir import RunDir

LOOK_EVERY_S = 0.2
AT_ONCE = 1000
"""Lines in one write."""


def _complete_replica(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    del param
    # An option without its value yet, and click has sorted no argument in.
    run = ctx.params.get("target") or next(iter(ctx.args), "")
    return [name for name in names(run, trainings_only=True) if name.startswith(incomplete)]


@click.command("logs")
@click.argument("target", metavar="RUN[/TRIAL][/REPLICA]", shell_complete=complete_target)
@click.option(
    "--replica",
    metavar="NAME",
    shell_complete=_complete_replica,
    help="One replica's alone: master-0, worker-1, or a container's: master-0/sidecar.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes, until the run has ended.")
def command(target: str, replica: str | None, follow: bool) -> None:
    """Print the output of one trial or training, or of all trials of a run. Where several replicas run, each line has its replica's
    name.

    TRIAL is a name, a unique part of one, or a number; REPLICA is master-0, worker-1 or, of a container, master-0/sidecar. Control
    characters are shown, not obeyed.
    """
    found = resolve(target)
    wanted = replica or found.replica
    if found.trial is None and not found.run.folder.is_training:
        if wanted:
            raise InputRefused(
                f"--replica {wanted}: {found.run.name} is a search; `katuna logs {found.run.folder.handle}/0/{wanted}` prints that "
                "replica of a trial"
            )
        _all(found.run, follow=follow)
    else:
        _replicas(found, wanted, follow=follow)


def _replicas(target: Target, wanted: str, *, follow: bool) -> None:
    """The logs of a trial or training, each after the other; as they come where they are followed."""
    from katuna.cli.replicas import logs_of, prefixes
    from katuna.cli.statusline import StatusLine

    run, trial = target.run, target.trial
    job = run.job_of(trial)
    logs = logs_of(job, run.folder.trial(trial.name) if trial else run.path)
    chosen = [log for log in logs if wanted in ("", log.label, log.pod)]
    if not chosen:
        whose = f"{run.name}/{trial.number}" if trial else run.name
        raise RunNotFound(f"no replica of {whose} is called {wanted!r}; it has: {', '.join(log.label for log in logs)}")
    alone = len(chosen) == 1 and (wanted or trial)
    before = [""] if alone else [f"{prefix} " for prefix in prefixes(chosen, StatusLine())]
    readers = [(Lines(log.path), prefix) for log, prefix in zip(chosen, before, strict=True)]
    while True:
        going = follow and run.folder.holder() is not None and not (trial and _has_ended(run.folder, trial.number))
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
    from katuna.runs.journal import read
    from katuna.search.trials import Exited

    return any(isinstance(event, Exited) and event.number == number for event, _ in read(folder.journal))
