"""`katuna stop`: ends a search or a job from outside."""

from __future__ import annotations

import os
import signal
import time

import click

from katuna.cli.options import run_argument
from katuna.errors import KatunaError

PATIENCE_S = 60.0


@click.command("stop")
@run_argument(required=True)
def command(run: str) -> None:
    """Ask the katuna process of a run to end: its trials or replicas are stopped, nothing recorded is lost, and it can be resumed.

    A Python program that called katuna.tune or katuna.train is asked as a whole.
    """
    from katuna.store.rundir import find

    folder = find(run)
    pid = folder.holder()
    if pid is None:
        click.echo(f"{folder.name} is not running")
        return
    os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + PATIENCE_S
    while folder.holder() == pid:
        if time.monotonic() > give_up:
            raise KatunaError(
                f"{folder.name}: process {pid} has not ended after {PATIENCE_S:.0f} s; its processes may ignore SIGTERM; try again, or kill it: the run stays resumable"
            )
        time.sleep(0.05)
    click.echo(f"{folder.name} has stopped; go on with `katuna resume {folder.name}`")
