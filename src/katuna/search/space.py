"""How a Katib search space looks to Optuna, in both directions; with suggest.py the only place that imports Optuna."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING

from katuna.manifest.experiment import Experiment, ObjectiveType, Parameter
from katuna.search.trials import Trial

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

OptunaValue = float | int | str


class Axis:
    """One parameter as an Optuna distribution, with the way from its values to assignment texts and back.

    Where Optuna has no such distribution, it searches a stand-in: a stepped double by its place on the grid (exact, where
    binary steps are not), a normal or logNormal parameter by its quantile. Its sigma is a sixth of the range, as Katib's, so
    that cutting at min and max, which Katib does not do, cuts at three sigma.
    """

    def __init__(self, parameter: Parameter) -> None:
        self.parameter = parameter
        # A grid ignores the distribution, and takes a lower end that has no logarithm.
        self._log = parameter.is_numeric and parameter.distribution == "logUniform" and parameter.bounds[0] > 0
        self._by_place = parameter.type == "double" and bool(parameter.step) and parameter.distribution == "uniform"
        self._normal: NormalDist | None = None
        if parameter.is_numeric and parameter.distribution in ("normal", "logNormal"):
            low, high = (self._to_line(bound) for bound in parameter.bounds)
            self._normal = NormalDist((low + high) / 2, max((high - low) / 6, math.ulp(0.0)))

    def distribution(self) -> BaseDistribution:
        """What Optuna samples from."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self._by_place:
            return IntDistribution(0, int(self.parameter.size) - 1)
        if self._normal is not None:
            return FloatDistribution(*(self._normal.cdf(self._to_line(bound)) for bound in self.parameter.bounds))
        return self.plain_distribution()

    def plain_distribution(self) -> BaseDistribution:
        """The space as a person knows it, in the parameter's own units; for plots and exports."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        parameter = self.parameter
        if not parameter.is_numeric:
            return CategoricalDistribution(parameter.values)
        low, high = parameter.bounds
        if parameter.type == "double":
            return FloatDistribution(low, high, log=self._log)
        if self._log:
            return IntDistribution(int(low), int(high), log=True)
        return IntDistribution(int(low), int(parameter.on_grid(int(parameter.size) - 1)), step=int(parameter.exact_step or 1))

    def text(self, value: OptunaValue) -> str:
        """The assignment text of a value that Optuna drew."""
        if not self.parameter.is_numeric:
            return str(value)
        if self._by_place:
            return self.parameter.on_grid(int(value))
        if self._normal is not None:
            return self.parameter.text(self._from_line(self._normal.inv_cdf(float(value))))
        return self.parameter.text(float(value))

    def value(self, text: str) -> OptunaValue:
        """The value that Optuna is to remember for an assignment text: one and the same, however the text came about."""
        if self._by_place:
            return round((float(text) - self.parameter.bounds[0]) / float(self.parameter.step))
        if self._normal is not None:
            return self._normal.cdf(self._to_line(float(text)))
        return self.plain(text)

    def at(self, quantile: float) -> str:
        """The text at a place from 0 to 1 of the parameter's own scale: evenly over its values, or as its distribution has it."""
        parameter, share = self.parameter, min(max(quantile, 0.0), 1.0)
        if self._even_steps:
            return parameter.on_grid(min(int(share * parameter.size), int(parameter.size) - 1))
        low, high = self._line
        place = low + share * (high - low)
        if self._normal is not None:
            return parameter.text(self._from_line(self._normal.inv_cdf(place)))
        return parameter.text(math.exp(place) if self._log else place)

    def quantile(self, text: str) -> float:
        """The place from 0 to 1 of a value: of one on a grid the middle of its cell."""
        parameter = self.parameter
        if not parameter.is_numeric:
            return (parameter.values.index(text) + 0.5) / parameter.size
        if self._even_steps:
            step = float(parameter.exact_step or 1)
            return (round((float(text) - parameter.bounds[0]) / step) + 0.5) / parameter.size
        low, high = self._line
        place = float(text)
        if self._normal is not None:
            place = self._normal.cdf(self._to_line(place))
        elif self._log:
            place = math.log(place)
        return min(max((place - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    @property
    def _even_steps(self) -> bool:
        stepped = self.parameter.exact_step is not None and self.parameter.distribution == "uniform"
        return stepped or not self.parameter.is_numeric

    @property
    def _line(self) -> tuple[float, float]:
        """The ends of the scale on which equal lengths are equally likely; a whole number reaches half a step to either side."""
        low, high = self.parameter.bounds
        if self._normal is not None:
            return self._normal.cdf(self._to_line(low)), self._normal.cdf(self._to_line(high))
        if not self._log:
            return low, high
        if self.parameter.type == "int":
            return math.log(low - 0.5), math.log(high + 0.5)
        return math.log(low), math.log(high)

    def plain(self, text: str) -> OptunaValue:
        """The assignment as a person reads it: a number or a word."""
        if not self.parameter.is_numeric:
            return text
        return int(float(text)) if self.parameter.type == "int" else float(text)

    def _to_line(self, value: float) -> float:
        return math.log(value) if self.parameter.distribution == "logNormal" else value

    def _from_line(self, value: float) -> float:
        return math.exp(value) if self.parameter.distribution == "logNormal" else value


def axes(experiment: Experiment) -> dict[str, Axis]:
    return {parameter.name: Axis(parameter) for parameter in experiment.parameters}


def direction(experiment: Experiment) -> str:
    return "minimize" if experiment.objective.type is ObjectiveType.MINIMIZE else "maximize"


def study_of(experiment: Experiment, trials: Iterable[Trial]) -> optuna.study.Study:
    """An in-memory Optuna study of the trials that have ended, for plots and exports: values in the user's units,
    the trial's name and Katib's state among its user attributes. Trials without an objective value are FAIL."""
    import optuna

    space = axes(experiment)
    distributions = {name: axis.plain_distribution() for name, axis in space.items()}
    study = optuna.create_study(study_name=experiment.name, direction=direction(experiment))
    for trial in trials:
        if trial.state.is_final:
            study.add_trial(
                _frozen(
                    trial, experiment, distributions, {name: space[name].plain(text) for name, text in trial.assignments.items()}
                )
            )
    return study


def _frozen(
    trial: Trial, experiment: Experiment, distributions: Mapping[str, BaseDistribution], params: Mapping[str, OptunaValue]
) -> optuna.trial.FrozenTrial:
    import optuna

    value = trial.value(experiment.objective)
    frozen = optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if value is not None else optuna.trial.TrialState.FAIL,
        value=value,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs={"name": trial.name, "state": trial.state.value, "number": trial.number},
    )
    start = trial.started_at or trial.created_at
    frozen.datetime_start = _local(start)
    frozen.datetime_complete = _local(trial.ended_at or start)
    return frozen


def _local(seconds: float) -> datetime.datetime:
    """Optuna keeps naive local times."""
    return datetime.datetime.fromtimestamp(seconds)  # noqa: DTZ006
