"""`katuna ls`: which runs there are."""

from __future__ import annotations

import time

import click

from katuna.cli.output import duration, figure, format_option, print_objects, print_table
from katuna.errors import KatunaError


@click.command("ls")
@format_option()
def command(output: str) -> None:
    """List the runs, the latest first. One that cannot be read is listed with the reason."""
    from katuna.run import Run
    from katuna.store.rundir import all_runs, runs_home

    rows = [_row(Run(folder)) for folder in reversed(all_runs())]
    if output != "table":
        print_objects(output, rows, [str(row["name"]) for row in rows])
    elif rows:
        print_table(
            ("NAME", "STATE", "ALGORITHM", "TRIALS", "BEST", "AGE"),
            [[str(row[key]) for key in ("name", "state", "algorithm", "trials", "best", "age")] for row in rows],
            right=("TRIALS", "BEST", "AGE"),
        )
    else:
        click.echo(f"no run in {runs_home()} yet; start one with `katuna tune FILE`", err=True)


def _row(run: object) -> dict[str, object]:
    from katuna.run import Run

    assert isinstance(run, Run)
    row: dict[str, object] = {
        "name": run.name,
        "state": "Unreadable",
        "algorithm": "",
        "trials": "",
        "best": "",
        "age": "",
        "path": str(run.path),
    }
    try:
        done = sum(trial.state.is_final for trial in run.trials)
        best = run.best
        row |= {
            "state": run.state,
            "algorithm": run.experiment.algorithm,
            "trials": f"{done}/{run.experiment.max_trials or '∞'}",
            "best": figure(best.value(run.experiment.objective)) if best else "",
            "age": duration(max(0.0, time.time() - run.opened.at)),
        }
    except KatunaError as error:
        row["error"] = str(error)
    except OSError as error:
        row["error"] = error.strerror
    return row
