"""Katib's algorithms: the spaces that each cannot search, and where Katib does otherwise than a file says.

The facts are those of katib.md 3.2 and 13. A new algorithm needs its settings in manifest/settings, an entry in ALGORITHMS, and a
suggester in search/suggest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from katuna.errors import EVERYWHERE, KATIB, KATUNA
from katuna.manifest.diagnostic import Path, Remark, hint_of, listed, shown, unlike_katib
from katuna.manifest.experiment import Parameter
from katuna.manifest.settings import (
    DARTS,
    ENAS,
    GOPTUNA,
    HYPERBAND,
    HYPEROPT,
    MULTIVARIATE,
    NUMBER,
    PBT,
    RANDOM_STATE,
    SKOPT,
    Check,
    check_settings,
    setting_path,
    settings_of,
    whole,
)

Spec = Mapping[str, Any]
"""`spec` of a defaulted, well-typed Experiment."""

SpaceRule = Callable[[Sequence[Parameter], Spec], Iterator[Remark]]
"""From the parameters that values can be drawn from, and the spec, to remarks. Their paths begin at `spec`."""

PARAMETERS: Path = ("spec", "parameters")

GO_SERVICES = ("cmaes", "sobol")
"""Katib runs these by goptuna, which reads numbers as Go does. Python, which runs the others, allows blanks and `_` in a number."""

_GONUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z")


def is_go_number(text: str) -> bool:
    """Whether Go reads the text as a number. The text is a number to Python."""
    return bool(_GONUMBER.match(text))


def _is_zero(text: str) -> bool:
    return not whole(0, 0)(text)


def _space(index: int, *field: str) -> Path:
    return (*PARAMETERS, index, "feasibleSpace", *field)


def _numeric(parameters: Sequence[Parameter]) -> list[tuple[int, Parameter]]:
    return [(index, each) for index, each in enumerate(parameters) if each.is_numeric]


def _katib_warns(path: Path, message: str, hint: str = "", *, code: str) -> Remark:
    return Remark(path, message, hint, "warning", KATIB, code=code)


def _never_starts(path: Path, why: str, hint: str = "") -> Remark:
    return Remark(path, f"{why}: Katib accepts it and no trial ever starts", hint, on=KATIB, code="never-starts")


def _draws_evenly(owner: str, parameters: Sequence[Parameter], *, steps: bool) -> Iterator[Remark]:
    """Katib's `owner` draws evenly between min and max. It ignores the distribution and, without `steps`, the step."""
    for index, parameter in _numeric(parameters):
        if parameter.distribution != "uniform":
            message = f"Katib's {owner} ignores the distribution {parameter.distribution} and draws evenly"
            yield _katib_warns(_space(index, "distribution"), message, code="distribution-ignored")
        if not steps and parameter.step and not (parameter.type == "int" and float(parameter.step) == 1):
            message = f"Katib's {owner} ignores the step and draws values between"
            yield _katib_warns(_space(index, "step"), message, code="step-ignored")


def random_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    """hyperopt (random and tpe) cannot draw from a range of one value, and counts steps from 0."""
    owner = spec["algorithm"]["algorithmName"]
    for index, parameter in _numeric(parameters):
        low, high = parameter.bounds
        if low == high:
            yield _never_starts(_space(index), "min equals max", "write the value into the template")
        elif parameter.exact_step is not None and parameter.distribution == "uniform":
            step = float(parameter.exact_step)
            first, last = round(low / step) * step, round(high / step) * step
            if not math.isclose(first, low, rel_tol=1e-9, abs_tol=step * 1e-9) or last > high + step * 1e-9:
                message = f"Katib's {owner} counts steps from 0, not from min: it tries {first:g} to {last:g}"
                hint = "let min and max be multiples of the step"
                yield _katib_warns(_space(index, "step"), message, hint, code="steps-from-zero")


def grid_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    """A grid needs a step for every double, and a budget within its size."""
    for index, parameter in enumerate(parameters):
        if parameter.type == "double" and not parameter.step:
            message, hint = "grid needs a step for a double", "add one, or use random or tpe"
            on = EVERYWHERE if math.isinf(parameter.size) else KATIB
            yield Remark(_space(index, "step"), message, hint, on=on, code="grid-needs-step")
        if parameter.is_numeric and parameter.distribution in ("normal", "logNormal"):
            message = f"grid knows no {parameter.distribution} distribution"
            yield Remark(_space(index, "distribution"), message, "leave it out: a grid is even", code="unsupported-distribution")
    yield from _grid_budget(parameters, spec.get("maxTrialCount"))


