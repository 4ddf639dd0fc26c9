"""`katuna ls`: which runs there are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from katuna.cli.files import still_running
from katuna.cli.output import figure, format_option, print_objects, print_table, say
from katuna.errors import KatunaError
from katuna.text import duration

if TYPE_CHECKING:
    from katuna.launch.leftovers import Carriers
    from katuna.runs.run import Run
    from katuna.runs.rundir import RunDir


@click.command("ls")
@format_option()
def command(output: str) -> None:
    """List the runs, the latest first. One that cannot be read is listed with the reason."""
    from katuna.runs.rundir import all_runs, clear_up, runs_home

    clear_up()
    folders = list(reversed(all_runs()))
    rows = _rows(folders) if folders else []
    if output != "table":
        print_objects(output, rows, [str(row["name"]) for row in rows])
        return
    if not rows:
        say(f"no run in {runs_home()} yet; start one with `katuna tune FILE` or `katuna train FILE`", err=True)
        return
    table = [
        [
            str(row["name"]),
            str(row["state"]),
            str(row.get("algorithm", row.get("kind", ""))),
            f"{row['finished']}/{row['maxTrialCount'] or '∞'}" if "finished" in row else "",
            figure(row.get("best")),
            duration(row.get("age_s")),
        ]
        for row in rows
    ]
    print_table(("NAME", "STATE", "WHAT", "TRIALS", "BEST", "AGE"), table, right=("TRIALS", "BEST", "AGE"))
    for folder, row in zip(folders, rows, strict=True):
        if "error" in row:
            say(f"{row['name']}: {row['error']}", err=True, newlines=True)
        if "leftRunning" in row:
            say(f"{row['name']}: {still_running(row['leftRunning'], folder.handle, row['state'])}", err=True)


def _rows(folders: Sequence[RunDir]) -> list[dict[str, Any]]:
    from katuna.launch.leftovers import carriers

    among = carriers()
    return [_row(folder) | _left(folder, among) for folder in folders]


def _row(folder: RunDir) -> dict[str, Any]:
    """What there is to say of a run; of one that cannot be read, why."""
    row: dict[str, Any] = {"name": folder.name, "state": "Unreadable", "path": str(folder.path)}
    from katuna.runs.run import opened

    try:
        return row | _facts(opened(folder))
    except KatunaError as error:
        return row | {"error": str(error)}
    except OSError as error:
        return row | {"error": str(error.strerror)}


def _left(folder: RunDir, among: Carriers) -> dict[str, Any]:
    """What still runs of a run that no katuna is at work on, where something does."""
    from katuna.launch.leftovers import left_running

    left = [] if folder.holder() is not None else left_running(folder.path, among)
    return {"leftRunning": left} if left else {}


def _facts(run: Run) -> dict[str, Any]:
    age_s = max(0.0, time.time() - run.opened.at)
    from katuna.runs.run import Training

    if isinstance(run, Training):
        return {"kind": run.job.kind, "state": run.state, "replicas": len(run.job.replicas), "age_s": age_s}
    experiment, best = run.experiment, run.best
    return {
        "kind": "Experiment",
        "state": run.state,
        "algorithm": experiment.algorithm,
        "finished": run.search.finished,
        "maxTrialCount": experiment.max_trials,
        "best": None if best is None else best.value(experiment.objective),
        "age_s": age_s,
    }
