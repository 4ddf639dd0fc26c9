"""`katuna resume`: goes on with a search or a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from katuna.cli.options import Duration, run_argument
from katuna.errors import InputRefused

if TYPE_CHECKING:
    from katuna.store.rundir import RunDir


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
def command(run: str | None, timeout: float | None, drop_after: int | None, **budget: Any) -> None:
    """Go on with a search or a job that was stopped, interrupted or killed; without RUN the latest.

    A job's replicas begin anew in the same folder, where trainers find their checkpoints. Of a search,
    trials that had ended stay as they are; those that were running begin again with the same parameters. A new budget is what
    an edit of the Experiment is on a cluster: allowed while the search has not ended, and after it has ended by its number of
    trials under resumePolicy LongRunning or FromVolume. A search that its --timeout has ended goes on: what that stopped begins again.
    """
    from katuna.store.rundir import find

    folder = find(run)
    if folder.is_job:
        given = [name for name, value in {**budget, "timeout": timeout}.items() if value is not None]
        _resume_job(folder, given, drop_after)
        return
    from katuna import conduct
    from katuna.cli.search import attend

    fields = {"max_trials": "maxTrialCount", "parallel": "parallelTrialCount", "max_failed": "maxFailedTrialCount"}
    counts = {fields[name]: count for name, count in budget.items() if count is not None}
    attend(lambda **how: conduct.resume(str(folder.path), counts=counts, timeout_s=timeout, drop_after=drop_after, **how))


def _resume_job(folder: RunDir, budget: list[str], drop_after: int | None) -> None:
    from katuna import conductjob
    from katuna.cli.train import attend

    if budget:
        option = f"--{budget[0].replace('_', '-')}"
        raise InputRefused(f"{option}: {folder.name} is the run of a job, which has no budget of trials; leave the option out")
    attend(lambda **how: conductjob.resume(folder, drop_after=drop_after, **how))
