"""`katuna resume`: goes on with a search."""

from __future__ import annotations

from typing import Any

import click

from katuna.cli.options import Duration, run_argument


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
    """Go on with a search that was stopped, interrupted or killed; without RUN the latest.

    Trials that had ended stay as they are; those that were running begin again with the same parameters. A new budget is what
    an edit of the Experiment is on a cluster: allowed while the search has not ended, and after it has ended by its number of
    trials under resumePolicy LongRunning or FromVolume.
    """
    from katuna import conduct
    from katuna.cli.search import attend
    from katuna.store.rundir import find

    fields = {"max_trials": "maxTrialCount", "parallel": "parallelTrialCount", "max_failed": "maxFailedTrialCount"}
    counts = {fields[name]: count for name, count in budget.items() if count is not None}
    folder = find(run)
    attend(lambda **how: conduct.resume(str(folder.path), counts=counts, timeout_s=timeout, drop_after=drop_after, **how))
