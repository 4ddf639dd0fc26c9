"""Which point to try next: Katib's algorithm names on Optuna's samplers, rebuilt from the journal and reseeded for each trial.

To add an algorithm: its settings in `katuna.spec.algorithms`, its suggester in `SUGGESTERS` below.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from katuna.contracts import NoSuggestion, Suggester, Suggestion
from katuna.search.space import Axis, axes, direction
from katuna.spec.model import Experiment
from katuna.trials import Assignments, Trial

if TYPE_CHECKING:
    import optuna


def suggester_for(experiment: Experiment, seed: int) -> Suggester:
    """`experiment.algorithm` is one that `katuna.spec.algorithms` lists; its settings have been checked."""
    return SUGGESTERS[experiment.algorithm](experiment, seed)


def trial_seed(seed: int, number: int) -> int:
    """32 bits for trial `number` of a search: what a trial draws depends on no other trial's draws."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest(), "big")


class GridSuggester:
    """Every combination once, in an order shuffled by the seed; then EXHAUSTED. Stateless: the number is the place in the order."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self._parameters = sorted(experiment.parameters, key=lambda parameter: parameter.name)
        self._names = [parameter.name for parameter in experiment.parameters]
        self._size = int(experiment.space_size)
        self._random = random.Random(trial_seed(seed, -1))  # noqa: S311  (a search order is no secret)
        self._order: list[int] = []
        self._swapped: dict[int, int] = {}

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        if number >= self._size:
            return NoSuggestion.EXHAUSTED
        index = self._index(number)
        point: dict[str, str] = {}
        for parameter in reversed(self._parameters):
            index, place = divmod(index, int(parameter.size))
            point[parameter.name] = parameter.on_grid(place)
        return Suggestion({name: point[name] for name in self._names})

    def learn(self, assignments: Assignments, value: float) -> None:
        del assignments, value

    def restore(self, number: int, suggestion: Suggestion) -> None:
        del number, suggestion

    def tell(self, trial: Trial) -> None:
        del trial

    def _index(self, number: int) -> int:
        """The number-th entry of a Fisher-Yates shuffle of range(size), drawn as far as needed: a grid may be far too big to list."""
        while len(self._order) <= number:
            here = len(self._order)
            there = self._random.randrange(here, self._size)
            self._order.append(self._swapped.get(there, there))
            self._swapped[there] = self._swapped.pop(here, here)
        return self._order[number]


class SamplerSuggester:
    """An Optuna sampler that keeps nothing between asks: made anew with the trial's own seed, it sees the study and no more.

    The study lives in memory only and holds, for each trial, the values read back from the assignment texts, so that a study
    rebuilt from the journal is the same study.
    """

    def __init__(self, experiment: Experiment, seed: int, sampler: Callable[[int], optuna.samplers.BaseSampler]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._objective = experiment.objective
        self._axes: Mapping[str, Axis] = axes(experiment)
        self._distributions = {name: axis.distribution() for name, axis in self._axes.items()}
        self._seed = seed
        self._sampler = sampler
        self._study = optuna.create_study(direction=direction(experiment), sampler=sampler(0))
        self._study_numbers: dict[int, int] = {}

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        import optuna

        self._study.sampler = self._sampler(trial_seed(self._seed, number))
        drawn = self._study.ask(fixed_distributions=self._distributions)
        point = {name: axis.text(drawn.params[name]) for name, axis in self._axes.items()}
        if self._values(point) == drawn.params:
            self._study_numbers[number] = drawn.number
        else:
            self._study.tell(drawn, state=optuna.trial.TrialState.FAIL)
            self.restore(number, Suggestion(point))
        return Suggestion(point)

    def learn(self, assignments: Assignments, value: float) -> None:
        import optuna

        self._study.add_trial(
            optuna.trial.create_trial(value=value, params=self._values(assignments), distributions=self._distributions)
        )

    def restore(self, number: int, suggestion: Suggestion) -> None:
        import optuna

        self._study_numbers[number] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=self._values(suggestion.assignments),
                distributions=self._distributions,
            )
        )

    def tell(self, trial: Trial) -> None:
        import optuna

        value = trial.value(self._objective)
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        self._study.tell(self._study_numbers[trial.number], value, state=state)

    def _values(self, point: Assignments) -> dict[str, float | int | str]:
        return {name: axis.value(point[name]) for name, axis in self._axes.items()}


def _random_search(experiment: Experiment, seed: int) -> Suggester:
    from optuna.samplers import RandomSampler

    return SamplerSuggester(experiment, seed, lambda number_seed: RandomSampler(seed=number_seed))


def _tpe(experiment: Experiment, seed: int) -> Suggester:
    """Optuna 5's own default: multivariate, with the constant liar for trials that still run."""
    from optuna.samplers import TPESampler

    candidates = int(experiment.settings.get("n_EI_candidates", "24"))
    return SamplerSuggester(experiment, seed, lambda number_seed: TPESampler(seed=number_seed, n_ei_candidates=candidates))


SUGGESTERS: Mapping[str, Callable[[Experiment, int], Suggester]] = {
    "random": _random_search,
    "grid": GridSuggester,
    "tpe": _tpe,
}
