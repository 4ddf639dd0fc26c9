"""What a search will come to before it runs: how large its space is, how often points repeat, what each trial is given."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from katuna.launch.devices import cuda_devices, usable_cpus
from katuna.launch.local_options import LocalOptions
from katuna.launch.plan import gpus, plan, reach, trial_cpus, trial_place
from katuna.launch.workspace import forecast, in_words
from katuna.manifest.build import job_from_manifest
from katuna.manifest.diagnostic import listed
from katuna.manifest.experiment import Experiment, Manifest
from katuna.manifest.job import MASTER_PORT, Job
from katuna.runs.plan import Plan
from katuna.search.draws import written_seed
from katuna.search.known_points import SCHEDULED


def outlook(planned: Plan, rendered: Manifest | None) -> dict[str, str]:
    """Facts about a search, by name, for a person. `rendered` is the job of the first trial, or None."""
    experiment, options = planned.experiment, planned.options
    facts = {"seed": _seed(planned), "space": space(experiment), "trials": budget(experiment)}
    if experiment.max_trials is not None and math.isfinite(experiment.space_size):
        facts["duplicates"] = duplicates(experiment, experiment.max_trials)
    if rendered is not None:
        primary, maps = experiment.template.primary_container, planned.loaded.references
        job = job_from_manifest(rendered, primary, maps, experiment.name, options.local.pass_env)
        facts["each trial"] = share(job, options.local, experiment.parallel_trials)
        facts["files"] = in_words(*forecast(options.local), "work/ in the trial's folder")
        if said := reach(job, options.local, os.environ):
            facts["network"] = said
        facts["this machine"] = machine(gpus(job, options.local), experiment.parallel_trials, cuda_devices(os.environ))
    if planned.known:
        facts["known"] = f"{len(planned.known)} result{'s' if len(planned.known) > 1 else ''} to begin with"
    if options.overrides:
        facts["not the file"] = " ".join(options.overrides)
    return facts


def _seed(planned: Plan) -> str:
    """A seed that the file does not write is another one next time."""
    seed, written = planned.seed, written_seed(planned.experiment)
    return str(seed) if seed == (planned.loaded.seed if written is None else written) else f"{seed} (--seed {seed} keeps it)"


def shortfall(planned: Plan, shown: int, asked: int) -> str:
    """Why a dry run shows fewer trials than it was asked for; "" where it does not."""
    most, algorithm = planned.experiment.max_trials, planned.experiment.algorithm
    if shown >= asked:
        return ""
    if most is not None and shown >= most:
        return f"no more trials: maxTrialCount is {most}"
    if algorithm in SCHEDULED:
        return f"trial {shown} and later: {algorithm} needs the results of those before it first"
    return "no more trials: that is every point of the space"


def space(experiment: Experiment) -> str:
    """The number of different points, or which parameters have no end of values."""
    if math.isfinite(experiment.space_size):
        return f"{int(experiment.space_size)} points"
    endless = [parameter.name for parameter in experiment.parameters if math.isinf(parameter.size)]
    return f"continuous ({listed(endless)})"


def budget(experiment: Experiment) -> str:
    trials = "no limit" if experiment.max_trials is None else str(experiment.max_trials)
    failed = "" if experiment.max_failed is None else f", until {experiment.max_failed} have failed"
    return f"{trials}, {experiment.parallel_trials} at a time{failed}"


def duplicates(experiment: Experiment, trials: int) -> str:
    """How many of the trials repeat an earlier point."""
    if experiment.algorithm in ("grid", "bruteforce"):
        return f"0: {experiment.algorithm} has each point once"
    expected = expected_duplicates(int(experiment.space_size), trials)
    said = f"about {expected:.2g} of {trials} trials when drawn evenly at random"
    return said if experiment.algorithm == "random" else f"{said}; {experiment.algorithm} does not draw evenly"


def expected_duplicates(points: int, trials: int) -> float:
    """n - N(1 - (1 - 1/N)^n) for n draws with replacement from N points, without the rounding of that formula for large N."""
    if points == 1:
        return float(trials - 1) if trials else 0.0
    return trials + points * math.expm1(trials * math.log1p(-1 / points))


def share(job: Job, options: LocalOptions, parallel: int) -> str:
    """GPUs and CPU threads of one trial on this machine, as its processes will be told."""
    place = trial_place(Path("TRIAL"), options, os.environ, {}, trial_cpus(parallel))
    first = next(each for each in plan(job, place, (), MASTER_PORT) if each.is_main)
    threads, each_gpus = first.told.env["OMP_NUM_THREADS"], gpus(job, options)
    of_each = " in each process" if len(job.replicas) > 1 else ""
    return f"{each_gpus or 'no'} GPU{'s' if each_gpus > 1 else ''}, {threads} CPU thread{'s' if threads != '1' else ''}{of_each}"


def machine(wanted: int, parallel: int, devices: Sequence[str]) -> str:
    """What this machine has, and how many trials that want so many GPUs can really run at once."""
    cpus = usable_cpus()
    found = f"{len(devices) or 'no'} GPU{'s' if len(devices) > 1 else ''}, " if wanted else ""
    has = f"{found}{cpus} CPU{'s' if cpus > 1 else ''}"
    most = min(parallel, len(devices) // wanted) if wanted else parallel
    return f"{has}: {most or 'no'} trial{'s' if most > 1 else ''} at once"
