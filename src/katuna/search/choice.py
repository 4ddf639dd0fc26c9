"""`--algorithm` and `--setting`: another algorithm for a run here than the file's, with its settings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from katuna.errors import InputRefused
from katuna.manifest.algorithms import ALGORITHMS, HERE, Algorithm
from katuna.manifest.diagnostic import Remark, hint_of, listed, shown
from katuna.manifest.experiment import Experiment, Parameter
from katuna.manifest.settings import Check
from katuna.metric_line import Report
from katuna.search.contracts import NoSuggestion
from katuna.search.samplers import RANGES, SAMPLERS, coerced, constructor_parameters
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
    known = _algorithm(name)
    for seed in ("seed", "random_state"):
        if seed in settings and seed not in known.settings:
            raise InputRefused(f"algorithm {name} has no setting {seed!r}; the seed is set by --seed")
    own = experiment.settings if name == experiment.algorithm else {}
    merged = MappingProxyType({setting: text for setting, text in own.items() if setting in known.settings} | dict(settings))
    changed = replace(experiment, algorithm=name, settings=merged, manifest=_with(experiment.manifest, name, merged))
    for remark in known.check(name, changed.parameters, changed.manifest["spec"]):
        if remark.level == "error" and "local" in remark.on:
            raise InputRefused(f"algorithm {name}: {remark.message}" + (f" ({remark.hint})" if remark.hint else ""))
    if settings and (problem := _failure(changed)):
        raise InputRefused(f"algorithm {name} cannot search this space with these settings: {problem}")
    return changed


def check_name(name: str) -> None:
    """Raises InputRefused for what is no algorithm here."""
    if name not in NAMES:
        hint = f"{hint_of(name, NAMES)} algorithms: {listed(NAMES)}".strip()
        raise InputRefused(f"there is no algorithm {shown(name)} here; {hint}")


def _algorithm(name: str) -> Algorithm:
    """The algorithm with all that `--setting` may set; a setting that it does not know is an error."""
    optunas = {setting: _check_of(setting, annotation) for setting, annotation in constructor_parameters(name).items()}
    if name in ALGORITHMS:
        return replace(ALGORITHMS[name], settings={**ALGORITHMS[name].settings, **optunas}, lenient=False)
    return Algorithm(optunas, _countable if SAMPLERS[name].finite else None)


def _check_of(setting: str, annotation: str) -> Check:
    def check(text: str) -> str:
        try:
            coerced(text, annotation)
        except ValueError as error:
            return str(error)
        return RANGES[setting](text) if setting in RANGES else ""

    return check


def _countable(parameters: Sequence[Parameter], spec: Mapping[str, Any]) -> Iterator[Remark]:  # noqa: ARG001
    endless = [parameter.name for parameter in parameters if math.isinf(parameter.size)]
    if endless:
        yield Remark(("spec", "parameters"), f"a step is needed for every double: {listed(endless)}", code="grid-needs-step")


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