def _grid_budget(parameters: Sequence[Parameter], most: int | None) -> Iterator[Remark]:
    here = math.prod(parameter.size for parameter in parameters)
    katibs = math.prod(len(parameter.choices) or parameter.size for parameter in parameters)
    path: Path = ("spec", "maxTrialCount")
    if most is None:
        message = "Katib does not notice that a grid is used up: without maxTrialCount the Experiment never ends"
        hint = f"maxTrialCount: {int(katibs)}" if katibs < 10**9 else "write maxTrialCount"
        yield _katib_warns(path, message, hint, code="endless-grid")
    elif here < most <= katibs:
        message = f"{most} is more than the {int(here)} different combinations: here the search ends after them"
        yield Remark(path, message, f"write {int(here)} or less", "warning", KATUNA, code="grid-repeats")
    elif most > here:
        message = f"{most} is more than the {int(here)} combinations of the grid"
        yield Remark(path, message, f"write {int(here)} or less", code="grid-too-small")


def multivariate_tpe_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    """Optuna 3 as Katib calls it knows neither bell-shaped distributions nor steps on a log scale."""
    for index, parameter in _numeric(parameters):
        if parameter.distribution in ("normal", "logNormal"):
            why = f"multivariate-tpe knows no {parameter.distribution} distribution"
            yield _never_starts(_space(index, "distribution"), why, "use random or tpe")
        elif parameter.distribution == "logUniform" and parameter.exact_step not in (None, 1):
            message = "Katib's multivariate-tpe ignores the step of a logUniform parameter"
            yield _katib_warns(_space(index, "step"), message, code="step-ignored")
    if _is_zero(settings_of(spec).get("n_ei_candidates", "")):
        remark = Remark(setting_path(spec, "n_ei_candidates"), "n_ei_candidates must be at least 1, not 0", code="bad-setting")
        yield from unlike_katib(remark, "gives no trial after the first random ones")


def bayesian_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    """skopt, as Katib calls it, draws every double on a log scale, and cannot draw from a range of one value."""
    for index, parameter in _numeric(parameters):
        low, high = parameter.bounds
        if low == high:
            yield _never_starts(_space(index), "min equals max", "write the value into the template")
        elif parameter.type == "double" and low <= 0:
            why = f"bayesianoptimization draws doubles on a log scale, and min is {parameter.minimum}"
            yield _never_starts(_space(index, "min"), why)
    ints = [each if each.type == "int" else replace(each, distribution="uniform") for each in parameters]
    yield from _draws_evenly("bayesianoptimization", ints, steps=False)
    yield from _skopt_settings(spec)


def _skopt_settings(spec: Spec) -> Iterator[Remark]:
    settings = settings_of(spec)
    if _is_zero(settings.get("n_initial_points", "")):
        yield _never_starts(setting_path(spec, "n_initial_points"), "n_initial_points is 0", "write 1 or more")
    if settings.get("acq_optimizer") == "lbfgs" and settings.get("base_estimator", "GP") != "GP":
        why = f"{settings['base_estimator']} has no gradients for acq_optimizer lbfgs"
        yield _never_starts(setting_path(spec, "acq_optimizer"), why, "sampling, or base_estimator GP")
    chosen = settings.get("acq_func")
    if chosen in ("EIps", "PIps"):
        message = f"{chosen} needs the times of trials, which Katib never gives: nothing comes after the first results"
        yield _katib_warns(setting_path(spec, "acq_func"), message, "gp_hedge or EI", code="stalls")
    for name in ("base_estimator", "acq_func", "acq_optimizer"):
        if name in settings:
            message = f"{name} is not applied here: a Gaussian process with expected improvement searches"
            yield Remark(setting_path(spec, name), message, "", "note", KATUNA, code="setting-not-applied")


LEAST_SIGMA, MOST_SIGMA = 1e-9, 1.0
"""cmaes takes a sigma outside these shares of the range as the nearest of the two. Below them all trials are one point; above them all
lie at the borders."""


def sigma_share(sigma: float, parameters: Sequence[Parameter]) -> float:
    """Katib's `sigma`, in units of the narrowest parameter that can vary, as a share of its range."""
    ranges = [high - low for low, high in (each.bounds for each in parameters if each.is_numeric and each.size > 1)]
    narrowest = min(ranges, default=1.0)
    return sigma / narrowest if narrowest > 0 else math.inf


