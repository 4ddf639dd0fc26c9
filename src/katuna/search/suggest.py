"""Which point to try next: Katib's algorithm names, and Optuna's samplers by short names, each as a suggester.

To add an algorithm: its settings and entry in `katuna.manifest` (`settings`, `algorithms`), its suggester in `SUGGESTERS` below.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from katuna.manifest.experiment import Experiment
from katuna.search.cma import CmaSuggester
from katuna.search.contracts import NoSuggestion, Suggester, Suggestion
from katuna.search.draws import Draws, trial_seed
from katuna.search.hyperband import HyperbandSuggester
from katuna.search.pbt import PbtSuggester
from katuna.search.samplers import SAMPLERS, constructor_settings, sampler_class
from katuna.search.space import axes
from katuna.search.study import StudySuggester
from katuna.search.trials import Assignments, Trial


def suggester_for(experiment: Experiment, seed: int) -> Suggester:
    """The suggester of the Experiment's algorithm: a name of Katib's that this machine runs, or a name in SAMPLERS. The
    settings have been checked."""
    if experiment.is_training:
        return TheJob()
    if experiment.algorithm in SUGGESTERS:
        return SUGGESTERS[experiment.algorithm](experiment, seed)
    return _by_short_name(experiment, seed)


class _Memoryless:
    """The half of a suggester whose points follow from their numbers alone."""

    def learn(self, assignments: Assignments, value: float) -> None:
        del assignments, value

    def restore(self, number: int, suggestion: Suggestion) -> None:
        del number, suggestion

    def tell(self, trial: Trial) -> None:
        del trial


class TheJob(_Memoryless):
    """Of a training: its one trial has no parameters."""

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        return Suggestion({}) if number == 0 else NoSuggestion.EXHAUSTED


class RandomSuggester(_Memoryless):
    def __init__(self, experiment: Experiment, seed: int) -> None:
        self._draws = Draws(experiment, seed)

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        return Suggestion(self._draws.point(number))


class SobolSuggester(_Memoryless):
    """The Sobol sequence, unscrambled, from its second point on, which is the centre; parameters in the order of their names, as
    Katib's. It has no seed, and of an int every value is reached, which Katib's never does for the greatest."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        del seed
        self._axes = axes(experiment)
        self._engine: Any = None

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        from scipy.stats.qmc import Sobol

        if self._engine is None or self._engine.num_generated > number + 1:
            self._engine = Sobol(len(self._axes), scramble=False)
        ahead = number + 1 - self._engine.num_generated
        if ahead:
            self._engine.fast_forward(ahead)
        place = dict(zip(sorted(self._axes), self._engine.random(1)[0], strict=True))
        return Suggestion({name: axis.at(float(place[name])) for name, axis in self._axes.items()})


class GridSuggester:
    """Every combination once, in an order shuffled by the seed; then EXHAUSTED. A value that a list repeats is one value, where
    Katib's grid takes the list as written and tries it more often (katib.md 3.2.3). Points that are known, or were given to `restore`,
    are left out of what is to come."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self._parameters = sorted(experiment.parameters, key=lambda parameter: parameter.name)
        self._names = [parameter.name for parameter in experiment.parameters]
        self._size = int(experiment.space_size)
        self._random = random.Random(trial_seed(seed, -1))  # noqa: S311  (a search order is no secret)
        self._given = 0
        self._swapped: dict[int, int] = {}
        self._had: Counter[tuple[str, ...]] = Counter()

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        del number
        while self._given < self._size:
            point = self._point(self._next())
            key = self._key(point)
            if not self._had[key]:
                return Suggestion(point)
            self._had[key] -= 1
        return NoSuggestion.EXHAUSTED

    def learn(self, assignments: Assignments, value: float) -> None:
        del value
        self._had[self._key(assignments)] += 1

    def restore(self, number: int, suggestion: Suggestion) -> None:
        del number
        self._had[self._key(suggestion.assignments)] += 1

    def tell(self, trial: Trial) -> None:
        del trial

    def _key(self, point: Assignments) -> tuple[str, ...]:
        return tuple(point[name] for name in self._names)

    def _point(self, index: int) -> dict[str, str]:
        point: dict[str, str] = {}
        for parameter in reversed(self._parameters):
            index, place = divmod(index, int(parameter.size))
            point[parameter.name] = parameter.on_grid(place)
        return {name: point[name] for name in self._names}

    def _next(self) -> int:
        """The next entry of a Fisher-Yates shuffle of range(size), drawn as far as needed: a grid may be far too big to list."""
        here = self._given
        there = self._random.randrange(here, self._size)
        self._given += 1
        entry = self._swapped.pop(there, there)
        if there != here:
            self._swapped[there] = self._swapped.pop(here, here)
        return entry


def _tpe(experiment: Experiment, seed: int) -> Suggester:
    """Optuna 5's own default for tpe and multivariate-tpe alike: multivariate, with the constant liar for trials that still run.

    `gamma` has hyperopt's meaning: of n results, gamma times the root of n count as good, 25 at most.
    """
    settings = dict(experiment.settings)
    options: dict[str, Any] = {}
    if "n_EI_candidates" in settings:
        options["n_ei_candidates"] = int(settings.pop("n_EI_candidates"))
    if "gamma" in settings:
        share = float(settings.pop("gamma"))
        options["gamma"] = lambda results: min(math.ceil(share * math.sqrt(results)), 25)
    return _study(experiment, seed, "tpe", settings, options)


def _gaussian_process(experiment: Experiment, seed: int) -> Suggester:
    """Optuna's GPSampler; of skopt's settings the number of random points is heeded. With 0 of them it would have nothing to fit."""
    settings = {
        name: text for name, text in experiment.settings.items() if name not in ("base_estimator", "acq_func", "acq_optimizer")
    }
    options = {"n_startup_trials": max(1, int(settings.pop("n_initial_points")))} if "n_initial_points" in settings else {}
    return _study(experiment, seed, "gp", settings, options)


def _by_short_name(experiment: Experiment, seed: int) -> Suggester:
    if SAMPLERS[experiment.algorithm].finite:
        even = tuple(replace(parameter, distribution="uniform") for parameter in experiment.parameters)
        experiment = replace(experiment, parameters=even)
    return _study(experiment, seed, experiment.algorithm, experiment.settings, {})


def _study(experiment: Experiment, seed: int, short: str, settings: Mapping[str, str], options: Mapping[str, Any]) -> Suggester:
    sampler = SAMPLERS[short]
    arguments = {**constructor_settings(short, settings), **options}

    def make(number_seed: int) -> Any:
        return sampler_class(short)(seed=number_seed, **arguments)

    return StudySuggester(experiment, seed, make, takes_notes=sampler.takes_notes, ends=sampler.ends)


SUGGESTERS: Mapping[str, Callable[[Experiment, int], Suggester]] = {
    "random": RandomSuggester,
    "grid": GridSuggester,
    "tpe": _tpe,
    "multivariate-tpe": _tpe,
    "bayesianoptimization": _gaussian_process,
    "cmaes": CmaSuggester,
    "sobol": SobolSuggester,
    "hyperband": HyperbandSuggester,
    "pbt": PbtSuggester,
}
