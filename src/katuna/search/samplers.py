"""Optuna's samplers by short names, with the constructor parameters that a text can set."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from katuna.manifest.algorithms import LEAST_SIGMA, MOST_SIGMA
from katuna.manifest.settings import Check, real, whole

Value = int | float | bool | str | None


@dataclass(frozen=True)
class Sampler:
    """`takes_notes` and `ends` as in StudySuggester. `finite`: it searches only spaces that can be counted."""

    name: str
    takes_notes: bool = False
    ends: bool = False
    finite: bool = False


SAMPLERS: Mapping[str, Sampler] = {
    "tpe": Sampler("TPESampler"),
    "gp": Sampler("GPSampler"),
    "nsgaii": Sampler("NSGAIISampler", takes_notes=True),
    "nsgaiii": Sampler("NSGAIIISampler", takes_notes=True),
    "qmc": Sampler("QMCSampler", takes_notes=True),
    "bruteforce": Sampler("BruteForceSampler", ends=True, finite=True),
}

BEHIND = {"tpe": "tpe", "multivariate-tpe": "tpe", "bayesianoptimization": "gp"}
"""The sampler that stands behind a name of Katib's; the others are katuna's own."""

CMA_PARAMETERS: Mapping[str, str] = {
    "sigma0": "float",
    "popsize": "int",
    "n_startup_trials": "int",
    "use_separable_cma": "bool",
    "lr_adapt": "bool",
}
"""What of CmaEsSampler's constructor katuna's own CMA-ES takes, under the same names."""

RANGES: Mapping[str, Check] = {
    "sigma0": real(LEAST_SIGMA, MOST_SIGMA, with_least=True, with_most=True),
    "popsize": whole(2),
    "population_size": whole(2),
    "n_startup_trials": whole(0),
    "n_ei_candidates": whole(1),
    "dividing_parameter": whole(1),
}
"""What constructors take and samplers then fail at, trials later."""

_READABLE = {"int", "float", "bool", "str", "None"}


def sampler_class(short: str) -> Any:
    import optuna

    return getattr(optuna.samplers, SAMPLERS[short].name)


def constructor_parameters(algorithm: str) -> dict[str, str]:
    """Name to annotation of what `--setting` may set beyond Katib's settings; the seed is a search's, not a sampler's."""
    if algorithm == "cmaes":
        return dict(CMA_PARAMETERS)
    short = BEHIND.get(algorithm, algorithm)
    if short not in SAMPLERS:
        return {}
    parameters = inspect.signature(sampler_class(short).__init__).parameters.values()
    texts = {each.name: str(each.annotation) for each in parameters if each.name not in ("self", "seed")}
    return {name: text for name, text in texts.items() if set(text.split(" | ")) <= _READABLE}


def constructor_settings(short: str, settings: Mapping[str, str]) -> dict[str, Value]:
    """The settings that the sampler's constructor takes, as values."""
    known = constructor_parameters(short)
    return {name: coerced(text, known[name]) for name, text in settings.items() if name in known}


def coerced(text: str, annotation: str) -> Value:
    """The text as a value of `int`, `float | None` and the like. Raises ValueError, which says what it must be."""
    kinds = annotation.split(" | ")
    if "None" in kinds and text.lower() == "none":
        return None
    if "bool" in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind, read in (("int", int), ("float", _finite)):
        if kind in kinds:
            try:
                return read(text)
            except ValueError:
                continue
    if "str" in kinds:
        return text
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "None": "none"}
    raise ValueError("must be " + " or ".join(words[kind] for kind in kinds))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
