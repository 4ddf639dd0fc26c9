"""The algorithms that run here, each with the settings that Katib's service of that name takes (katib.md 3.2).

To add one: an entry in ALGORITHMS here, and its sampler in search/suggest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from katuna.errors import KATIB, LOCAL
from katuna.spec.model import Parameter
from katuna.spec.remark import Path, Remark, did_you_mean, listed, shown

Check = Callable[[str], str]
"""A setting's value text to what is wrong with it, "" for nothing."""

SpaceRule = Callable[[Sequence[Parameter], int | None], Iterator[Remark]]
"""(parameters, maxTrialCount) to remarks whose paths begin at `spec`."""

KATIB_ALGORITHMS = (
    *("random", "grid", "tpe", "multivariate-tpe", "bayesianoptimization", "cmaes", "sobol", "hyperband", "pbt", "enas", "darts"),
)
"""What a default installation of Katib serves."""

PARAMETERS: Path = ("spec", "parameters")


def whole(least: int, most: int | None = None) -> Check:
    def check(text: str) -> str:
        try:
            value = int(text)
        except ValueError:
            return "must be a whole number as text"
        if value < least or (most is not None and value > most):
            return f"must be at least {least}" if most is None else f"must be from {least} to {most}"
        return ""

    return check


def real(above: float, below: float = math.inf) -> Check:
    def check(text: str) -> str:
        try:
            value = float(text)
        except ValueError:
            return "must be a number as text"
        if not above < value < below:
            return f"must be greater than {above:g}" + ("" if below == math.inf else f" and less than {below:g}")
        return ""

    return check


def no_rule(parameters: Sequence[Parameter], max_trials: int | None) -> Iterator[Remark]:  # noqa: ARG001
    yield from ()


def grid_rule(parameters: Sequence[Parameter], max_trials: int | None) -> Iterator[Remark]:
    """A grid needs a step for every double, and a budget within its size."""
    for index, parameter in enumerate(parameters):
        path = (*PARAMETERS, index, "feasibleSpace")
        if parameter.type == "double" and not parameter.step and math.isinf(parameter.size):
            yield Remark((*path, "step"), "grid needs a step for a double", "add one, or use random or tpe")
        if parameter.is_numeric and parameter.distribution in ("normal", "logNormal"):
            yield Remark(
                (*path, "distribution"), f"grid knows no {parameter.distribution} distribution", "leave it out: a grid is even"
            )
    combinations = math.prod(parameter.size for parameter in parameters)
    if max_trials is not None and max_trials > combinations:
        message = f"{max_trials} is more than the {int(combinations)} combinations of the grid"
        yield Remark(("spec", "maxTrialCount"), message, f"write {int(combinations)} or less")


def random_rule(parameters: Sequence[Parameter], max_trials: int | None) -> Iterator[Remark]:  # noqa: ARG001
    """Katib's random and tpe cannot draw from a range of one value."""
    for index, parameter in enumerate(parameters):
        if parameter.is_numeric and parameter.bounds[0] == parameter.bounds[1]:
            message = "min equals max: runs here, but on Katib this algorithm never starts a trial"
            yield Remark((*PARAMETERS, index, "feasibleSpace"), message, "write the value into the template", "warning", KATIB)


@dataclass(frozen=True)
class Algorithm:
    settings: Mapping[str, Check]
    space: SpaceRule = no_rule


SEED = whole(0, 2**32 - 1)

ALGORITHMS: Mapping[str, Algorithm] = {
    "random": Algorithm({"random_state": SEED}, random_rule),
    "grid": Algorithm({"random_state": SEED}, grid_rule),
    "tpe": Algorithm(
        {"gamma": real(0, 1), "prior_weight": real(0), "n_EI_candidates": whole(1), "random_state": SEED},
        random_rule,
    ),
}

MEDIAN_STOP: Mapping[str, Check] = {"min_trials_required": whole(1), "start_step": whole(1)}
EARLY_STOPPING: Mapping[str, Mapping[str, Check]] = {"medianstop": MEDIAN_STOP}


def check_settings(
    settings: Sequence[Mapping[str, str]], checks: Mapping[str, Check], owner: str, path: Path
) -> Iterator[Remark]:
    """Names and values of `algorithmSettings` against what `owner` takes."""
    for index, setting in enumerate(settings):
        name, value = setting.get("name", ""), setting.get("value", "")
        if name not in checks:
            meant = did_you_mean(name, checks)
            hint = f"did you mean {meant}?" if meant else f"settings: {listed(checks)}"
            yield Remark((*path, index, "name"), f"{owner} has no setting {shown(name)}", hint)
            continue
        problem = checks[name](value)
        if problem:
            yield Remark((*path, index, "value"), f"{name} {problem}, not {shown(value)}")


def check_algorithm_name(name: str, path: Path) -> Iterator[Remark]:
    """An algorithm that Katib has but katuna has not is refused for a run here only."""
    if not name:
        yield Remark(path, "must be specified", f"algorithms here: {listed(ALGORITHMS)}")
    elif name not in ALGORITHMS:
        meant = did_you_mean(name, (*ALGORITHMS, *KATIB_ALGORITHMS))
        known = f"algorithms here: {listed(ALGORITHMS)}"
        if name in KATIB_ALGORITHMS:
            yield Remark(path, f"the algorithm {shown(name)} does not run here", known, on=LOCAL)
        else:
            yield Remark(path, f"there is no algorithm {shown(name)}", f"did you mean {meant}? {known}" if meant else known)
