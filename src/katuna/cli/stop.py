"""`katuna stop`: ends a search or a job from outside."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

import click

from katuna.cli.options import run_argument
from katuna.cli.output import say
from katuna.errors import InputRefused, KatunaError

if TYPE_CHECKING:
    from katuna.runs.rundir import RunDir

PATIENCE_S = 60.0
"""Beyond what a job's replicas may take to end."""


@click.command("stop")
@run_argument(required=True)
def command(run: str) -> None:
    """Ask the katuna process of a run to end: its trials or replicas are stopped, nothing recorded is lost, and it can be resumed.

    Replicas have the job's terminationGracePeriodSeconds; a second stop hurries them.

    A Python program that called katuna.tune or katuna.train is asked as a whole.
    """
    from katuna.runs.rundir import find

    folder = find(run)
    held = folder.held()
    if held is None:
        say(f"{folder.name} is not running")
        return
    patience_s, pid = PATIENCE_S + _grace_s(folder), held.pid
    why_not = held.signal(signal.SIGTERM)
    if why_not:
        raise InputRefused(f"{folder.name}: {why_not}; no process was signalled")
    give_up = time.monotonic() + patience_s
    while folder.holder() == pid:
        if time.monotonic() > give_up:
            raise KatunaError(
                f"{folder.name}: process {pid} has not ended after {patience_s:.0f} s; its processes may ignore SIGTERM; try again, or kill it: the run stays resumable"
            )
        time.sleep(0.05)
    say(f"{folder.name} has stopped; go on with `katuna resume {folder.handle}`")


def _grace_s(folder: RunDir) -> float:
    if folder.is_training:
        from katuna.runs.run import Training

        with contextlib.suppress(InputRefused):
            return Training(folder).job.grace_s
    return 0.0
