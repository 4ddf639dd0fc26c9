"""What a search will come to before it runs: how large its space is, how often points repeat, what each trial is given."""

from __future__ import annotations

import math

from katuna.launch.devices import usable_cpus
from katuna.run import Plan
from katuna.spec.job import Job, job_from_manifest
from katuna.spec.model import Experiment, Manifest
from katuna.spec.remark import listed


def outlook(planned: Plan, rendered: Manifest | None) -> dict[str, str]:
    """Facts for a person, by their names; `rendered` is the first trial's job, None where there is none."""
    experiment, options = planned.experiment, planned.options
    facts = {"space": space(experiment), "trials": budget(experiment)}
    if experiment.max_trials is not None and math.isfinite(experiment.space_size):
        facts["duplicates"] = duplicates(experiment, experiment.max_trials)
    if rendered is not None:
        primary, maps = experiment.template.primary_container, planned.loaded.config_maps
        job = job_from_manifest(rendered, primary, maps, experiment.name, options.local.pass_env)
        facts["each trial"] = share(job, options.local.device, experiment.parallel_trials)
    if planned.known:
        facts["known"] = f"{len(planned.known)} results to begin with"
    if options.overrides:
        facts["not the file"] = " ".join(options.overrides)
    return facts


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
    if experiment.algorithm == "grid":
        return "0: a grid has each point once"
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
    asked = sum(container.gpus for container in containers)
    gpus = {"job": asked, "cpu": 0, "cuda": max(1, asked)}[device]
    own = dict(containers[0].env).get("OMP_NUM_THREADS")
    threads = own if own is not None else str(max(1, usable_cpus() // max(1, parallel)))
    return f"{gpus or 'no'} GPU{'s' if gpus > 1 else ''}, {threads} CPU thread{'s' if threads != '1' else ''}"
