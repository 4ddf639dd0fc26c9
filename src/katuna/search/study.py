"""Optuna's samplers as suggesters: each is made anew for a trial with the trial's own seed, over a study in memory.

The study holds, for each trial, the values read back from its assignment texts, so that one rebuilt from the journal is the same.
Most samplers look at nothing else. Those that leave notes in the study's attributes (NSGA's generations, the place in a
quasi-random sequence) are rebuilt by asking them again, in order, with the same seeds; no attribute is ever stored.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from katuna.manifest.experiment import Experiment
from katuna.search.contracts import NoSuggestion, Suggestion
from katuna.search.draws import trial_seed
from katuna.search.space import Axis, axes, direction
from katuna.search.trials import Assignments, Trial

if TYPE_CHECKING:
    import optuna

MakeSampler = Callable[[int], "optuna.samplers.BaseSampler"]
"""A sampler from a trial's seed."""


class StudySuggester:
    """`takes_notes` says that the sampler keeps something in attributes of the study; `ends` that it is to try each point once."""

    def __init__(
        self, experiment: Experiment, seed: int, sampler: MakeSampler, *, takes_notes: bool = False, ends: bool = False
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._objective = experiment.objective
        self._axes: Mapping[str, Axis] = axes(experiment)
        self._distributions = {name: axis.distribution() for name, axis in self._axes.items()}
        self._seed = seed
        self._sampler = sampler
        self._takes_notes = takes_notes
        self._points_left: float = experiment.space_size
        self._seen: set[tuple[str, ...]] | None = set() if ends else None
        self._study = optuna.create_study(direction=direction(experiment), sampler=self._made(0))
        self._study_numbers: dict[int, int] = {}
        self._size = 0

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        if self._seen is not None and len(self._seen) >= self._points_left:
            return NoSuggestion.EXHAUSTED
        drawn = self._draw(number)
        point = {name: axis.text(drawn.params[name]) for name, axis in self._axes.items()}
        self._keep(number, drawn, point)
        return Suggestion(point)

    def learn(self, assignments: Assignments, value: float) -> None:
        import optuna

        self._add(assignments, optuna.trial.TrialState.COMPLETE, value)

    def restore(self, number: int, suggestion: Suggestion) -> None:
        import optuna

        if self._takes_notes:
            self._keep(number, self._draw(number), suggestion.assignments)
        else:
            self._study_numbers[number] = self._size
            self._add(suggestion.assignments, optuna.trial.TrialState.RUNNING)

    def tell(self, trial: Trial) -> None:
        import optuna

        value = trial.value(self._objective)
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        storage = self._study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, self._study_numbers.pop(trial.number))
        storage.set_trial_state_values(trial_id, state, None if value is None else [value])

    def _draw(self, number: int) -> optuna.Trial:
        self._study.sampler = self._made(trial_seed(self._seed, number))
        drawn = self._study.ask(fixed_distributions=self._distributions)
        self._size += 1
        return drawn

    def _made(self, number_seed: int) -> optuna.samplers.BaseSampler:
        """Without the warnings that a part of it is experimental, or to be gone in a version that katuna does not allow."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._sampler(number_seed)

    def _keep(self, number: int, drawn: optuna.Trial, point: Assignments) -> None:
        """Lets the study remember trial `number` with the values of `point`, which may be others than were drawn."""
        import optuna

        values = self._values(point)
        if values != drawn.params and not self._takes_notes:
            self._study._storage.set_trial_state_values(drawn._trial_id, optuna.trial.TrialState.FAIL)
            self._study_numbers[number] = self._size
            self._add(point, optuna.trial.TrialState.RUNNING)
            return
        for name, value in values.items():
            if value != drawn.params[name]:
                distribution = self._distributions[name]
                self._study._storage.set_trial_param(drawn._trial_id, name, distribution.to_internal_repr(value), distribution)
        self._study_numbers[number] = drawn.number
        self._see(point)

    def _add(self, point: Assignments, state: optuna.trial.TrialState, value: float | None = None) -> None:
        import optuna

        self._study.add_trial(
            optuna.trial.create_trial(state=state, value=value, params=self._values(point), distributions=self._distributions)
        )
        self._size += 1
        self._see(point)

    def _see(self, point: Assignments) -> None:
        if self._seen is not None:
            self._seen.add(tuple(point[name] for name in self._axes))

    def _values(self, point: Assignments) -> dict[str, Any]:
        return {name: axis.value(point[name]) for name, axis in self._axes.items()}
