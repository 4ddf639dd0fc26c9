"""`katuna smoke`: short trials at the corners of the space, before a search."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from katuna.cli.options import Duration, local_options, run_options
from katuna.cli.output import figure, print_table, say
from katuna.text import counted, duration


@click.command("smoke")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--experiment", "name", metavar="NAME", help="Which Experiment, where the files hold several.")
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="--epochs=1",
    help="One more argument for the trials' program, to shorten them: --arg=--epochs=1.",
)
@click.option(
    "--timeout",
    type=Duration(),
    metavar="90s",
    help="End each trial after this time, 1 s or more; fine if it has printed its metric by then.",
)
@click.option("--keep-files", is_flag=True, help="Keep the trials' files even if all is well.")
@local_options
def command(
    files: tuple[Path, ...], name: str | None, arguments: tuple[str, ...], timeout: float | None, keep_files: bool, **options: Any
) -> None:
    """Run one trial at each of a few corners of the search space, and say which crash or print no metric.

    The corners: everything least, everything greatest, and as many more as it takes for each choice of a list to come once.
    Exit code 1 when one of them is not fine.
    """
    from katuna.cli.attend import StopRequests
    from katuna.cli.screen import say_findings
    from katuna.errors import Interrupted
    from katuna.runs import conduct
    from katuna.runs.smoke import Shortening, corners, smoke

    shortening = Shortening(arguments, timeout)
    planned = conduct.plan(files, options=run_options(**options), name=name)
    say_findings(planned.findings)
    count = len(corners(planned.experiment))
    parallel = planned.experiment.parallel_trials
    say(f"{planned.experiment.name}: {counted(count, 'corner')}, {parallel} at a time", err=True)
    stop = StopRequests()
    with stop.listening():
        found, kept = smoke(
            planned, shortening, keep=keep_files, interruptions=lambda: stop.count, watch=partial(_progress, shortening)
        )
    if found:
        _print(planned.experiment, found)
    if kept is not None:
        say(f"their files are in {kept}", err=True)
    if stop:
        raise Interrupted(f"interrupted: {len(found)} of {count} corners done", stop.signum)
    if not all(corner.fine for corner in found):
        sys.exit(1)


def _progress(shortening: Any, event: Any, search: Any) -> None:
    from katuna.cli.screen import ended_line
    from katuna.runs.smoke import outcome
    from katuna.search.trials import Exited

    if not isinstance(event, Exited):
        return
    corner = outcome(search.trials[event.number], search.objective, shortening)
    if corner.state == "TimedOut":
        value = f"{search.objective.metric}={figure(corner.value)}" if corner.fine else f"without {search.objective.metric}"
        line = f"corner {event.number} timed out, {value}, after {duration(corner.trial.duration_s)}"
    else:
        line = ended_line(corner.trial, search).removesuffix("  best so far").replace("trial", "corner", 1)
    say(line, err=True)


def _print(experiment: Any, corners: Any) -> None:
    names = [parameter.name for parameter in experiment.parameters]
    metric = experiment.objective.metric
    rows = []
    for corner in corners:
        trial = corner.trial
        rows.append(
            [
                str(trial.number),
                *(trial.assignments[name] for name in names),
                corner.state,
                figure(corner.value),
                duration(trial.duration_s),
            ]
        )
    print_table(("#", *names, "STATE", metric, "TOOK"), rows, right=("#", metric, "TOOK"))
    for corner in corners:
        if not corner.fine:
            say()
            say(f"corner {corner.trial.number}: {_why(corner)}")
            for line in corner.last_lines:
                say(f"  {line}")


def _why(corner: Any) -> str:
    """The log's last lines follow: a message that quotes them would say it twice."""
    trial = corner.trial
    if trial.state.value == "Failed" and trial.exit_code is not None and corner.last_lines:
        return f"{trial.reason}, exit code {trial.exit_code}; its log ends:"
    return str(trial.message or trial.reason)
