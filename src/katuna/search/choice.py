"""`--algorithm` and `--setting`: another algorithm for a run here than the file's, with its settings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from katuna.errors import InputRefused
from katuna.manifest.algorithms import ALGORITHMS, HERE
from katuna.manifest.diagnostic import did_you_mean, listed, shown
from katuna.manifest.experiment import Experiment
from katuna.metric_line import Report
from katuna.search.contracts import NoSuggestion
from katuna.search.samplers import BEHIND, RANGES, SAMPLERS, coerced, complaint, constructor_parameters
from katuna.search.suggest import suggester_for
from katuna.search.trials import Summary, Trial, TrialState

NAMES = tuple(dict.fromkeys((*HERE, *SAMPLERS)))
"""What `--algorithm` takes: Katib's names first."""

TRIED = 6
FEW = {"n_startup_trials": str(TRIED - 1), "n_initial_points": str(TRIED - 1), "population_size": "2"}
"""Settings with which one trial of TRIED has a model behind it, or a generation before it."""


def with_algorithm(experiment: Experiment, algorithm: str | None, settings: Mapping[str, str]) -> Experiment:
    """The Experiment with this algorithm and these settings, in its manifest too.

    Without an algorithm, or with the file's own, the settings are added to the file's; another algorithm begins with none.
    A name of Katib's takes Katib's settings and what else the constructor of the sampler behind it takes; other names are of
    Optuna's samplers. Raises InputRefused for what is no algorithm, or no setting or value of it, or cannot search this space.
    """
    name = experiment.algorithm if algorithm is None else algorithm
    check_name(name)
    for setting, value in settings.items():
        _check(name, setting, value)
    kept = experiment.settings if name == experiment.algorithm else {}
    merged = MappingProxyType({**kept, **settings})
    changed = replace(experiment, algorithm=name, settings=merged, manifest=_with(experiment.manifest, name, merged))
    _check_space(changed)
    if settings and (problem := _failure(changed)):
        raise InputRefused(f"algorithm {name} cannot search this space with these settings: {problem}")
    return changed


def check_name(name: str) -> None:
    """Raises InputRefused for what is no algorithm here."""
    if name not in NAMES:
        raise InputRefused(f"there is no algorithm {shown(name)} here; {_meant(name, NAMES)}algorithms: {listed(NAMES)}")


def _check(name: str, setting: str, value: str) -> None:
    katibs = dict(ALGORITHMS[name].settings) if name in ALGORITHMS else {}
    optunas = constructor_parameters(name)
    if setting in katibs:
        problem = katibs[setting](value)
    elif setting in optunas:
        try:
            coerced(value, optunas[setting])
            problem = RANGES[setting](value) if setting in RANGES else ""
        except ValueError as error:
            problem = str(error)
    else:
        known = tuple(dict.fromkeys((*katibs, *optunas)))
        seed = "the seed is set by --seed; " if setting in ("seed", "random_state") else ""
        settings = f"settings: {listed(known)}" if known else "it takes none"
        raise InputRefused(f"algorithm {name} has no setting {shown(setting)}; {seed}{_meant(setting, known)}{settings}")
    if problem:
        raise InputRefused(f"algorithm {name}: {setting} {problem}, not {shown(value)}")


def _check_space(experiment: Experiment) -> None:
    """What is wrong with the algorithm, its settings together, and this space."""
    name = experiment.algorithm
    if name in ALGORITHMS:
        optunas = constructor_parameters(name)
        katibs = {
            key: text for key, text in experiment.settings.items() if key not in optunas or key in ALGORITHMS[name].settings
        }
        spec = {
            "objective": {"type": experiment.objective.type.value},
            "parallelTrialCount": experiment.parallel_trials,
            **({} if experiment.max_trials is None else {"maxTrialCount": experiment.max_trials}),
            "resumePolicy": experiment.resume_policy,
            **_with({}, name, katibs)["spec"],
        }
        for remark in ALGORITHMS[name].check(name, experiment.parameters, spec):
            if remark.level == "error" and "local" in remark.on:
                raise InputRefused(f"algorithm {name}: {remark.message}" + (f" ({remark.hint})" if remark.hint else ""))
    elif SAMPLERS[name].finite:
        endless = [parameter.name for parameter in experiment.parameters if math.isinf(parameter.size)]
        if endless:
            raise InputRefused(f"algorithm {name} needs a step for every double: {listed(endless)}")
    short = BEHIND.get(name, name)
    if short in SAMPLERS and (problem := complaint(short, experiment.settings)):
        raise InputRefused(f"algorithm {name}: {problem}")


def _failure(experiment: Experiment) -> str:
    """What the algorithm raises in its first trials beyond those at random, which are made few for it; "" for nothing."""
    optunas = constructor_parameters(experiment.algorithm)
    few = {key: text for key, text in FEW.items() if key in experiment.settings or key in optunas}
    objective = experiment.objective
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            suggester = suggester_for(replace(experiment, settings={**experiment.settings, **few}), 0)
            for number in range(TRIED):
                answer = suggester.ask(number)
                if isinstance(answer, NoSuggestion):
                    return ""
                summary = Summary().add(Report(objective.metric, str(number)))
                trial = Trial(number, "", answer.assignments, 0.0, TrialState.SUCCEEDED, summaries={objective.metric: summary})
                suggester.tell(trial)
    except Exception as error:  # noqa: BLE001  (what a sampler raises is its own affair, and none of it may come up trials later)
        return f"{type(error).__name__}: {error}"
    return ""


def _with(manifest: Mapping[str, Any], name: str, settings: Mapping[str, str]) -> Mapping[str, Any]:
    written = [{"name": key, "value": text} for key, text in settings.items()]
    algorithm = {"algorithmName": name} | ({"algorithmSettings": written} if written else {})
    return {**manifest, "spec": {**manifest.get("spec", {}), "algorithm": algorithm}}


def _meant(word: str, known: Iterable[str]) -> str:
    near = did_you_mean(word, known)
    return f"did you mean {near}? " if near else ""
