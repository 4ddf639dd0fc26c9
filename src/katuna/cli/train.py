"""`katuna train`: one job with all its replicas, from the file that the cluster takes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from katuna.cli.options import Pair, cluster_options, local_options, run_options
from katuna.cli.output import say
from katuna.errors import InputRefused

if TYPE_CHECKING:
    from katuna.launch.plan import Planned
    from katuna.manifest.job import Container
    from katuna.runs.plan import Plan


@click.command("train")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", metavar="JOB", help="Which job, where the files hold several.")
@click.option(
    "--values",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="ConfigMaps, Secrets or a training runtime that the job refers to; no Secret is kept in the run folder.",
)
@click.option("--nproc", metavar="N", help="Processes in each replica, in the place of the file's nprocPerNode.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    type=Pair("PATH=VALUE", empty=True),
    help="Another value for a field of the job, e.g. spec.pytorchReplicaSpecs.Worker.replicas=2.",
)
@click.option("--dry-run", is_flag=True, help="Print what each replica would run; -o json as one object. Nothing is run.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How --dry-run prints."
)
@local_options
@cluster_options
def command(
    files: tuple[Path, ...],
    name: str | None,
    values: tuple[Path, ...],
    nproc: str | None,
    changes: tuple[tuple[str, str], ...],
    dry_run: bool,
    output: str,
    **options: Any,
) -> None:
    """Run the PyTorchJob, TrainJob or Job of a file on this machine, every replica as processes of its own, or on a cluster with
    --on cluster.

    FILES are YAML: the job, and what it refers to. The file is the one that a cluster takes. On this machine images are not pulled:
    their commands run as processes. Ctrl-C ends the replicas, `katuna resume` goes on from their checkpoints.

    \b
    katuna train training_jobs/digits-ddp.yaml                 one Master and one Worker
    katuna train training_jobs/digits-ddp.yaml --dry-run       what each of them would run, and where
    katuna train training_jobs/digits-torchrun.yaml --nproc 1  one process in the place of two
    katuna train training_jobs/digits-ddp.yaml --set spec.pytorchReplicaSpecs.Worker.replicas=3
    katuna train job.yaml --values settings.yaml --values keys.yaml --claim data=./data
    """
    from katuna.cli.attend import attend
    from katuna.cli.replicas import ReplicaScreen
    from katuna.cli.screen import say_findings
    from katuna.runs import conduct
    from katuna.runs.plan import plan_job

    if output == "json" and not dry_run:
        raise InputRefused(
            "-o json: only --dry-run prints JSON; `katuna show -o json` prints the job with its status once it runs"
        )
    wanted = replace(run_options(**options), name=name, nproc=nproc, changes=changes)
    planned = plan_job((*files, *values), wanted, as_cluster=output == "json")
    say_findings(planned.findings)
    if dry_run:
        _print_plan(planned, output)
        return
    attend(lambda **how: conduct.start(planned, **how), ReplicaScreen)


def _print_plan(planned: Plan, output: str) -> None:
    """Raises InputRefused, when all is printed, for what could not run here."""
    from katuna.cli.replicas import label, replicas_in_words, substituted
    from katuna.launch.plan import reach
    from katuna.launch.workspace import forecast, in_words
    from katuna.runs.conduct import containers, preflight

    if planned.options.cluster is not None:
        from katuna.cli.sent import print_sent

        print_sent(planned, 1)
        return
    if output == "json":
        _print_objects(planned)
        preflight(planned)
        return
    say(f"{planned.job.kind} {planned.job.name}, {replicas_in_words(planned.job)}; nothing is started")
    for line in substituted(planned.job, planned.options.local):
        say(f"  {line}")
    if said := reach(planned.job, planned.options.local, os.environ):
        say(f"  {said}")
    say(f"  {in_words(*forecast(planned.options.local), 'work/ in the run folder')}")
    for each in containers(planned):
        name = label(planned.job.name, each.replica.pod_name) + ("" if each.is_main else f"/{each.container.name}")
        say()
        say(name + ("" if each.is_main else f"  ({each.stage})"))
        before = ""
        for what, text in _rows(planned, each):
            say(f"  {('' if what == before else what).ljust(9)} {text}")
            before = what
    preflight(planned)


def _print_objects(planned: Plan) -> None:
    """What the operator makes of the job, but for addresses and ports, which are this machine's."""
    from katuna.cli.output import print_json
    from katuna.jobs.environment import container_objects

    job = planned.job
    print_json({"replicas": [{"pod": each.pod_name, "containers": container_objects(job, each)} for each in job.replicas]})


def _rows(planned: Plan, each: Planned) -> Iterator[tuple[str, str]]:
    """What a container would run, where, and with what."""
    yield "runs", shlex.join(each.command.argv) if each.command.argv else "nothing: its image's entrypoint is not known here"
    yield "in", str(each.command.folder)
    yield from (("env", f"{name}={value}") for name, value in _shown_env(planned, each))
    yield from (("volume", f"{mount.path} ({mount.volume})") for mount in each.container.mounts)
    asks = _resources(each.container, gpus=planned.options.local.device != "cpu")
    if asks:
        yield "asks for", asks


def _shown_env(planned: Plan, each: Planned) -> Iterator[tuple[str, str]]:
    """The variables that the job sets and that controllers add, with the values of this machine. Values of Secrets are left
    out."""
    from katuna.jobs.environment import replica_environment
    from katuna.manifest.job import LOOPBACK, MASTER_PORT

    marks = dict.fromkeys(each.container.secrets, "")
    for name, value in replica_environment(planned.job, each.replica, passed=marks, container=each.container):
        if name.endswith("MASTER_PORT") and value == str(MASTER_PORT):
            yield name, "<a free port>"
        elif (name, value) == ("PET_RDZV_ENDPOINT", f"{LOOPBACK}:{MASTER_PORT}"):
            yield name, f"{LOOPBACK}:<a free port>"
        else:
            yield name, each.command.env.get(name, str(value))


def _resources(container: Container, *, gpus: bool) -> str:
    words = [f"{container.cpu:g} CPU" if container.cpu is not None else ""]
    words.append(f"{container.gpus} GPU" if container.gpus and gpus else "")
    words.append(f"{container.memory_bytes / 2**30:g} GiB" if container.memory_bytes else "")
    return ", ".join(filter(None, words))
