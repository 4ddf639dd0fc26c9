"""`katuna resume`: goes on with a search."""

from __future__ import annotations

import sys

import click

from katuna.cli.options import Duration, run_argument


@click.command("resume")
@run_argument()
@click.option("--timeout", type=Duration(), metavar="2h", help="End the search after this time, counted from now.")
@click.option(
    "--drop-after",
    type=click.IntRange(1),
    metavar="LINE",
    help="Keep the first LINE lines of a damaged journal, and the damaged file beside it.",
)
def command(run: str | None, timeout: float | None, drop_after: int | None) -> None:
    """Go on with a search that was stopped, interrupted or killed; without RUN the latest.

    Trials that had ended stay as they are; those that were running begin again with the same parameters.
    """
    from katuna import conduct
    from katuna.cli.search import attend
    from katuna.run import Run
    from katuna.store.rundir import find

    found = Run(find(run))
    if drop_after is None and found.search.ended is not None:
        click.echo(
            f"{found.name} has ended: {found.search.ended.message}. There is nothing to resume; `katuna show {found.name}` shows it"
        )
        sys.exit(0 if found.search.ended.succeeded else 1)
    attend(lambda **how: conduct.resume(str(found.path), timeout_s=timeout, drop_after=drop_after, **how))
