"""`katuna trials`: every trial of a run."""

from __future__ import annotations

import click

from katuna.cli.options import run_argument
from katuna.cli.output import figure, format_option, print_objects, print_table
from katuna.text import duration, shorten


@click.command("trials")
@run_argument()
@format_option()
def command(run: str | None, output: str) -> None:
    """List the trials of a run; without RUN the latest. json and yaml print a list of Katib's Trial objects."""
    from katuna.report.katib_status import katib_trial
    from katuna.runs.run import searched
    from katuna.runs.rundir import find

    found = searched(find(run))
    experiment, trials = found.experiment, found.trials
    if output != "table":
        objects = [] if output == "name" else [katib_trial(experiment, trial) for trial in trials]
        print_objects(output, objects, [trial.name for trial in trials])
        return
    parameters = [parameter.name for parameter in experiment.parameters]
    rows = [
        [
            str(trial.number),
            trial.name,
            trial.state.value,
            figure(trial.value(experiment.objective)),
            *(trial.assignments.get(name, "") for name in parameters),
            duration(trial.duration_s),
            shorten(trial.remark or ("" if trial.state.value in ("Succeeded", "EarlyStopped") else trial.reason), 160),
        ]
        for trial in trials
    ]
    metric = experiment.objective.metric
    print_table(("#", "NAME", "STATE", metric, *parameters, "TOOK", "REASON"), rows, right=("#", metric, "TOOK"))
