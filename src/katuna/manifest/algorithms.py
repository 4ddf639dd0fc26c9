"""Katib's algorithms: the settings that each takes, the spaces that it cannot search, and where its results are not what a file says.

The facts are those of katib.md 3.2 and 13. To add an algorithm: an entry in ALGORITHMS, and its suggester in search/suggest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from katuna.errors import KATIB, KATUNA
from katuna.manifest.diagnostic import Path, Remark, did_you_mean, listed, shown, unlike_katib
from katuna.manifest.experiment import Parameter
from katuna.manifest.nas import DARTS_SETTINGS, ENAS_SETTINGS, darts_rule, enas_rule, nas_unused
from katuna.manifest.settings import Check, anything, check_settings, one_of, real, setting_path, settings_of, whole

__all__ = [
    "ALGORITHMS",
    "EARLY_STOPPING",
    "GO_SERVICES",
    "KATIB_ALGORITHMS",
    "Check",
    "check_algorithm_name",
    "check_settings",
    "is_go_number",
    "real",
    "whole",
]

Spec = Mapping[str, Any]
"""`spec` of a defaulted, well-typed Experiment."""

SpaceRule = Callable[[Sequence[Parameter], Spec], Iterator[Remark]]
"""(parameters that values can be drawn from, spec) to remarks whose paths begin at `spec`."""

PARAMETERS: Path = ("spec", "parameters")

GO_SERVICES = ("cmaes", "sobol")
"""Served by goptuna; the others by Python, which takes blanks around a number and `_` in it."""

_NUMBER = real(-math.inf)
_GO_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z")


def is_go_number(text: str) -> bool:
    """Whether Go reads what Python reads as a number."""
    return bool(_GO_NUMBER.match(text))


def _is_zero(text: str) -> bool:
    return not whole(0, 0)(text)


def _space(index: int, *field: str) -> Path:
    return (*PARAMETERS, index, "feasibleSpace", *field)


def _never_starts(path: Path, why: str, hint: str = "") -> Remark:
    return Remark(path, f"{why}: Katib accepts it and no trial ever starts", hint, on=KATIB, code="never-starts")


def _only_values(owner: str, parameters: Sequence[Parameter], *, steps: bool) -> Iterator[Remark]:
    """`owner` draws evenly between min and max on Katib, whatever the distribution and, without `steps`, the step say."""
    for index, parameter in enumerate(parameters):
        if not parameter.is_numeric:
            continue
        if parameter.distribution != "uniform":
            message = f"Katib's {owner} ignores the distribution {parameter.distribution} and draws evenly"
            yield Remark(_space(index, "distribution"), message, "", "warning", KATIB, code="distribution-ignored")
        if not steps and parameter.step and not (parameter.type == "int" and float(parameter.step) == 1):
            message = f"Katib's {owner} ignores the step and draws values between"
            yield Remark(_space(index, "step"), message, "", "warning", KATIB, code="step-ignored")


def random_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    """hyperopt (random and tpe) draws from no range of one value, and counts steps from 0."""
    owner = spec["algorithm"]["algorithmName"]
    for index, parameter in enumerate(parameters):
        if not parameter.is_numeric:
            continue
        low, high = parameter.bounds
        if low == high:
            yield _never_starts(_space(index), "min equals max", "write the value into the template")
        elif parameter.exact_step is not None and parameter.distribution == "uniform":
            step = float(parameter.exact_step)
            first, last = round(low / step) * step, round(high / step) * step
            if not math.isclose(first, low, rel_tol=1e-9, abs_tol=step * 1e-9) or last > high + step * 1e-9:
                message = f"Katib's {owner} counts steps from 0, not from min: it tries {first:g} to {last:g}"
                hint = "let min and max be multiples of the step"
                yield Remark(_space(index, "step"), message, hint, "warning", KATIB, code="steps-from-zero")


def grid_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    """A grid needs a step for every double, and a budget within its size."""
    for index, parameter in enumerate(parameters):
        if parameter.type == "double" and not parameter.step:
            remark = Remark(
                _space(index, "step"), "grid needs a step for a double", "add one, or use random or tpe", code="grid-needs-step"
            )
            yield remark if math.isinf(parameter.size) else replace(remark, on=KATIB)
        if parameter.is_numeric and parameter.distribution in ("normal", "logNormal"):
            message = f"grid knows no {parameter.distribution} distribution"
            yield Remark(_space(index, "distribution"), message, "leave it out: a grid is even", code="unsupported-distribution")
        elif katib_grid_size(parameter) < parameter.size < math.inf:
            message = f"Katib's grid adds its steps up in floating point and loses {parameter.on_grid(int(parameter.size) - 1)}"
            yield Remark(_space(index, "max"), message, "write a max half a step higher", "warning", KATIB, code="grid-loses-end")
    yield from _grid_budget(parameters, spec.get("maxTrialCount"))


def _grid_budget(parameters: Sequence[Parameter], most: int | None) -> Iterator[Remark]:
    here = math.prod(parameter.size for parameter in parameters)
    katibs = math.prod(katib_grid_size(parameter) for parameter in parameters)
    path: Path = ("spec", "maxTrialCount")
    if most is None:
        message = "Katib does not notice that a grid is used up: without maxTrialCount the Experiment never ends"
        hint = f"maxTrialCount: {int(katibs)}" if katibs < 10**9 else "write maxTrialCount"
        yield Remark(path, message, hint, "warning", KATIB, code="endless-grid")
    elif here < most <= katibs:
        message = f"{most} is more than the {int(here)} different combinations: here the search ends after them"
        yield Remark(path, message, f"write {int(here)} or less", "warning", KATUNA, code="grid-repeats")
    elif most > here:
        message = f"{most} is more than the {int(here)} combinations of the grid"
        yield Remark(path, message, f"write {int(here)} or less", code="grid-too-small")
    elif most > katibs:
        message = f"{most} is more than the {int(katibs)} combinations that Katib counts"
        yield Remark(path, message, f"write {int(katibs)} or less", on=KATIB, code="grid-too-small")


def katib_grid_size(parameter: Parameter) -> float:
    """How many values Katib's grid has: of a list all, repeated ones too; those of a double are added up as numpy's arange adds."""
    if not parameter.is_numeric:
        return len(parameter.choices)
    if parameter.type != "double" or not parameter.step:
        return parameter.size
    low, high = parameter.bounds
    step = float(parameter.step)
    count = math.ceil((high + step - low) / step)
    return count - 1 if low + (count - 1) * ((low + step) - low) > high else count


def multivariate_tpe_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    """Optuna 3 as Katib calls it knows neither bell-shaped distributions nor steps on a log scale."""
    for index, parameter in enumerate(parameters):
        if not parameter.is_numeric:
            continue
        if parameter.distribution in ("normal", "logNormal"):
            yield _never_starts(
                _space(index, "distribution"),
                f"multivariate-tpe knows no {parameter.distribution} distribution",
                "use random or tpe",
            )
        elif parameter.distribution == "logUniform" and parameter.exact_step not in (None, 1):
            message = "Katib's multivariate-tpe ignores the step of a logUniform parameter"
            yield Remark(_space(index, "step"), message, "", "warning", KATIB, code="step-ignored")
        elif parameter.distribution == "logUniform" and parameter.type == "double" and parameter.bounds[0] < 1e-10:
            message = f"Katib's multivariate-tpe tries nothing below 1e-10, and min is {parameter.minimum}"
            yield Remark(_space(index, "min"), message, "", "warning", KATIB, code="min-lifted")
    if _is_zero(settings_of(spec).get("n_ei_candidates", "")):
        remark = Remark(setting_path(spec, "n_ei_candidates"), "n_ei_candidates must be at least 1, not 0", code="bad-setting")
        yield from unlike_katib(remark, "gives no trial after the first random ones")


def bayesian_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    """skopt as Katib calls it: every double on a log scale; no range of one value."""
    for index, parameter in enumerate(parameters):
        if not parameter.is_numeric:
            continue
        low, high = parameter.bounds
        if low == high:
            yield _never_starts(_space(index), "min equals max", "write the value into the template")
        elif parameter.type == "double" and low <= 0:
            yield _never_starts(
                _space(index, "min"), f"bayesianoptimization draws doubles on a log scale, and min is {parameter.minimum}"
            )
    ints = [each if each.type == "int" else replace(each, distribution="uniform") for each in parameters]
    yield from _only_values("bayesianoptimization", ints, steps=False)
    yield from _skopt_settings(spec)


def _skopt_settings(spec: Spec) -> Iterator[Remark]:
    settings = settings_of(spec)
    if _is_zero(settings.get("n_initial_points", "")):
        yield _never_starts(setting_path(spec, "n_initial_points"), "n_initial_points is 0", "write 1 or more")
    if settings.get("acq_optimizer") == "lbfgs" and settings.get("base_estimator", "GP") != "GP":
        why = f"{settings['base_estimator']} has no gradients for acq_optimizer lbfgs"
        yield _never_starts(setting_path(spec, "acq_optimizer"), why, "sampling, or base_estimator GP")
    if settings.get("acq_func") in ("EIps", "PIps"):
        message = (
            f"{settings['acq_func']} needs the times of trials, which Katib never gives: nothing comes after the first results"
        )
        yield Remark(setting_path(spec, "acq_func"), message, "gp_hedge or EI", "warning", KATIB, code="stalls")
    for name in ("base_estimator", "acq_func", "acq_optimizer"):
        if name in settings:
            message = f"{name} is not applied here: a Gaussian process with expected improvement searches"
            yield Remark(setting_path(spec, name), message, "", "note", KATUNA, code="setting-not-applied")


LEAST_SIGMA, MOST_SIGMA = 1e-9, 1.0
"""Between these shares of the range cmaes searches: below them all trials are the same point, above them all at the borders."""


def sigma_share(sigma: float, parameters: Sequence[Parameter]) -> float:
    """Katib's `sigma`, in units of the narrowest parameter that can vary, as a share of its range."""
    ranges = [high - low for low, high in (each.bounds for each in parameters if each.is_numeric and each.size > 1)]
    narrowest = min(ranges, default=1.0)
    return sigma / narrowest if narrowest > 0 else math.inf


