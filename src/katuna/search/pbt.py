"""Population based training: generations of trials that begin with the checkpoints of the one before (katib.md 3.2.9)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from katuna.manifest.experiment import Experiment, ObjectiveType, Parameter
from katuna.search.contracts import PARENT_LABEL, NoSuggestion, Suggestion
from katuna.search.draws import Draws, dice
from katuna.search.trials import Assignments, Trial, trial_name

GENERATION_LABEL = "pbt.suggestion.katib.kubeflow.org/generation"
FACTORS = (0.8, 1.2)


@dataclass(frozen=True)
class Member:
    """A trial that came to its end with a value; `gain` is the objective with its sign turned so that more is better."""

    number: int
    assignments: Assignments
    gain: float


@dataclass(frozen=True)
class Place:
    """A place in a generation. It goes on from `parent`, or from nothing in the first one; with `uppers` it takes over the
    parameters and the checkpoints of one of them, at random, instead."""

    generation: int
    parent: Member | None = None
    uppers: tuple[Member, ...] = ()


class PbtSuggester:
    """Each of n_population places of a generation is asked for once, and again, drawn anew, for a trial that ended without a
    value (Katib queues its parameters again: a point that crashes would never end); the next generation begins when all have one. Known results are not used: they have no checkpoints.

    Members below the quantile `truncation_threshold` go on as one of those from its counterpart above, parameters and
    checkpoints; the others go on from their own checkpoints with each parameter a little lower or higher, or, where
    `resample_probability` is given, drawn anew with that probability.
    """

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self._experiment = experiment
        self._seed = seed
        self._population = int(experiment.settings["n_population"])
        self._threshold = float(experiment.settings["truncation_threshold"])
        resample = experiment.settings.get("resample_probability")
        self._resample = None if resample is None else float(resample)
        self._draws = Draws(experiment, seed)
        self._open = deque(Place(0) for _ in range(self._population))
        self._running: dict[int, tuple[Place, Assignments]] = {}
        self._members: list[Member] = []

    def learn(self, assignments: Assignments, value: float) -> None:
        del assignments, value

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        if not self._open:
            return NoSuggestion.WAIT
        suggestion = self._suggestion(self._open[0], number)
        self.restore(number, suggestion)
        return suggestion

    def restore(self, number: int, suggestion: Suggestion) -> None:
        """A point too many, of a user's, is a further member of the generation that runs."""
        place = self._open.popleft() if self._open else Place(next(iter(self._running.values()))[0].generation)
        self._running[number] = (place, suggestion.assignments)

    def tell(self, trial: Trial) -> None:
        place, assignments = self._running.pop(trial.number)
        value = trial.value(self._experiment.objective)
        if value is None:
            self._open.appendleft(place)
            return
        sign = -1.0 if self._experiment.objective.type is ObjectiveType.MINIMIZE else 1.0
        self._members.append(Member(trial.number, assignments, sign * value))
        if not self._open and not self._running:
            self._open = deque(next_generation(self._members, place.generation + 1, self._population, self._threshold))
            self._members = []

    def _suggestion(self, place: Place, number: int) -> Suggestion:
        draws = dice(self._seed, number, "pbt")
        labels = {GENERATION_LABEL: str(place.generation)}
        parent = draws.choice(place.uppers) if place.uppers else place.parent
        if parent is None:
            return Suggestion(self._draws.point(number), labels)
        labels[PARENT_LABEL] = trial_name(self._experiment.name, self._seed, parent.number)
        return Suggestion(dict(parent.assignments) if place.uppers else self._explored(parent, number, draws), labels)

    def _explored(self, parent: Member, number: int, draws: random.Random) -> dict[str, str]:
        point = dict(parent.assignments)
        fresh = self._draws.point(number) if self._resample is not None else {}
        for parameter in self._experiment.parameters:
            name = parameter.name
            if self._resample is None:
                point[name] = perturbed(parameter, point[name], draws)
            elif draws.random() < self._resample:
                point[name] = fresh[name]
        return point


def next_generation(members: Sequence[Member], generation: int, population: int, threshold: float) -> list[Place]:
    """The places that follow on a complete generation, in the order of its trials' numbers; more members than places: the best."""
    best = sorted(members, key=lambda member: (-member.gain, member.number))[:population]
    gains = [member.gain for member in best]
    lower, upper = quantile(gains, threshold), quantile(gains, 1 - threshold)
    uppers = tuple(member for member in best if member.gain >= upper)
    return [
        Place(generation, member, uppers if member.gain < lower else ())
        for member in sorted(best, key=lambda member: member.number)
    ]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie, linear between neighbours, as numpy's."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def perturbed(parameter: Parameter, text: str, draws: random.Random) -> str:
    """A value of the space a little off: a number times 0.8 or 1.2, at least one step away and within its bounds; the choice
    before or after in a list, which closes in a ring."""
    if not parameter.is_numeric:
        move = draws.choice((-1, 1))
        return parameter.values[(parameter.values.index(text) + move) % len(parameter.values)]
    value, factor = float(text), draws.choice(FACTORS)
    moved = parameter.text(value * factor)
    step = parameter.exact_step
    if moved == text and step is not None and value * factor != value:
        moved = parameter.text(value + float(step) * (1 if value * factor > value else -1))
    return moved
