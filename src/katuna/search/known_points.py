"""Points and results that come from a person or another search: texts checked against the space and put into Katib's form."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from katuna.errors import InputRefused
from katuna.manifest.diagnostic import did_you_mean, listed, shown
from katuna.manifest.experiment import Experiment, Parameter
from katuna.metric_line import number
from katuna.search.trials import Assignments, Known

SCHEDULED = ("hyperband", "pbt")
"""Algorithms whose schedule makes every point itself."""

UNTAUGHT = ("random", "sobol", "qmc", *SCHEDULED)
"""Algorithms that learn nothing from results that were there before."""


@dataclass(frozen=True)
class Taken:
    """What one source gave: `left_out` maps a reason to how many rows it cost, `warning` is about all of them."""

    source: str
    known: tuple[Known, ...]
    left_out: Mapping[str, int]
    warning: str = ""

    def __str__(self) -> str:
        count = len(self.known)
        said = f"{self.source}: {count} known result{'s' if count != 1 else ''} taken"
        left = [f"{times} {reason}" for reason, times in self.left_out.items()]
        return said + (f"; left out: {listed(left)}" if left else "")


def normal(parameter: Parameter, text: str) -> str | None:
    """The value in Katib's text form, on its step; None when it is no value of the parameter.

    Numbers are compared as numbers: `1e-2` is 0.01, `16.0` the int 16, and `2.0` the choice `2` of a list.
    """
    bare = text.strip()
    value = number(bare)
    if not parameter.is_numeric:
        exact = next((choice for choice in parameter.choices if choice in (text, bare)), None)
        if exact is not None or value is None:
            return exact
        return next((choice for choice in parameter.choices if number(choice) == value), None)
    if value is None or not parameter.contains(bare):
        return None
    return str(int(Decimal(bare))) if parameter.type == "int" else parameter.text(value)


def checked(experiment: Experiment, texts: Mapping[str, str], what: str, *, complete: bool = False) -> dict[str, str]:
    """The assignments in Katib's form and the Experiment's order. `what` names the input in messages.

    Raises InputRefused for a parameter that is not there, a value outside the feasible space or off its step, and, where the
    point must be `complete`, a missing parameter.
    """
    names = [parameter.name for parameter in experiment.parameters]
    for name in texts:
        if name not in names:
            meant = did_you_mean(name, names)
            hint = f"did you mean {meant}?" if meant else f"parameters: {listed(names)}"
            raise InputRefused(f"{what}: {experiment.name} has no parameter {shown(name)} ({hint})")
    missing = [name for name in names if name not in texts]
    if complete and missing:
        raise InputRefused(f"{what}: no value for {listed(missing)}; a result is of a whole point")
    point = {}
    for parameter in experiment.parameters:
        if parameter.name in texts:
            text = normal(parameter, texts[parameter.name])
            if text is None:
                raise InputRefused(
                    f"{what}: {parameter.name} cannot be {shown(texts[parameter.name])}: it is {domain(parameter)}"
                )
            point[parameter.name] = text
    return point


def domain(parameter: Parameter) -> str:
    """A feasible space in words: `a double from 0.01 to 0.9 in steps of 0.1`, `one of sgd, adam`."""
    if not parameter.is_numeric:
        return f"one of {listed(parameter.choices)}"
    article = "an" if parameter.type == "int" else "a"
    steps = f" in steps of {parameter.step}" if parameter.step else ""
    return f"{article} {parameter.type} from {parameter.minimum} to {parameter.maximum}{steps}"


def parse_try(text: str) -> dict[str, str]:
    """`lr=0.01,layers=2` as names and texts. It is one record of CSV: a pair that holds a comma stands in double quotes, and a
    quote within them is doubled. Raises InputRefused."""
    try:
        pairs = [pair for pair in next(csv.reader([text], strict=True), []) if pair.strip()]
    except csv.Error as error:
        raise InputRefused(f'--try {text}: {error}; a pair with a comma in it goes in double quotes: lr=0.01,"mix=a,b"') from None
    point: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not (name and equals):
            raise InputRefused(
                f'--try {text}: {shown(pair)} is not NAME=VALUE; a pair with a comma in it goes in double quotes: lr=0.01,"mix=a,b"'
            )
        if name in point:
            raise InputRefused(f"--try {text}: {name} is given twice")
        point[name] = value
    if not point:
        raise InputRefused("--try needs a point, e.g. --try lr=0.01,layers=2")
    return point


def checked_tries(experiment: Experiment, tries: Iterable[Mapping[str, str]]) -> tuple[Assignments, ...]:
    """The points that a search begins with, each perhaps of some parameters only. Raises InputRefused."""
    points = []
    tries = tuple(tries)
    if experiment.max_trials is not None and len(tries) > experiment.max_trials:
        raise InputRefused(
            f"--try is given {len(tries)} times, and maxTrialCount is {experiment.max_trials}: the rest would never run; "
            "leave some out, or raise maxTrialCount in the file"
        )
    for given in tries:
        what = "--try " + ",".join(f"{name}={value}" for name, value in given.items())
        if experiment.algorithm in SCHEDULED:
            raise InputRefused(f"{what}: {experiment.algorithm} makes every point by its schedule; leave --try out")
        points.append(MappingProxyType(checked(experiment, given, what)))
    return tuple(points)


def completed(experiment: Experiment, seed: int, tries: Sequence[Assignments]) -> tuple[Assignments, ...]:
    """The same points with every parameter: what is missing of point n is drawn at random with the seed of trial n."""
    names = [parameter.name for parameter in experiment.parameters]
    if all(len(point) == len(names) for point in tries):
        return tuple(tries)
    from katuna.search.draws import Draws

    draws = Draws(experiment, seed)
    points = []
    for index, given in enumerate(tries):
        drawn = draws.point(index)
        points.append(MappingProxyType({name: given.get(name, drawn[name]) for name in names}))
    return tuple(points)
