"""`katuna rm`: removes runs."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

from katuna.cli.options import complete_run
from katuna.cli.output import say
from katuna.errors import InputRefused, KatunaError
from katuna.text import printable

if TYPE_CHECKING:
    from katuna.runs.rundir import RunDir


def _leave_cluster(folder: RunDir) -> None:
    """Raises KatunaError where the cluster does not let go."""
    from katuna.runs.on_cluster import leave
    from katuna.runs.run import opened

    try:
        run = opened(folder)
        cluster = run.options.cluster
    except KatunaError:
        # What cannot be read can be removed all the same.
        return
    try:
        if cluster and (number := leave(run, jobs=True)):
            say(f"removed {number} object{'' if number == 1 else 's'} of {folder.name} from the cluster")
    except KatunaError as error:
        raise KatunaError(f"{folder.name} has objects on a cluster: {error} (--keep-on-cluster removes the run alone)") from error


@click.command("rm")
@click.argument("runs", nargs=-1, required=True, shell_complete=complete_run)
@click.option("-y", "--yes", is_flag=True, help="Do not ask, also on a terminal.")
@click.option("--keep-on-cluster", is_flag=True, help="Leave alone what a run has on a cluster, as one that is no more.")
def command(runs: tuple[str, ...], yes: bool, keep_on_cluster: bool) -> None:
    """Remove runs with their journals, logs and models. A run that is at work is refused; what a killed one left running is ended."""
    from katuna.launch.leftovers import end_left
    from katuna.runs.code import prune
    from katuna.runs.rundir import clear_up, find

    folders = list(dict.fromkeys(find(run) for run in runs))
    for folder in folders:
        if folder.path.is_symlink():
            raise InputRefused(
                f"{folder.path} is a link to the run {folder.path.resolve()}; nothing was removed: `rm` removes the link, "
                f"`katuna rm {shlex.quote(str(folder.path.resolve()))}` the run"
            )
    names = ", ".join(folder.name for folder in folders)
    if not yes and sys.stdin.isatty() and not click.confirm(f"Remove {printable(names)} with everything in it?"):
        raise KatunaError("nothing was removed")
    for folder in folders:
        with folder.locked():
            end_left(folder.path)
            if not keep_on_cluster:
                _leave_cluster(folder)
            try:
                folder.remove()
            except OSError as error:
                raise KatunaError(f"{folder.path} cannot be removed: {error.strerror}") from error
        clear_up(folder.path.parent)
        prune(folder.path.parent)
        say(f"removed {folder.name}")
