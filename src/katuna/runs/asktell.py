"""A search driven from Python: points asked for and results told, by the suggesters that `tune` uses; launches and writes nothing."""

from __future__ import annotations

import contextlib
import operator
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from katuna.errors import InputRefused, SearchExhausted, TellFirst
from katuna.manifest.diagnostic import listed, shown
from katuna.manifest.experiment import Experiment, Parameter
from katuna.metric_line import Report, number
from katuna.runs.conduct import seed_of
from katuna.runs.plan import PathLike, RunOptions, overridden, read_experiment, read_sources
from katuna.search import trials
from katuna.search.contracts import NoSuggestion
from katuna.search.draws import written_seed
from katuna.search.known_points import checked
from katuna.search.suggest import suggester_for
from katuna.search.trials import Asked, Assignments, Exited, Reported, Started, Trial, trial_name

Value = int | float | str


@dataclass(frozen=True)
class Ask:
    """A point to try. `assignments` are Katib's texts, `values` the same as int, float or str; `labels` are the algorithm's."""

    number: int
    name: str
    assignments: Assignments
    values: Mapping[str, Value]
    labels: Mapping[str, str]


class Search:
    """The search of an Experiment, a file or a loaded one, with whoever asks doing the trials.

    `algorithm` and `settings` stand for the file's, as with `tune --algorithm --setting`; `seed` for its `random_state`. The same
    seed and the same tells in the same order give the points that `tune` would try one at a time. Budget, goal and early
    stopping are the caller's to heed. Raises SpecRefused and InputRefused as `tune` does.
    """

    def __init__(
        self,
        experiment: PathLike | Experiment,
        *,
        algorithm: str | None = None,
        settings: Mapping[str, object] | None = None,
        seed: int | None = None,
    ) -> None:
        options = RunOptions(algorithm=_name(algorithm), settings=_texts("settings", settings or {}))
        if isinstance(experiment, Experiment):
            self.experiment, written = overridden(experiment, options), written_seed(experiment)
        elif isinstance(experiment, str | os.PathLike):
            loaded, self.experiment = read_experiment(read_sources([experiment]), options)
            written = loaded.seed
        else:
            raise InputRefused(f"Search: {shown(experiment)} is no file of an Experiment, and no loaded one")
        self.seed = seed_of(self.experiment, written) if seed is None else _seed(seed)
        self._suggester = suggester_for(self.experiment, self.seed)
        self._search = trials.Search(self.experiment.objective)

    @property
    def trials(self) -> list[Trial]:
        """Every point asked for, in that order."""
        return list(self._search.trials.values())

    @property
    def best(self) -> Trial | None:
        """The one with the best value told so far; None while there is none. Learnt results are not among them."""
        return self._search.best

    def learn(self, assignments: Mapping[str, object], value: float) -> None:
        """A result from elsewhere, before the first ask. Raises InputRefused when it is not of this space."""
        if self._search.trials:
            raise InputRefused("learn: only before the first ask; what was asked for is told with tell")
        point = checked(self.experiment, _texts("learn", assignments), "learn", complete=True)
        result = _real("learn", self.experiment.objective.metric, value)
        if number(repr(result)) is None:
            raise InputRefused(f"learn: {value} is no finite number")
        self._suggester.learn(MappingProxyType(point), result)

    def ask(self) -> Ask:
        """The next point. Any number may be open at a time.

        Raises SearchExhausted when the space has been tried, and TellFirst, with the numbers, when the algorithm (hyperband, pbt)
        can go on only after open points have been told.
        """
        count = len(self._search.trials)
        answer = self._suggester.ask(count)
        if answer is NoSuggestion.EXHAUSTED:
            raise SearchExhausted(f"{self.experiment.name}: every point of the space was asked for ({count} points)")
        if isinstance(answer, NoSuggestion):
            raise TellFirst(
                f"{self.experiment.algorithm} needs results before its next point: tell {listed(map(str, self._open()))} first",
                self._open(),
            )
        name, now = trial_name(self.experiment.name, self.seed, count), time.time()
        self._search.apply(Asked(now, count, name, MappingProxyType(dict(answer.assignments)), answer.labels))
        self._search.apply(Started(now, count, 1, {}))
        values = {each.name: typed(each, answer.assignments[each.name]) for each in self.experiment.parameters}
        return Ask(count, name, self._search.trials[count].assignments, MappingProxyType(values), answer.labels)

    def tell(self, trial: Ask | int, value: float | Mapping[str, float] | None = None, *, failed: bool = False) -> None:
        """The end of a trial: the objective's value, or every metric's by name, or that it failed.

        A value that is not finite counts as no value, as it does when a trial prints it. Raises InputRefused for a number that was
        not asked for or has been told, and for metrics without the objective's.
        """
        known = self._search.trials.get(_number_of(trial))
        if known is not None and isinstance(trial, Ask) and (known.name, known.assignments) != (trial.name, trial.assignments):
            raise InputRefused(
                f"tell: {trial.name} is a point of another search; trial {known.number} of this one is {known.name}"
            )
        if known is None:
            raise InputRefused(
                f"tell: nobody has asked for trial {trial}; open trials: {listed(map(str, self._open())) or 'none'}"
            )
        if known.state.is_final:
            raise InputRefused(f"tell: trial {known.number} has been told already ({known.state.value})")
        if failed == (value is not None):
            raise InputRefused(f"tell: give trial {known.number} a value or failed=True, one of the two")
        reports = () if value is None else self._reports(value)
        now = time.time()
        if reports:
            self._search.apply(Reported(now, known.number, reports))
        self._search.apply(Exited(now, known.number, 1 if failed else 0, "Error" if failed else "Completed"))
        self._suggester.tell(self._search.trials[known.number])

    def _reports(self, value: float | Mapping[str, float]) -> tuple[Report, ...]:
        objective = self.experiment.objective
        metrics = value if isinstance(value, Mapping) else {objective.metric: value}
        if objective.metric not in metrics:
            raise InputRefused(
                f"tell: no value for {objective.metric}, the objective; metrics given: {listed(metrics) or 'none'}"
            )
        texts = {name: repr(_real("tell", name, each)) for name, each in metrics.items()}
        return tuple(Report(name, text) for name, text in texts.items())

    def _open(self) -> tuple[int, ...]:
        return tuple(trial.number for trial in self._search.unfinished)