def _sigma_remarks(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    sigma = settings_of(spec).get("sigma", "")
    if NUMBER(sigma):
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
    """goptuna needs two numbers or more, draws on a linear scale, and minimizes whatever the objective says."""
    numbers = [parameter for parameter in parameters if parameter.is_numeric]
    if len(numbers) < 2:
        message = f"cmaes needs two int or double parameters or more, not {len(numbers)}"
        yield Remark(PARAMETERS, message, "use tpe", code="too-few-parameters")
    elif sum(parameter.size > 1 for parameter in numbers) < 2:
        message = "cmaes needs two int or double parameters or more that can vary"
        yield Remark(PARAMETERS, message, "use tpe", on=KATUNA, code="too-few-parameters")
    if (spec.get("objective") or {}).get("type") == "maximize":
        message = "Katib's cmaes minimizes whatever the objective says: it moves away from the best values"
        hint = "print the negative and minimize, or use another algorithm"
        yield _katib_warns(("spec", "objective", "type"), message, hint, code="cmaes-minimizes")
    yield from _draws_evenly("cmaes", parameters, steps=True)
    for name in ("random_state", "sigma"):
        text = settings_of(spec).get(name, "")
        if not GOPTUNA[name](text) and not is_go_number(text):
            why = f"Katib's cmaes reads numbers without blanks and '_', in the digits 0 to 9: not {shown(text)}"
            yield _never_starts(setting_path(spec, name), why)
    yield from _sigma_remarks(parameters, spec)


def sobol_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:  # noqa: ARG001
    """goptuna draws evenly between min and max, and never tries the greatest whole number or step."""
    yield from _draws_evenly("sobol", parameters, steps=True)
    for index, parameter in enumerate(parameters):
        if parameter.type == "int" and parameter.size > 1:
            message = f"Katib's sobol never tries the greatest value, {parameter.on_grid(int(parameter.size) - 1)}"
            hint = "parameterType discrete with a list"
            yield _katib_warns(_space(index, "max"), message, hint, code="sobol-loses-max")


def hyperband_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    settings = settings_of(spec)
    if "r_l" not in settings or HYPERBAND["r_l"](settings["r_l"]) or HYPERBAND["eta"](settings.get("eta", "3")):
        return
    most = float(settings["r_l"])
    yield from _hyperband_budget(most, settings.get("eta", "3"), spec)
    yield from _draws_evenly("hyperband", parameters, steps=False)
    for index, parameter in enumerate(parameters):
        whole_numbers = all(not whole(-(2**63))(choice) for choice in parameter.choices)
        if parameter.type == "discrete" and not whole_numbers:
            why = "hyperband reads discrete values as whole numbers"
            yield _never_starts(_space(index, "list"), why, "parameterType: categorical")
    if "resource_name" not in settings:
        return
    path = setting_path(spec, "resource_name")
    resource = next((each for each in parameters if each.name == settings["resource_name"]), None)
    if resource is None:
        hint = hint_of(settings["resource_name"], [each.name for each in parameters])
        message = f"resource_name must be a parameter, not {shown(settings['resource_name'])}"
        yield Remark(path, message, hint, code="unknown-resource")
    elif not resource.is_numeric and any(NUMBER(choice) for choice in resource.choices):
        remark = Remark(path, f"the resource must be a number, and {resource.name} is a list of words", code="bad-resource")
        yield from unlike_katib(remark, "gives trials numbers for it")
    elif resource.is_numeric and not resource.bounds[0] <= most <= resource.bounds[1]:
        message = f"r_l, {most:g}, is no value of {resource.name}, from {resource.minimum} to {resource.maximum}"
        hint = "here the nearest value is taken, on Katib r_l itself"
        yield Remark(setting_path(spec, "r_l"), message, hint, "warning", code="resource-outside-space")


def _hyperband_budget(most: float, eta_text: str, spec: Spec) -> Iterator[Remark]:
    """On Katib the first rung must fit into one batch, and no second rung comes."""
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
        yield _katib_warns(("spec", "maxTrialCount"), message, hint, code="hyperband-second-rung")


def pbt_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
    for index, parameter in enumerate(parameters):
        if parameter.type == "double" and not parameter.step:
            yield _never_starts(_space(index, "step"), "pbt needs a step for a double", "add one")
        if parameter.type == "int":
            message = "Katib's pbt fails for good once it moves an int beyond its bounds"
            yield _katib_warns(_space(index), message, "parameterType discrete with a list", code="pbt-int")
    yield from _draws_evenly("pbt", parameters, steps=True)
    if spec.get("resumePolicy") != "FromVolume":
        message = "pbt on Katib keeps its checkpoints in a volume, which only resumePolicy FromVolume gives"
        yield _katib_warns(("spec", "resumePolicy"), message, "resumePolicy: FromVolume", code="pbt-needs-volume")
    if "resample_probability" in settings_of(spec):
        message = "Katib's pbt refuses resample_probability, whatever its value"
        yield Remark(setting_path(spec, "resample_probability"), message, "leave it out", on=KATIB, code="setting-refused")


NAS: Path = ("spec", "nasConfig")


def enas_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:  # noqa: ARG001
    config = spec.get("nasConfig")
    if config is None:
        yield Remark(NAS, "must be specified for enas", "graphConfig and operations", code="missing-field")
        return
    graph = config.get("graphConfig", {})
    for name, example in (("numLayers", "8"), ("inputSizes", "[32, 32, 3]"), ("outputSizes", "[10]")):
        if not graph.get(name):
            yield Remark((*NAS, "graphConfig", name), "must be specified for enas", f"{name}: {example}", code="missing-field")


def darts_rule(parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:  # noqa: ARG001
    if spec.get("nasConfig") is None:
        yield _never_starts(NAS, "darts searches a nasConfig, and there is none", "graphConfig and operations")


@dataclass(frozen=True)
class Algorithm:
    """`lenient`: Katib's service ignores settings that it does not know. `ignored_by_katib` are settings that only katuna heeds.
    `here`: katuna runs the algorithm on this machine."""

    settings: Mapping[str, Check]
    space: SpaceRule | None = None
    required: tuple[str, ...] = ()
    lenient: bool = False
    ignored_by_katib: tuple[str, ...] = ()
    here: bool = True

    def check(self, name: str, parameters: Sequence[Parameter], spec: Spec) -> Iterator[Remark]:
        """Remarks on `spec.algorithm.algorithmSettings` and on the space that this algorithm, called `name`, is to search."""
        yield from check_settings(
            spec["algorithm"].get("algorithmSettings", []),
            self.settings,
            name,
            ("spec", "algorithm", "algorithmSettings"),
            required=self.required,
            lenient=self.lenient,
            ignored_by_katib=self.ignored_by_katib,
        )
        if self.here and spec.get("nasConfig") is not None:
            message = f"{name} searches spec.parameters: with a nasConfig Katib accepts it and no trial ever starts"
            yield Remark(NAS, message, "enas and darts search a nasConfig", at_key=True, code="never-starts")
        if self.space and (parameters or not self.here):
            yield from self.space(parameters, spec)


ALGORITHMS: Mapping[str, Algorithm] = {
    "random": Algorithm(RANDOM_STATE, random_rule),
    "grid": Algorithm(RANDOM_STATE, grid_rule),
    "tpe": Algorithm(HYPEROPT, random_rule),
    "multivariate-tpe": Algorithm(MULTIVARIATE, multivariate_tpe_rule),
    "bayesianoptimization": Algorithm(SKOPT, bayesian_rule),
    "cmaes": Algorithm(GOPTUNA, cmaes_rule, lenient=True),
    "sobol": Algorithm({}, sobol_rule, lenient=True),
    "hyperband": Algorithm(HYPERBAND, hyperband_rule, ("r_l", "resource_name"), lenient=True, ignored_by_katib=("random_state",)),
    "pbt": Algorithm(
        PBT,
        pbt_rule,
        ("suggestion_trial_dir", "n_population", "truncation_threshold"),
        lenient=True,
        ignored_by_katib=("random_state",),
    ),
    "enas": Algorithm(ENAS, enas_rule, here=False),
    "darts": Algorithm(DARTS, darts_rule, lenient=True, here=False),
}
"""What a default installation of Katib serves."""

HERE = tuple(name for name, algorithm in ALGORITHMS.items() if algorithm.here)


def check_algorithm_name(name: str, path: Path) -> Iterator[Remark]:
    """Remarks on an algorithm's name. An algorithm that Katib alone has is an error for a run on this machine only."""
    if not name:
        yield Remark(path, "must be specified", f"algorithms: {listed(ALGORITHMS)}", code="missing-field")
    elif name not in ALGORITHMS:
        hint = f"{hint_of(name, ALGORITHMS)} algorithms: {listed(ALGORITHMS)}".strip()
        yield Remark(path, f"there is no algorithm {shown(name)}", hint, code="unknown-algorithm")
    elif not ALGORITHMS[name].here:
        message = f"{name} searches neural architectures, which katuna leaves to Katib on a cluster"
        yield Remark(path, message, f"here: {listed(HERE)}", on=KATUNA, code="algorithm-not-here")
