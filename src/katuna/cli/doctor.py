"""`katuna doctor`: what a place to run has, and what it lacks."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from katuna.cli.output import say
from katuna.text import printable

if TYPE_CHECKING:
    from katuna.cluster.checkup import Checked

MARKS = {True: "ok", False: "NO", None: "-"}


@click.command("doctor")
@click.option(
    "--on",
    type=click.Choice(["here", "cluster"]),
    default="here",
    show_default=True,
    help="Check this machine, or the cluster that kubectl would use.",
)
@click.option(
    "--context", metavar="NAME", help="With --on cluster: the context of the kubeconfig, in the place of its current one."
)
@click.option("--namespace", metavar="NAME", help="With --on cluster: the namespace, in the place of the context's.")
def command(on: str, context: str | None, namespace: str | None) -> None:
    """Check what runs need: one line each, with the mend where something is missing. Nothing is started or changed.

    `ok` is there, `NO` is missing and needed, `-` is absent or unknown and no fault. Exit code 1 where a line says NO.
    """
    if on == "cluster":
        from katuna.cluster.api import Api
        from katuna.cluster.checkup import checkup

        fine = _print(checkup(Api.of_config(context, namespace)))
    else:
        fine = _print(_here())
    if not fine:
        sys.exit(1)


def _print(found: Iterable[Checked]) -> bool:
    """Each line as it is found out. Whether nothing is missing."""
    fine = True
    for each in found:
        fine = fine and each.is_fine is not False
        say(
            f"{MARKS[each.is_fine].ljust(4)}{each.what.ljust(24)} {printable(each.found)}"
            + (f" ({each.mend})" if each.mend else "")
        )
    return fine


def _here() -> Iterator[Checked]:
    from katuna.cluster.checkup import Checked
    from katuna.launch.devices import Found, cuda_devices, usable_cpus
    from katuna.launch.local_options import LocalOptions
    from katuna.launch.workspace import forecast
    from katuna.runs.rundir import runs_home

    yield Checked("Python", f"{platform.python_version()} at {sys.executable}")
    for package, use in (("optuna", "suggests"), ("torch", "trainers and warm starts of theirs"), ("kubernetes", "--on cluster")):
        try:
            yield Checked(package, version(package))
        except PackageNotFoundError:
            yield Checked(package, f"not installed: {use}", None, f"pip install {package}")
    yield Checked("CPUs", str(usable_cpus()))
    devices = cuda_devices(os.environ)
    complaint = devices.complaint if isinstance(devices, Found) else ""
    yield Checked(
        "GPUs", ", ".join(devices) or "none", None if not devices else True, f"nvidia-smi: {complaint}" if complaint else ""
    )
    way, why = forecast(LocalOptions())
    words = {
        "layer": "a layer for each trial",
        "mirrored": "a copy of the folder for each trial",
        "shared": "all trials share the folder",
    }
    yield Checked("files", words[way], True if way == "layer" else None, why)
    warm = sys.platform == "linux"
    yield Checked(
        "warm starts", "trials fork from a process that has imported torch" if warm else f"not on {sys.platform}", warm or None
    )
    home = runs_home()
    above = next(path for path in (home, *home.parents) if path.exists())
    writable = os.access(above, os.W_OK | os.X_OK)
    yield Checked("runs", str(home), writable, "" if writable else "it cannot be written: set KATUNA_HOME to another folder")
