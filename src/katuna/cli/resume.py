"""`katuna resume`: goes on with a search or a job."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from katuna.cli.options import Duration, run_argument
from katuna.errors import InputRefused

if TYPE_CHECKING:
    from katuna.cli.screen import Screen
    from katuna.runs.rundir import RunDir
    from katuna.runs.snapshot import Which


@click.command("resume")
@run_argument()
@click.option(
    "--max-trials",
    type=int,
    metavar="N",
    help="A new maxTrialCount; a search that has ended goes on if its resumePolicy lets it.",
)
@click.option("--parallel", type=int, metavar="N", help="A new parallelTrialCount.")
@click.option("--max-failed", type=int, metavar="N", help="A new maxFailedTrialCount.")
@click.option("--timeout", type=Duration(), metavar="2h", help="End the search after this time, counted from now.")
@click.option(
    "--drop-after",
    type=click.IntRange(1),
    metavar="LINE",
    help="Keep the first LINE lines of a damaged journal, and the damaged file beside it.",
)
@click.option(
    "--code",
    type=click.Choice(["kept", "new"]),
    default="kept",
    show_default=True,
    help="Whether trials and replicas read the files as they were, or as they are now.",
)
def command(run: str | None, timeout: float | None, drop_after: int | None, code: Which, **budget: Any) -> None:
    """Go on with a search or a job that was stopped, interrupted or killed; without RUN the latest.

    A job's replicas begin anew in the same folder, where trainers find their checkpoints. Of a search,
    trials that had ended stay as they are; those that were running begin again with the same parameters. A new budget is what
    an edit of the Experiment is on a cluster: allowed while the search has not ended, and after it has ended by its number of
    trials under resumePolicy LongRunning or FromVolume. A search that its --timeout has ended goes on: what that stopped begins again.
    """
    from katuna.cli.attend import attend
    from katuna.cli.code import code_before, say_changes, say_missing
    from katuna.cli.replicas import ReplicaScreen
    from katuna.cli.screen import screen_for
    from katuna.runs import conduct
    from katuna.runs.rundir import find

    folder = find(run)
    before = code_before(folder) if code == "new" else None
    begun: Callable[[Any], None] = say_missing if code == "kept" else partial(say_changes, before)
    if folder.is_training:
        _check_no_budget(folder, [name for name, value in {**budget, "timeout": timeout}.items() if value is not None])
    fields = {"max_trials": "maxTrialCount", "parallel": "parallelTrialCount", "max_failed": "maxFailedTrialCount"}
    counts = {fields[name]: count for name, count in budget.items() if count is not None}
    given: dict[str, Any] = {"counts": counts, "timeout_s": timeout, "drop_after": drop_after, "code": code}
    screen: Callable[[Any], Screen] = ReplicaScreen if folder.is_training else screen_for
    attend(lambda **how: conduct.resume(str(folder.path), **given, **how), screen, begun)


def _check_no_budget(folder: RunDir, budget: list[str]) -> None:
    if budget:
        option = f"--{budget[0].replace('_', '-')}"
        raise InputRefused(f"{option}: {folder.name} is the run of a job, which has no budget of trials; leave the option out")
