"""`katuna report`: the run as a page."""

from __future__ import annotations

from pathlib import Path

import click

from katuna.cli.options import run_argument
from katuna.cli.output import say_path, write_file
from katuna.errors import KatunaError


@click.command("report")
@run_argument()
@click.option(
    "--to", "target", type=click.Path(path_type=Path, dir_okay=False), help="The file; default: report.html in the run folder."
)
def command(run: str | None, target: Path | None) -> None:
    """Write one self-contained HTML file: history, parallel coordinates, importances, learning curves, all trials.

    Without RUN the latest. The page needs no network and no server.
    """
    from katuna.report.page import report_html
    from katuna.runs.journal import write_beside
    from katuna.runs.run import searched
    from katuna.runs.rundir import find

    found = searched(find(run))
    target = target or found.folder.report
    page = report_html(found.experiment, found.search, found.events)
    try:
        if target == found.folder.report:
            write_beside(target, page.encode())  # a link in a run folder is not to be trusted
        else:
            write_file(target, page.encode())
    except OSError as error:
        raise KatunaError(f"{target} cannot be written: {error.strerror or error}; --to FILE writes it elsewhere") from error
    say_path(target)
