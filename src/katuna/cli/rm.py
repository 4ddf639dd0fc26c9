"""`katuna rm`: removes runs."""

from __future__ import annotations

import sys

import click

from katuna.cli.options import complete_run
from katuna.errors import KatunaError


@click.command("rm")
@click.argument("runs", nargs=-1, required=True, shell_complete=complete_run)
@click.option("-y", "--yes", is_flag=True, help="Do not ask, also on a terminal.")
def command(runs: tuple[str, ...], yes: bool) -> None:
    """Remove runs with their journals, logs and models. A run that is at work is refused; what a killed one left running is ended."""
    from katuna.launch.leftovers import end_left
    from katuna.launch.volumes import sweep
    from katuna.store.code import prune
    from katuna.store.rundir import find

    folders = list(dict.fromkeys(find(run) for run in runs))
    names = ", ".join(folder.name for folder in folders)
    if not yes and sys.stdin.isatty() and not click.confirm(f"Remove {names} with everything in it?"):
        raise KatunaError("nothing was removed")
    for folder in folders:
        with folder.locked():
            end_left(folder.path)
            for place in (folder.path, *(folder.path / "trials").glob("*")):
                sweep(place)
            try:
                folder.remove()
            except OSError as error:
                raise KatunaError(f"{folder.path} cannot be removed: {error.strerror}") from error
        prune(folder.path.parent)
        click.echo(f"removed {folder.name}")
