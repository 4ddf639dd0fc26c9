"""CMA-ES over the unit cube, driven so that a journal's texts alone rebuild it: every draw has its trial's own seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from katuna.manifest.algorithms import LEAST_SIGMA, MOST_SIGMA, sigma_share
from katuna.manifest.experiment import Experiment, ObjectiveType
from katuna.search.contracts import NoSuggestion, Suggestion
from katuna.search.draws import Draws, dice, trial_seed
from katuna.search.space import Axis, axes
from katuna.search.trials import Assignments, Trial

if TYPE_CHECKING:
    import numpy as np

SIGMA = 1 / 6
"""Katib's initial standard deviation, as a share of the range (katib.md 3.2.6)."""

GROWTH = 2
"""What a restart with a larger population multiplies it by."""


@dataclass
class _Effort:
    """What bipop's two kinds of runs have spent so far, in trials, and how often the large kind was begun anew. The very first run
    is of the small kind."""

    small: int = 0
    large: int = 0
    restarts: int = 0
    is_small: bool = True


class CmaSuggester:
    """The numeric parameters move as one point in the unit cube, each on its own scale (a logUniform one on a log scale, which
    Katib ignores); lists are drawn at random, as Katib draws them. So is all where nothing can move, as where every step is wider than its range.

    A population is complete when as many trials have a value as it has members, whichever generation asked for them: a trial
    that failed only delays it. Settings: Katib's `sigma` (in units of the narrowest parameter, as there; of its range at least LEAST_SIGMA and at most all), `restart_strategy`;
    and of Optuna's sampler `sigma0` (a share of the range), `popsize`, `n_startup_trials`, `use_separable_cma`, `lr_adapt`.
    Known results move the first mean to the best of them.
    """

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self._objective = experiment.objective
        self._sign = 1.0 if experiment.objective.type is ObjectiveType.MINIMIZE else -1.0
        self._settings: Mapping[str, str] = experiment.settings
        self._axes: dict[str, Axis] = {
            name: axis for name, axis in axes(experiment).items() if axis.parameter.is_numeric and axis.parameter.size > 1
        }
        self._sigma = _sigma(experiment)
        self._draws = Draws(experiment, seed)
        self._seed = seed
        self._runs = 0
        self._running: dict[int, tuple[int, np.ndarray]] = {}
        self._told: list[tuple[np.ndarray, float]] = []
        self._effort = _Effort()
        self._best_known: tuple[float, np.ndarray] | None = None
        self._optimizer: Any = None

    def learn(self, assignments: Assignments, value: float) -> None:
        if self._best_known is None or self._sign * value < self._best_known[0]:
            self._best_known = (self._sign * value, self._place(assignments))

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        point = self._draws.point(number)
        if self._axes and number >= int(self._settings.get("n_startup_trials", "0")):
            optimizer = self._ready()
            optimizer.reseed_rng(trial_seed(self._seed, number))
            place = optimizer.ask()
            point |= {name: axis.at(float(place[index])) for index, (name, axis) in enumerate(self._axes.items())}
        self.restore(number, Suggestion(point))
        return Suggestion(point)

    def restore(self, number: int, suggestion: Suggestion) -> None:
        if self._axes:
            self._ready()
        self._running[number] = (self._runs, self._place(suggestion.assignments))

    def tell(self, trial: Trial) -> None:
        run, place = self._running.pop(trial.number)
        value = trial.value(self._objective)
        if value is None or run != self._runs or not self._axes:
            return
        self._told.append((place, self._sign * value))
        optimizer = self._ready()
        if len(self._told) == optimizer.population_size:
            optimizer.tell(self._told)
            self._told = []
            if optimizer.should_stop() and self._settings.get("restart_strategy", "none") != "none":
                self._restart(optimizer)

    def _place(self, assignments: Assignments) -> np.ndarray:
        import numpy as np

        return np.array([axis.quantile(assignments[name]) for name, axis in self._axes.items()])

    def _ready(self) -> Any:
        if self._optimizer is None:
            import numpy as np

            middle = np.full(len(self._axes), 0.5)
            size = self._settings.get("popsize")
            self._optimizer = self._new(middle if self._best_known is None else self._best_known[1], int(size) if size else None)
        return self._optimizer

    def _new(self, mean: np.ndarray, population: int | None) -> Any:
        import cmaes
        import numpy as np

        bounds = np.tile([0.0, 1.0], (len(self._axes), 1))
        if _is_true(self._settings, "use_separable_cma"):
            return cmaes.SepCMA(mean, self._sigma, bounds=bounds, seed=0, population_size=population)
        adapt = _is_true(self._settings, "lr_adapt")
        return cmaes.CMA(mean, self._sigma, bounds=bounds, seed=0, population_size=population, lr_adapt=adapt)

    def _restart(self, spent: Any) -> None:
        """Begins anew at a random mean: ipop with a larger population, bipop with that or a small one, whichever has had less."""
        import numpy as np

        effort, trials = self._effort, spent.population_size * spent.generation
        first = int(self._settings.get("popsize", 4 + int(3 * math.log(len(self._axes)))))
        if effort.is_small:
            effort.small += trials
        else:
            effort.large += trials
        self._runs += 1
        draws = dice(self._seed, self._runs, "restart")
        effort.is_small = self._settings["restart_strategy"] == "bipop" and effort.small < effort.large
        if effort.is_small:
            population = int(first * GROWTH ** (effort.restarts * draws.random() ** 2))
        else:
            effort.restarts += 1
            population = first * GROWTH**effort.restarts
        self._optimizer = self._new(np.array([draws.random() for _ in self._axes]), population)


def _sigma(experiment: Experiment) -> float:
    settings = experiment.settings
    if "sigma0" in settings:
        return float(settings["sigma0"])
    written = float(settings.get("sigma", "0"))
    return min(max(sigma_share(written, experiment.parameters), LEAST_SIGMA), MOST_SIGMA) if written > 0 else SIGMA


def _is_true(settings: Mapping[str, str], name: str) -> bool:
    return settings.get(name, "false").lower() == "true"
