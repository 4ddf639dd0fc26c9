"""Hyperband's schedule: brackets of rungs, in which the best of one rung become new trials of the next, with more of the resource.

The published algorithm (Li et al., JMLR 18, 2018, algorithm 1), which Katib's service cannot get beyond the first rung of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from katuna.manifest.experiment import Experiment, ObjectiveType, Parameter
from katuna.search.contracts import NoSuggestion, Suggestion
from katuna.search.draws import Draws
from katuna.search.trials import Assignments, Trial

ETA = 3.0
ALMOST = 1e-9
"""What floating point may take away from a whole number."""


@dataclass(frozen=True)
class Rung:
    """`first` is the number of its first trial; `above` is the rung before it in its bracket, None for a bracket's first."""

    bracket: int
    first: int
    trials: int
    resource: float
    above: Rung | None

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.trials)


def schedule(most: float, eta: float) -> list[Rung]:
    """All rungs of all brackets, in the order in which they run. `most` is what one trial may get of the resource, 1 the least."""
    deepest = 0
    while eta ** (deepest + 1) <= most * (1 + ALMOST):
        deepest += 1
    rungs: list[Rung] = []
    for bracket in range(deepest, -1, -1):
        width = math.ceil((deepest + 1) / (bracket + 1) * eta**bracket - ALMOST)
        above = None
        for depth in range(bracket + 1):
            trials = math.floor(width / eta**depth + ALMOST)
            first = rungs[-1].numbers.stop if rungs else 0
            above = Rung(bracket, first, trials, most * eta ** (depth - bracket), above)
            rungs.append(above)
    return rungs


class HyperbandSuggester:
    """Which rung a trial is in depends on its number alone. A trial without a value ranks last in its rung; among equals the
    earlier one goes on. Known results are not used: the schedule makes every point itself."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        settings: Mapping[str, str] = experiment.settings
        eta = float(settings.get("eta", ETA))
        self._rungs = schedule(float(settings["r_l"]), eta if eta > 0 else ETA)
        self._resource = next(each for each in experiment.parameters if each.name == settings["resource_name"])
        self._objective = experiment.objective
        self._sign = 1.0 if experiment.objective.type is ObjectiveType.MINIMIZE else -1.0
        self._draws = Draws(experiment, seed)
        self._points: dict[int, Assignments] = {}
        self._values: dict[int, float] = {}

    def learn(self, assignments: Assignments, value: float) -> None:
        del assignments, value

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        rung = next((rung for rung in self._rungs if number in rung.numbers), None)
        if rung is None:
            return NoSuggestion.EXHAUSTED
        if rung.above is None:
            point: Assignments = self._draws.point(number)
        else:
            if any(each not in self._values for each in rung.above.numbers):
                return NoSuggestion.WAIT
            ranked = sorted(rung.above.numbers, key=lambda each: (self._values[each], each))
            point = self._points[ranked[number - rung.first]]
        suggestion = Suggestion({**point, self._resource.name: resource_text(self._resource, rung.resource)})
        self.restore(number, suggestion)
        return suggestion

    def restore(self, number: int, suggestion: Suggestion) -> None:
        self._points[number] = suggestion.assignments

    def tell(self, trial: Trial) -> None:
        value = trial.value(self._objective)
        self._values[trial.number] = math.inf if value is None else self._sign * value


def resource_text(parameter: Parameter, amount: float) -> str:
    """The amount as a value of the parameter: cut to a whole number for an int, as Katib's, and never outside its space."""
    if not parameter.is_numeric:
        return min(parameter.choices, key=lambda choice: abs(float(choice) - amount))
    return parameter.text(math.floor(amount + ALMOST) if parameter.type == "int" else amount)
