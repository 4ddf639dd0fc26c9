"""`katuna best`: the winner."""

from __future__ import annotations

import os
import sys

import click

from katuna.cli.options import run_argument
from katuna.cli.output import figure, format_option, print_objects
from katuna.errors import KatunaError
from katuna.text import printable


@click.command("best")
@run_argument()
@format_option("command", "files")
def command(run: str | None, output: str) -> None:
    """Show the best trial; without RUN that of the latest run. `-o command` prints the one command line that trains it again, `-o files`
    the folder of what it wrote."""
    from katuna.report.katib_status import katib_trial
    from katuna.runs.run import searched
    from katuna.runs.rundir import find

    found = searched(find(run))
    trial = found.best
    if trial is None:
        raise KatunaError(
            f"no trial of {found.name} has a value of {found.experiment.objective.metric} yet; `katuna trials {found.name}` shows why"
        )
    if output == "command":
        click.echo(found.command(trial))
    elif output == "files":
        files = found.folder.trial(trial.name) / "work"
        if not files.is_dir():
            raise KatunaError(
                f"{trial.name} left no files of its own; `katuna show {found.folder.handle}/{trial.number}` shows it"
            )
        # Another program gets the very bytes of the path, a person what a terminal can show.
        click.echo(printable(str(files)) if sys.stdout.isatty() else os.fsencode(files))
    elif output != "table":
        print_objects(output, katib_trial(found.experiment, trial), [trial.name])
    else:
        facts = {
            "Trial": f"{trial.number}, {trial.name}",
            found.experiment.objective.metric: figure(trial.value(found.experiment.objective)),
        }
        facts |= {**trial.assignments, "Folder": str(found.folder.trial(trial.name))}
        width = max(map(len, facts)) + 2
        for name, value in facts.items():
            click.echo(printable(name).ljust(width) + printable(value))
