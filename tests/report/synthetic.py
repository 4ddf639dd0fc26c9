"""Searches made up for the report: the journal of a run that never ran, from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from factories import make_experiment
from katuna.manifest.experiment import Experiment, Objective, ObjectiveType, Parameter
from katuna.metric_line import Report
from katuna.search.trials import Asked, Ended, Event, Exited, Opened, Reported, Search, Started, fold, trial_name

START = 1_795_000_000.0

PARAMETERS = (
    Parameter("lr", "double", "1e-5", "1e-1", distribution="logUniform"),
    Parameter("momentum", "double", "0.5", "0.99"),
    Parameter("width", "int", "16", "256", step="16"),
    Parameter("batch", "discrete", choices=("32", "64", "128")),
    Parameter("optimizer", "categorical", choices=("sgd", "adam", "adamw")),
)


def tuning(parameters: tuple[Parameter, ...] = PARAMETERS, *, metric: str = "accuracy", **changes: object) -> Experiment:
    names = (metric, "loss")
    objective = Objective(ObjectiveType.MAXIMIZE, metric, 0.999, ("loss",), MappingProxyType(dict.fromkeys(names, "max")))
    return make_experiment(
        **{
            "name": "digits-tpe",
            "algorithm": "tpe",
            "objective": objective,
            "parameters": parameters,
            "max_trials": 40,
            **changes,
        }
    )


def point(experiment: Experiment, rng: random.Random) -> dict[str, str]:
    assignments = {}
    for parameter in experiment.parameters:
        if not parameter.is_numeric:
            assignments[parameter.name] = rng.choice(parameter.choices)
            continue
        low, high = parameter.bounds
        log = parameter.distribution == "logUniform"
        value = math.exp(rng.uniform(math.log(low), math.log(high))) if log else rng.uniform(low, high)
        assignments[parameter.name] = parameter.text(value)
    return assignments


def quality(assignments: Mapping[str, str]) -> float:
    """A made-up accuracy with its best near lr 3e-3; the momentum counts a little."""
    lr, momentum = float(assignments.get("lr", 3e-3)), float(assignments.get("momentum", 0.9))
    return 0.985 * math.exp(-((math.log10(lr / 3e-3) / 2.2) ** 2)) - 0.1 * abs(momentum - 0.85)


def trial_events(experiment: Experiment, number: int, at: float, rng: random.Random, *, epochs: int = 12) -> Iterator[Event]:
    """One trial from its asking to its end: mostly well, now and then crashed or without its metric."""
    assignments, metric = point(experiment, rng), experiment.objective.metric
    yield Asked(at, number, trial_name(experiment.name, 7, number), MappingProxyType(assignments))
    yield Started(at + 0.2, number, 1, MappingProxyType({"pid": 4000 + number}))
    fate = rng.random()
    top = quality(assignments)
    for epoch in range(epochs if fate > 0.08 else 3):
        accuracy = top * (1 - math.exp(-(epoch + 1) / 3)) + rng.gauss(0, 0.004)
        reports = [Report("loss", f"{2.3 * (1 - accuracy):.4f}")]
        if fate < 0.92:
            reports.append(Report(metric, f"{accuracy:.4f}"))
        yield Reported(at + 1 + epoch, number, tuple(reports))
    if fate <= 0.08:
        yield Exited(at + 5, number, 1, "Error", "exit code 1; last line: RuntimeError: loss is NaN at step 120")
    else:
        yield Exited(at + 2 + epochs, number, 0, "Completed", nearest=("acuracy=0.97",))


def make_events(experiment: Experiment, trials: int, *, seed: int = 1, ended: bool = True, epochs: int = 12) -> list[Event]:
    rng = random.Random(seed)
    events: list[Event] = [Opened(START, experiment.name, 7, "", {"katuna": "0.1.0", "optuna": "5.0.0"}, {})]
    for number in range(trials):
        events.extend(trial_events(experiment, number, START + 1 + number * 8, rng, epochs=epochs))
    if ended:
        message = "Experiment has succeeded because max trial count has reached"
        events.append(Ended(START + 10 + trials * 8, True, "ExperimentMaxTrialsReached", message))
    return events


def make_run(
    trials: int, *, seed: int = 1, ended: bool = True, epochs: int = 12, **changes: object
) -> tuple[Experiment, Search, list[Event]]:
    """An Experiment (`tuning(**changes)`), its folded journal, and the journal."""
    experiment = tuning(**changes)  # type: ignore[arg-type]
    events = make_events(experiment, trials, seed=seed, ended=ended, epochs=epochs)
    return experiment, fold(events, experiment.objective), events
