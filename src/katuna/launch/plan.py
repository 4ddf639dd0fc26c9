"""What each container of a job runs here: command, environment, share of GPUs and CPUs, log. Decided before anything is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from katuna.launch.command import FINE, Foresee, command, option_problems, problems
from katuna.launch.devices import Found, cuda_devices, usable_cpus
from katuna.launch.local_options import LocalOptions
from katuna.launch.process import Command
from katuna.launch.rendezvous import AGENT_STORE, NOWHERE, SOCKETS, Rendezvous, rendezvous, variables
from katuna.launch.storage import room_for
from katuna.launch.volumes import PodVolumes
from katuna.manifest.hidden import Text, revealed
from katuna.manifest.job import MASTER_PORT, Container, Job, Replica

Stage = Literal["init", "main", "sidecar"]


@dataclass(frozen=True)
class Planned:
    """A container of pod `replica.pod_name`, ready to be started. `told` is its command as messages may show it, word for word: with a
    mark for all that a Secret holds, and with paths in its volumes as the file has them. `files` is the way in which it gets files of
    its own (files.py), "" before it has been given any."""

    replica: Replica
    container: Container
    stage: Stage
    command: Command
    told: Command
    log: Path
    files: str = ""

    @property
    def is_main(self) -> bool:
        return self.stage == "main"


@dataclass(frozen=True)
class Place:
    """The folder, options and environment of a job, as `launch.command.command` takes them. Replicas that ask for no CPUs share
    `cpus`. `kept` are the absolute paths of the code that the run keeps: the job finds them even where they are gone now. `say`
    is `str` for commands that are shown and not run.
    """

    folder: Path
    options: LocalOptions
    environ: Mapping[str, str]
    defaults: Mapping[str, str]
    extra: Mapping[str, str]
    own: Mapping[str, str]
    cpus: int
    kept: Collection[str] = ()
    say: Callable[[Text], str] = revealed


def trial_cpus(parallel: int) -> int:
    """What each of so many trials at a time has of this machine's CPUs."""
    return max(1, usable_cpus() // max(1, parallel))


def trial_place(
    folder: Path,
    options: LocalOptions,
    environ: Mapping[str, str],
    own: Mapping[str, str],
    cpus: int,
    kept: Collection[str] = (),
) -> Place:
    """Where and how a trial runs whose folder this is."""
    return Place(folder, options, environ, {"PYTHONUNBUFFERED": "1"}, {}, own, cpus, kept)


def log_of(folder: Path, job: Job, pod: str, container: str) -> Path:
    """`log` for the first replica's training container; in `logs/` the other replicas' POD.log, and POD.CONTAINER.log."""
    first = job.replicas[0]
    if (pod, container) == (first.pod_name, first.container.name):
        return folder / "log"
    trains = any(replica.pod_name == pod and replica.container.name == container for replica in job.replicas)
    return folder / "logs" / (f"{pod}.log" if trains else f"{pod}.{container}.log")


def rank_of(replica: Replica) -> str:
    """As its environment says; of an elastic job's, whose ranks torchrun gives out, the index."""
    injected = dict(replica.injected)
    return injected.get("RANK") or injected.get("PET_NODE_RANK") or str(replica.index)


def gpus_of(replica: Replica, options: LocalOptions) -> int:
    """How many GPUs a replica gets: those that its containers ask for, init containers and the others in turn."""
    together = sum(container.gpus for container in (replica.container, *replica.sidecars))
    asked = max([together, *(init.gpus for init in replica.init_containers)])
    return {"job": asked, "cpu": 0, "cuda": max(1, asked)}[options.device]


def gpus(job: Job, options: LocalOptions) -> int:
    """How many GPUs the job is to lease."""
    return sum(gpus_of(replica, options) for replica in job.replicas)


def at_a_time(job: Job) -> int:
    """How many of the job's containers run at a time, at most."""
    return sum(1 + len(replica.sidecars) for replica in job.replicas)


def plan(job: Job, place: Place, devices: Sequence[str], port: int) -> tuple[Planned, ...]:
    """All containers, pod by pod in the job's order, init containers first. `devices` are the leased ones, sliced by replica."""
    planned: list[Planned] = []
    left = list(devices)
    for replica in job.replicas:
        count = gpus_of(replica, place.options)
        planned += _pod(job, replica, place, left[:count], port)
        del left[:count]
    return tuple(map(_as_client, planned) if meeting(planned, place.options).held else planned)


def meeting(planned: Sequence[Planned], options: LocalOptions) -> Rendezvous:
    """How the processes of a planned job meet; in a network of its own, as torch does it."""
    first = next(each for each in planned if each.is_main)
    if options.private_network or not first.command.argv:
        return NOWHERE
    if AGENT_STORE in dict(first.container.env):
        return Rendezvous(open=f"the job's own {AGENT_STORE}")
    return rendezvous(first.command, own_torch=first.container.image not in options.pythons)


def reach(job: Job, options: LocalOptions, environ: Mapping[str, str]) -> str:
    """What a person is told of who reaches the job's processes; "" where nobody from outside of this machine does, as far as can be
    seen."""
    if options.private_network:
        return "each job has a network of its own, from which nothing else can be reached"
    place = Place(Path("/nonexistent"), options, environ, {}, {}, {}, usable_cpus())
    why = meeting(plan(job, place, (), MASTER_PORT), options).open
    return (
        f"{why}: torch listens on all interfaces, and who reaches it can run code as you; --private-network shuts it"
        if why
        else ""
    )


def _as_client(each: Planned) -> Planned:
    """Told that the store is there already."""
    if not each.is_main:
        return each
    env = {**each.command.env, **variables(each.command)}
    return replace(each, command=replace(each.command, env=env))


def _pod(job: Job, replica: Replica, place: Place, devices: Sequence[str], port: int) -> Iterator[Planned]:
    volumes = PodVolumes(place.folder, replica, place.options)
    for init in replica.init_containers:
        # Controllers inject nothing there.
        as_main = replace(replica, container=init, injected=())
        yield _planned(job, replica, as_main, "init", place, devices[: init.gpus], port, volumes)
    left = list(devices)
    for sidecar in replica.sidecars:
        own, left = (left[-sidecar.gpus :], left[: -sidecar.gpus]) if sidecar.gpus else ([], left)
        yield _planned(job, replica, replace(replica, container=sidecar), "sidecar", place, own, port, volumes)
    yield _planned(job, replica, replica, "main", place, left, port, volumes)


def _planned(
    job: Job,
    replica: Replica,
    as_main: Replica,
    stage: Stage,
    place: Place,
    devices: Sequence[str],
    port: int,
    volumes: PodVolumes,
) -> Planned:
    container = as_main.container
    defaults = {**SOCKETS, **place.defaults, "OMP_NUM_THREADS": str(threads(job, as_main, place.cpus))}
    if place.options.data:
        defaults["KATUNA_DATA"] = place.options.data
    extra = {**place.extra, "KATUNA_TRIAL_DIR": str(place.folder), "CUDA_VISIBLE_DEVICES": ",".join(devices)}
    own = {**volumes.maps(container, place.say), **place.own}
    scratch, as_written = volumes.scratch(container), {path: path for path in own}
    make = partial(command, job, as_main, options=place.options, environ=place.environ, port=port, defaults=defaults, extra=extra)
    here = make(own=own, made=scratch.values(), say=place.say)
    told = make(own=as_written, made=scratch, say=str)
    return Planned(replica, container, stage, here, told, log_of(place.folder, job, replica.pod_name, container.name))


def threads(job: Job, replica: Replica, cpus: int) -> int:
    """Threads of one process of a replica: its CPU request, else its part of `cpus`, shared by the processes that it starts."""
    asked = replica.container.cpu
    share = cpus // len(job.replicas) if asked is None else min(int(asked), usable_cpus())
    each = dict(replica.injected).get("PET_NPROC_PER_NODE", "")
    return max(1, share // (int(each) if each.isdigit() and int(each) else 1))


# What cannot run


def preflight(
    job: Job,
    options: LocalOptions,
    environ: Mapping[str, str],
    *,
    kept: Collection[str] = (),
    devices: Sequence[str] | None = None,
) -> list[tuple[str, str]]:
    """The reasons why a single job could not start, and options that it has no use for, as (message, hint). Nothing is run or
    written. `kept` is as in Place; `devices` are this machine's unless given."""
    place = Place(Path("/nonexistent"), options, environ, {}, {}, {}, usable_cpus(), kept)
    found = [*job_problems(job, place, devices), *option_problems(options, [job], environ)]
    found += room_for(at_a_time(job), gpus(job, options))
    return list(dict.fromkeys(found))


def _foreseen(place: Place, volumes: Foresee) -> Foresee:
    return lambda path, runs: FINE if os.path.normpath(path) in place.kept else volumes(path, runs)


def job_problems(job: Job, place: Place, devices: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
    """Why the job cannot run in its place."""
    for replica in job.replicas:
        yield from PodVolumes(place.folder, replica, place.options).problems()
    for each in plan(job, place, (), MASTER_PORT):
        volumes = PodVolumes(place.folder, each.replica, place.options)
        foresee = _foreseen(place, volumes.foresee(each.container, place.own.values()))
        yield from problems(replace(each.replica, container=each.container), each.command, each.told, foresee)
    wanted = gpus(job, place.options)
    if wanted:
        found = cuda_devices(place.environ) if devices is None else devices
        if wanted > len(found):
            what = "the trial" if job.kind == "Job" else f"{job.kind} {job.name}"
            has = f"{what} needs {wanted} GPU{'' if wanted == 1 else 's'} and this machine has {len(found) or 'none'}"
            words = found.complaint if isinstance(found, Found) else ""
            yield has + (f" that can be used; nvidia-smi: {words}" if words else ""), "--device cpu runs it without"
