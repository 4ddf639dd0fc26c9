"""What a search will come to before it runs: how large its space is, how often points repeat, what each trial is given."""

from __future__ import annotations

import math
import os

from katuna.launch.devices import cuda_devices, usable_cpus
from katuna.launch.files import forecast, in_words
from katuna.run import Plan
from katuna.search.draws import written_seed
from katuna.search.given import SCHEDULED
from katuna.spec.job import Job, job_from_manifest
from katuna.spec.model import Experiment, Manifest
from katuna.spec.remark import listed


def outlook(planned: Plan, rendered: Manifest | None) -> dict[str, str]:
    """Facts for a person, by their names; `rendered` is the first trial's job, None where there is none."""
    experiment, options = planned.experiment, planned.options
    facts = {"seed": _seed(planned), "space": space(experiment), "trials": budget(experiment)}
    if experiment.max_trials is not None and math.isfinite(experiment.space_size):
        facts["duplicates"] = duplicates(experiment, experiment.max_trials)
    if rendered is not None:
        primary, maps = experiment.template.primary_container, planned.loaded.config_maps
        job = job_from_manifest(rendered, primary, maps, experiment.name, options.local.pass_env)
        facts["each trial"] = share(job, options.local.device, experiment.parallel_trials)
        facts["files"] = in_words(*forecast(options.local), "work/ in the trial's folder")
        facts["this machine"] = machine(job, options.local.device, experiment.parallel_trials)
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


def share(job: Job, device: str, parallel: int) -> str:
    """GPUs and CPU threads of one trial, on this machine, in this moment's terms."""
    containers = [replica.container for replica in job.replicas]
    gpus = _gpus(job, device)
    own = dict(containers[0].env).get("OMP_NUM_THREADS")
    threads = own if own is not None else str(max(1, usable_cpus() // max(1, parallel)))
    return f"{gpus or 'no'} GPU{'s' if gpus > 1 else ''}, {threads} CPU thread{'s' if threads != '1' else ''}"


def _gpus(job: Job, device: str) -> int:
    asked = sum(replica.container.gpus for replica in job.replicas)
    return {"job": asked, "cpu": 0, "cuda": max(1, asked)}[device]


def machine(job: Job, device: str, parallel: int) -> str:
    """What this machine has, and how many trials can really run at once. GPUs are looked for where trials want some."""
    cpus, gpus = usable_cpus(), _gpus(job, device)
    devices = len(cuda_devices(os.environ)) if gpus else 0
    has = (f"{devices or 'no'} GPU{'s' if devices > 1 else ''}, " if gpus else "") + f"{cpus} CPU{'s' if cpus > 1 else ''}"
    most = min(parallel, devices // gpus) if gpus else parallel
    return f"{has}: {most or 'no'} trial{'s' if most > 1 else ''} at once"
