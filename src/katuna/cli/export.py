"""`katuna export`: the trials as a file for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from katuna.cli.options import run_argument
from katuna.cli.output import put, say, write_file
from katuna.errors import KatunaError

SUFFIXES = {"csv": "csv", "json": "json", "parquet": "parquet", "optuna": "log"}


@click.command("export")
@run_argument()
@click.option("--format", "form", type=click.Choice(list(SUFFIXES)), default="csv", show_default=True)
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file; default: stdout for csv and json, RUN.parquet, RUN.log.",
)
def command(run: str | None, form: str, target: Path | None) -> None:
    """Write the trials of a run; without RUN the latest.

    optuna writes a journal storage of Optuna's, which optuna-dashboard RUN.log shows and Python opens as
    optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend("RUN.log"))), from optuna.storages
    and optuna.storages.journal.
    """
    from katuna.report.tables import FORMATS
    from katuna.runs.run import searched
    from katuna.runs.rundir import find

    found = searched(find(run))
    content = FORMATS[form](found.experiment, found.search)
    if target is None and form in ("csv", "json"):
        put(content)
        return
    target = target or Path(f"{found.name}.{SUFFIXES[form]}")
    try:
        write_file(target, content)
    except OSError as error:
        raise KatunaError(f"{target} cannot be written: {error.strerror or error}") from error
    say(f"{len(found.trials)} trials of {found.name} in {target}")