def _real(what: str, metric: str, value: object) -> float:
    """A number of Python, numpy or torch. A truth value is a mistake rather than 0 or 1."""
    if not isinstance(value, str | bytes) and type(value).__name__ not in ("bool", "bool_"):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return float(value)  # type: ignore[arg-type]
    raise InputRefused(f"{what}: {metric} cannot be {shown(value)}; give a number")


def _number_of(trial: object) -> int:
    if isinstance(trial, Ask):
        return trial.number
    if not isinstance(trial, bool):
        with contextlib.suppress(TypeError):
            return operator.index(trial)  # type: ignore[arg-type]
    raise InputRefused(f"tell: {shown(trial)} is no trial; give the point that ask returned, or its number")


def _seed(seed: object) -> int:
    if not isinstance(seed, bool):
        with contextlib.suppress(TypeError):
            if (value := operator.index(seed)) >= 0:  # type: ignore[arg-type]
                return value
    raise InputRefused(f"Search: the seed must be a whole number from 0, not {shown(seed)}")


def _name(algorithm: object) -> str | None:
    if algorithm is None or isinstance(algorithm, str):
        return algorithm
    raise InputRefused(f"Search: the algorithm must be a name, not {shown(algorithm)}")


def _texts(what: str, values: object) -> dict[str, str]:
    """Names to values as texts. None is no value of anything."""
    if not isinstance(values, Mapping):
        raise InputRefused(f"{what}: give names and values, not {shown(values)}")
    for name, value in values.items():
        if not isinstance(name, str) or value is None:
            raise InputRefused(f"{what}: {shown(name)} cannot be {shown(value)}; leave it out, or give it a value")
    return {name: str(value) for name, value in values.items()}


def typed(parameter: Parameter, text: str) -> Value:
    """An assignment as a Python value: an int, a float, a number of a discrete list, or the text of a choice."""
    if parameter.type == "int":
        return int(text)
    if parameter.type == "double":
        return float(text)
    value = number(text) if parameter.type == "discrete" else None
    if value is None:
        return text
    return int(text) if text.lstrip("+-").isdecimal() else value