def _sigma_remarks(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    sigma = settings_of(spec).get("sigma", "")
    if _NUMBER(sigma):
        return
    path, share = setting_path(spec, "sigma"), sigma_share(float(sigma), parameters)
    if float(sigma) <= 0:
        message = f"sigma has no effect unless it is greater than 0, and it is {shown(sigma)}"
        yield Remark(path, message, "", "warning", code="setting-ignored")
    elif not LEAST_SIGMA <= share <= MOST_SIGMA:
        near = LEAST_SIGMA if share < LEAST_SIGMA else MOST_SIGMA
        message = f"sigma {sigma} is {share:g} of the narrowest parameter's range, and is taken here as {near:g} of it"
        yield Remark(path, message, "a sixth of the range is usual", "warning", KATUNA, code="sigma-out-of-range")


def cmaes_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    """goptuna: two numbers or more, on a linear scale, and downhill whatever the objective says."""
    numbers = [parameter for parameter in parameters if parameter.is_numeric]
    if len(numbers) < 2:
        yield Remark(
            PARAMETERS,
            f"cmaes needs two int or double parameters or more, not {len(numbers)}",
            "use tpe",
            code="too-few-parameters",
        )
    elif sum(parameter.size > 1 for parameter in numbers) < 2:
        message = "cmaes needs two int or double parameters or more that can vary"
        yield Remark(PARAMETERS, message, "use tpe", on=KATUNA, code="too-few-parameters")
    if (spec.get("objective") or {}).get("type") == "maximize":
        message = "Katib's cmaes minimizes whatever the objective says: it moves away from the best values"
        hint = "print the negative and minimize, or use another algorithm"
        yield Remark(("spec", "objective", "type"), message, hint, "warning", KATIB, code="cmaes-minimizes")
    yield from _only_values("cmaes", parameters, steps=True)
    for index, parameter in enumerate(parameters):
        if parameter.type == "double" and parameter.step and parameter.distribution == "uniform":
            low, high = parameter.bounds
            places = (high - low) / float(parameter.step)
            if places - math.floor(places + 1e-9) >= 0.5:
                message = f"the range is no multiple of the step: Katib's cmaes goes beyond max, {parameter.maximum}"
                yield Remark(_space(index, "step"), message, "", "warning", KATIB, code="beyond-max")
    for name in ("random_state", "sigma"):
        text = settings_of(spec).get(name, "")
        if not ALGORITHMS["cmaes"].settings[name](text) and not is_go_number(text):
            why = f"Katib's cmaes reads numbers without blanks and '_', in the digits 0 to 9: not {shown(text)}"
            yield _never_starts(setting_path(spec, name), why)
    yield from _sigma_remarks(parameters, spec)


def sobol_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:  # noqa: ARG001
    """goptuna: even between min and max, and of whole numbers and steps all but the last."""
    yield from _only_values("sobol", parameters, steps=True)
    for index, parameter in enumerate(parameters):
        if parameter.type == "int" and parameter.size > 1:
            message = f"Katib's sobol never tries the greatest value, {parameter.on_grid(int(parameter.size) - 1)}"
            hint = "parameterType discrete with a list"
            yield Remark(_space(index, "max"), message, hint, "warning", KATIB, code="sobol-loses-max")


def hyperband_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    settings = settings_of(spec)
    if "r_l" not in settings or HYPERBAND["r_l"](settings["r_l"]) or HYPERBAND["eta"](settings.get("eta", "3")):
        return
    most = float(settings["r_l"])
    yield from _hyperband_budget(most, settings.get("eta", "3"), spec)
    yield from _only_values("hyperband", parameters, steps=False)
    for index, parameter in enumerate(parameters):
        whole_numbers = all(not whole(-(2**63))(choice) for choice in parameter.choices)
        if parameter.type == "discrete" and not whole_numbers:
            yield _never_starts(
                _space(index, "list"), "hyperband reads discrete values as whole numbers", "parameterType: categorical"
            )
    if "resource_name" not in settings:
        return
    path = setting_path(spec, "resource_name")
    resource = next((each for each in parameters if each.name == settings["resource_name"]), None)
    if resource is None:
        meant = did_you_mean(settings["resource_name"], [each.name for each in parameters])
        message = f"resource_name must be a parameter, not {shown(settings['resource_name'])}"
        yield Remark(path, message, f"did you mean {meant}?" if meant else "", code="unknown-resource")
    elif not resource.is_numeric and any(_NUMBER(choice) for choice in resource.choices):
        remark = Remark(path, f"the resource must be a number, and {resource.name} is a list of words", code="bad-resource")
        yield from unlike_katib(remark, "gives trials numbers for it")
    elif resource.is_numeric and not resource.bounds[0] <= most <= resource.bounds[1]:
        message = f"r_l, {most:g}, is no value of {resource.name}, from {resource.minimum} to {resource.maximum}"
        hint = "here the nearest value is taken, on Katib r_l itself"
        yield Remark(setting_path(spec, "r_l"), message, hint, "warning", code="resource-outside-space")


def _hyperband_budget(most: float, eta_text: str, spec: Spec) -> Iterator[Remark]:
    """The first rung has to fit into one batch on Katib, and no other ever comes."""
    if float(eta_text) <= 0:
        yield Remark(setting_path(spec, "eta"), f"eta {eta_text} is taken as 3", "write 3", "warning", code="setting-ignored")
    eta = int(float(eta_text)) if float(eta_text) > 0 else 3
    first = math.ceil(eta ** int(math.log(most) / math.log(eta)))
    parallel, budget = spec.get("parallelTrialCount"), spec.get("maxTrialCount")
    if parallel is not None and parallel < first:
        message = f"Katib's hyperband needs at least the {first} trials of its first rung at a time, not {parallel}"
        yield Remark(("spec", "parallelTrialCount"), message, f"parallelTrialCount: {first}", on=KATIB, code="hyperband-parallel")
    elif budget is None or (parallel is not None and budget > parallel):
        message = f"Katib's hyperband gets no further than its first rung: nothing comes after {parallel} trials"
        hint = f"maxTrialCount: {parallel}, or run it here"
        yield Remark(("spec", "maxTrialCount"), message, hint, "warning", KATIB, code="hyperband-second-rung")


def pbt_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    for index, parameter in enumerate(parameters):
        if parameter.type == "double" and not parameter.step:
            yield _never_starts(_space(index, "step"), "pbt needs a step for a double", "add one")
        if parameter.type == "int":
            message = "Katib's pbt fails for good once it moves an int beyond its bounds"
            yield Remark(_space(index), message, "parameterType discrete with a list", "warning", KATIB, code="pbt-int")
    yield from _only_values("pbt", parameters, steps=True)
    if spec.get("resumePolicy") != "FromVolume":
        message = "pbt on Katib keeps its checkpoints in a volume, which only resumePolicy FromVolume gives"
        yield Remark(("spec", "resumePolicy"), message, "resumePolicy: FromVolume", "warning", KATIB, code="pbt-needs-volume")
    if "resample_probability" in settings_of(spec):
        message = "Katib's pbt refuses resample_probability, whatever its value"
        yield Remark(setting_path(spec, "resample_probability"), message, "leave it out", on=KATIB, code="setting-refused")


@dataclass(frozen=True)
class Algorithm:
    """`lenient`: Katib's service ignores settings that it does not know. `ignored_by_katib` are settings that only a run here heeds.
    `here`: it runs on this machine."""

    settings: Mapping[str, Check]
    space: SpaceRule
    required: tuple[str, ...] = ()
    lenient: bool = False
    ignored_by_katib: tuple[str, ...] = ()
    here: bool = True

    def check(self, name: str, parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
        """Everything about `spec.algorithm.algorithmSettings` and the space that this algorithm, called `name`, is to search."""
        yield from check_settings(
            spec["algorithm"].get("algorithmSettings", []),
            self.settings,
            name,
            ("spec", "algorithm", "algorithmSettings"),
            required=self.required,
            lenient=self.lenient,
            ignored_by_katib=self.ignored_by_katib,
        )
        if self.here:
            yield from nas_unused(name, spec)
        if parameters or not self.here:
            yield from self.space(parameters, spec)


SEED = whole(0, 2**32 - 1)
_RANDOM_STATE = {"random_state": SEED}
_GO_SEED = whole(-(2**63), 2**63 - 1)


def _eta(text: str) -> str:
    """hyperband cuts eta to a whole number to check it and then calculates with the text; 0 and less stand for 3."""
    problem = _NUMBER(text)
    return problem or ("must be 2 or more" if 0 < float(text) < 2 else "")


HYPERBAND: Mapping[str, Check] = {
    "r_l": real(0),
    "resource_name": anything,
    "eta": _eta,
    **_RANDOM_STATE,
}
_SKOPT: Mapping[str, Check] = {
    "base_estimator": one_of("GP", "RF", "ET", "GBRT"),
    "n_initial_points": whole(0),
    "acq_func": one_of("gp_hedge", "LCB", "EI", "PI", "EIps", "PIps"),
    "acq_optimizer": one_of("auto", "sampling", "lbfgs"),
    **_RANDOM_STATE,
}
_PBT: Mapping[str, Check] = {
    "suggestion_trial_dir": anything,
    "n_population": whole(5),
    "truncation_threshold": real(0, 1, with_least=True, with_most=True),
    "resample_probability": real(0, 1, with_least=True, with_most=True),
    **_RANDOM_STATE,
}
_HYPEROPT: Mapping[str, Check] = {"gamma": real(0, 1), "prior_weight": real(0), "n_EI_candidates": whole(1), **_RANDOM_STATE}
_MULTIVARIATE: Mapping[str, Check] = {"n_startup_trials": whole(0), "n_ei_candidates": whole(0), **_RANDOM_STATE}
_GOPTUNA: Mapping[str, Check] = {
    "random_state": _GO_SEED,
    "sigma": _NUMBER,
    "restart_strategy": one_of("none", "ipop", "bipop"),
}

ALGORITHMS: Mapping[str, Algorithm] = {
    "random": Algorithm(_RANDOM_STATE, random_rule),
    "grid": Algorithm(_RANDOM_STATE, grid_rule),
    "tpe": Algorithm(_HYPEROPT, random_rule),
    "multivariate-tpe": Algorithm(_MULTIVARIATE, multivariate_tpe_rule),
    "bayesianoptimization": Algorithm(_SKOPT, bayesian_rule),
    "cmaes": Algorithm(_GOPTUNA, cmaes_rule, lenient=True),
    "sobol": Algorithm({}, sobol_rule, lenient=True),
    "hyperband": Algorithm(HYPERBAND, hyperband_rule, ("r_l", "resource_name"), lenient=True, ignored_by_katib=("random_state",)),
    "pbt": Algorithm(
        _PBT,
        pbt_rule,
        ("suggestion_trial_dir", "n_population", "truncation_threshold"),
        lenient=True,
        ignored_by_katib=("random_state",),
    ),
    "enas": Algorithm(ENAS_SETTINGS, enas_rule, here=False),
    "darts": Algorithm(DARTS_SETTINGS, darts_rule, lenient=True, here=False),
}
"""What a default installation of Katib serves."""

KATIB_ALGORITHMS = tuple(ALGORITHMS)
HERE = tuple(name for name, algorithm in ALGORITHMS.items() if algorithm.here)

MEDIAN_STOP: Mapping[str, Check] = {"min_trials_required": whole(1), "start_step": whole(1)}
EARLY_STOPPING: Mapping[str, Mapping[str, Check]] = {"medianstop": MEDIAN_STOP}


def check_algorithm_name(name: str, path: Path) -> Iterator[Remark]:
    """An algorithm that Katib has but katuna has not is refused for a run of katuna's only."""
    if not name:
        yield Remark(path, "must be specified", f"algorithms: {listed(ALGORITHMS)}", code="missing-field")
    elif name not in ALGORITHMS:
        meant = did_you_mean(name, ALGORITHMS)
        known = f"algorithms: {listed(ALGORITHMS)}"
        hint = f"did you mean {meant}? {known}" if meant else known
        yield Remark(path, f"there is no algorithm {shown(name)}", hint, code="unknown-algorithm")
    elif not ALGORITHMS[name].here:
        message = f"{name} searches neural architectures, which katuna leaves to Katib on a cluster"
        yield Remark(path, message, f"here: {listed(HERE)}", on=KATUNA, code="algorithm-not-here")
