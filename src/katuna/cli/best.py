"""`katuna best`: the winner."""

from __future__ import annotations

import click

from katuna.cli.options import run_argument
from katuna.cli.output import figure, format_option, print_facts, print_objects, say, say_path
from katuna.errors import KatunaError


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
        say(found.command(trial))
    elif output == "files":
        files = found.folder.trial(trial.name) / "work"
        if not files.is_dir():
            raise KatunaError(
                f"{trial.name} left no files of its own; `katuna show {found.folder.handle}/{trial.number}` shows it"
            )
        say_path(files)
    elif output != "table":
        print_objects(output, katib_trial(found.experiment, trial), [trial.name])
    else:
        facts = {
            "Trial": f"{trial.number}, {trial.name}",
            found.experiment.objective.metric: figure(trial.value(found.experiment.objective)),
        }
        facts |= {**trial.assignments, "Folder": str(found.folder.trial(trial.name))}
        print_facts(facts.items(), 0)
