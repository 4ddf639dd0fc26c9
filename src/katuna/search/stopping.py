"""Which running trials are stopped early: Katib's medianstop to the letter, and asynchronous rules over the reported steps.

A step is one number reported for the objective; other texts are no reports (katib.md 10, B11). Nan and infinities are steps, worse
than any number: a trial whose value they are (the last one with strategy `latest`, else where no finite one came) is stopped where it
would be compared.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from katuna.errors import InputRefused
from katuna.manifest.diagnostic import hint_of, listed, shown
from katuna.manifest.experiment import EarlyStopping, Experiment, Objective, ObjectiveType
from katuna.manifest.settings import EARLY_STOPPING, Check, check_settings, real, whole
from katuna.metric_line import Report, is_diverged, number
from katuna.search.contracts import Stopper
from katuna.search.trials import Exited, Reported, Started, StopRule, Trial, TrialEvent, TrialState

STOPPING_OVERRIDES: Mapping[str, Mapping[str, Check]] = {
    "asha": {"reduction_factor": whole(2), "min_step": whole(1)},
    "median": {"min_trials_required": whole(1), "start_step": whole(1)},
    "percentile": {"percentile": real(0, 100), "min_trials_required": whole(1), "start_step": whole(1)},
}
"""The rules that no Katib has, with their settings; a run here may ask for them in the place of the file's."""

DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "medianstop": {"min_trials_required": "3", "start_step": "4"},
    "asha": {"reduction_factor": "3", "min_step": "1"},
    "median": {"min_trials_required": "3", "start_step": "4"},
    "percentile": {"percentile": "25", "min_trials_required": "3", "start_step": "4"},
}

NONE = "none"
"""The name that switches the file's early stopping off."""


def with_early_stopping(experiment: Experiment, name: str, settings: Mapping[str, str]) -> Experiment:
    """The Experiment with this rule in the place of its own, in its manifest too. Raises InputRefused for what is no rule, or no
    setting or value of it."""
    rules = {**EARLY_STOPPING, **STOPPING_OVERRIDES}
    if name != NONE and name not in rules:
        names = (*rules, NONE)
        hint = f"{hint_of(name, names)} rules: {listed(names)}".strip()
        raise InputRefused(f"there is no early stopping {shown(name)}; {hint}")
    given = [{"name": setting, "value": value} for setting, value in settings.items()]
    for remark in check_settings(given, rules.get(name, {}), name, ("spec", "earlyStopping", "algorithmSettings")):
        raise InputRefused(f"early stopping {name}: {remark.message}" + (f" ({remark.hint})" if remark.hint else ""))
    stopping = None if name == NONE else EarlyStopping(name, MappingProxyType(dict(settings)))
    return replace(experiment, early_stopping=stopping, manifest=_with_stopping(experiment.manifest, stopping))


def _with_stopping(manifest: Mapping[str, Any], stopping: EarlyStopping | None) -> Mapping[str, Any]:
    spec = {key: value for key, value in manifest.get("spec", {}).items() if key != "earlyStopping"}
    if stopping is not None:
        settings = [{"name": name, "value": value} for name, value in stopping.settings.items()]
        spec["earlyStopping"] = {"algorithmName": stopping.algorithm} | ({"algorithmSettings": settings} if settings else {})
    return {**manifest, "spec": spec}


def stopper_for(experiment: Experiment) -> Stopper | None:
    """The Experiment's stopping rule, fresh; None when it has none."""
    stopping, objective = experiment.early_stopping, experiment.objective
    if stopping is None:
        return None
    settings = {**DEFAULTS[stopping.algorithm], **stopping.settings}
    if stopping.algorithm == "asha":
        return Asha(objective, int(settings["reduction_factor"]), int(settings["min_step"]))
    least, start = int(settings["min_trials_required"]), int(settings["start_step"])
    if stopping.algorithm == "medianstop":
        return MedianStop(objective, least, start)
    return Percentile(objective, float(settings.get("percentile", "50")), least, start)


def _sign(objective: Objective) -> int:
    """What makes the lower of two values the better one."""
    return 1 if objective.type is ObjectiveType.MINIMIZE else -1


@dataclass(slots=True)
class _Attempt:
    """A running trial as medianstop sees it: its earliest reports for the mean, and how far each of its rules is."""

    first: list[tuple[int, int, float]] = field(default_factory=list)
    seen: int = 0
    best: float = math.inf
    counts: Counter[str] = field(default_factory=Counter)
    met: set[StopRule] = field(default_factory=set)
    stopped: bool = False


class MedianStop:
    """Katib's medianstop (katib.md 3.4). What it calls a median is the plain mean, over the trials that have succeeded, of the mean
    of each one's first `start_step` objective values by (time, order of reporting).

    A trial keeps the rules of the moment in which it was asked for. A rule is tested once, at exactly its start step, on the best
    value so far, and strictly; a trial is stopped when all its rules are met. Of finished trials two numbers are kept in all.
    """

    def __init__(self, objective: Objective, min_trials_required: int, start_step: int) -> None:
        self._objective = objective
        self._least, self._start = min_trials_required, start_step
        self._sign = _sign(objective)
        self._total, self._succeeded = 0.0, 0
        self._attempts: dict[int, _Attempt] = {}

    def rules(self) -> tuple[StopRule, ...]:
        if self._succeeded < self._least:
            return ()
        comparison = "greater" if self._objective.type is ObjectiveType.MINIMIZE else "less"
        mean = str(self._total / self._succeeded)
        return (StopRule(self._objective.metric, mean, comparison, self._start),)  # type: ignore[arg-type]

    def see(self, event: TrialEvent, trial: Trial) -> bool:
        if isinstance(event, Exited):
            self._end(trial)
        elif trial.stop_reason:
            return False
        elif isinstance(event, Started):
            self.forget(event.number)
        elif isinstance(event, Reported):
            return self._report(event, trial)
        return False

    def forget(self, number: int) -> None:
        self._attempts.pop(number, None)

    def _end(self, trial: Trial) -> None:
        attempt = self._attempts.pop(trial.number, None)
        if attempt is not None and attempt.first and trial.state is TrialState.SUCCEEDED:
            total = 0.0
            for _, _, value in attempt.first:
                total += value
            # A running sum in the order of success: the digits of Katib's own, which newer Pythons' sum() would round otherwise.
            self._total += total / len(attempt.first)
            self._succeeded += 1

    def _report(self, event: Reported, trial: Trial) -> bool:
        attempt = self._attempts.setdefault(event.number, _Attempt())
        for report in event.reports:
            value = number(report.value)
            if value is None and not is_diverged(report.value):
                continue
            if report.metric == self._objective.metric:
                value = self._sign * self._best_so_far(attempt, value, report)
            attempt.counts[report.metric] += 1
            for rule in trial.rules:
                if rule.metric == report.metric and attempt.counts[rule.metric] == rule.start_step and _holds(rule, value):
                    attempt.met.add(rule)
            if trial.rules and not attempt.stopped and attempt.met.issuperset(trial.rules):
                attempt.stopped = True
                return True
        return False

    def _best_so_far(self, attempt: _Attempt, value: float | None, report: Report) -> float:
        """With the sign that makes lower better; infinite for one that has diverged."""
        if value is None:
            return math.inf if self._objective.strategy == "latest" else attempt.best
        insort(attempt.first, (report.time_us or 0, attempt.seen, value))
        del attempt.first[self._start :]
        attempt.seen += 1
        attempt.best = min(attempt.best, self._sign * value)
        return attempt.best


def _holds(rule: StopRule, value: float | None) -> bool:
    if value is None:
        return False
    limit = float(rule.value)
    return value < limit if rule.comparison == "less" else value > limit if rule.comparison == "greater" else value == limit


@dataclass(slots=True)
class _Steps:
    """A running trial as the asynchronous rules see it. `held` are its entries among those that others are compared with."""

    step: int = 0
    best: float = math.inf
    held: list[tuple[int, float]] = field(default_factory=list)
    stopped: bool = False


class _Asynchronous:
    """Tests a trial at the steps that the rule chooses, at once: its best value so far against the same of all other trials that
    have come so far, whatever became of them.

    Values are held with the sign that makes lower better, sorted, eight bytes for a trial and a step.
    """

    def __init__(self, objective: Objective) -> None:
        self._metric, self._sign = objective.metric, _sign(objective)
        self._goes_by_latest = objective.strategy == "latest"
        self._reached: dict[int, array[float]] = {}
        self._running: dict[int, _Steps] = {}

    def tests(self, step: int) -> bool:
        raise NotImplementedError

    def is_poor(self, best: float, others: array[float]) -> bool:
        """Whether a trial with this best value shall stop; `others` is sorted, the best one first."""
        raise NotImplementedError

    def rules(self) -> tuple[StopRule, ...]:
        return ()

    def see(self, event: TrialEvent, trial: Trial) -> bool:
        if isinstance(event, Exited):
            self._running.pop(event.number, None)
        elif trial.stop_reason:
            return False
        elif isinstance(event, Started):
            self.forget(event.number)
        elif isinstance(event, Reported):
            steps = self._running.setdefault(event.number, _Steps())
            texts = [report.value for report in event.reports if report.metric == self._metric]
            values = [number(text) for text in texts if number(text) is not None or is_diverged(text)]
            return any(self._stops(steps, value) for value in values)
        return False

    def forget(self, number: int) -> None:
        steps = self._running.pop(number, None)
        for step, value in steps.held if steps else ():
            reached = self._reached[step]
            del reached[bisect_left(reached, value)]

    def _stops(self, steps: _Steps, value: float | None) -> bool:
        if steps.stopped:
            return False
        steps.step += 1
        if value is not None:
            steps.best = min(steps.best, self._sign * value)
        if self.tests(steps.step):
            others = self._reached.setdefault(steps.step, array("d"))
            best = math.inf if value is None and self._goes_by_latest else steps.best
            if best == math.inf:
                # Worse than any number, and no number that others could be compared with.
                steps.stopped = bool(others)
                return steps.stopped
            steps.stopped = self.is_poor(best, others)
            insort(others, best)
            steps.held.append((steps.step, best))
        return steps.stopped


class Asha(_Asynchronous):
    """Asynchronous successive halving, one bracket: at the steps `min_step` * `reduction_factor`**k a trial goes on only among the
    best 1/`reduction_factor` of those that have come so far, itself included; the best one always does."""

    def __init__(self, objective: Objective, reduction_factor: int, min_step: int) -> None:
        super().__init__(objective)
        self._factor, self._least = reduction_factor, min_step

    def tests(self, step: int) -> bool:
        rung = self._least
        while rung < step:
            rung *= self._factor
        return rung == step

    def is_poor(self, best: float, others: array[float]) -> bool:
        places = max(1, (len(others) + 1) // self._factor)
        return bisect_left(others, best) >= places


EVERY_STEP = 64
"""So long the percentile rules test at each step, then at 32 steps in each doubling: what a trial leaves stays under 2 kB up to
2,000 steps."""


class Percentile(_Asynchronous):
    """From `start_step` on, a trial goes on only while it is not worse than the best `percentile` percent of the others, at least
    `min_trials_required` of them; 50 is the true median. Between two values the limit is interpolated."""

    def __init__(self, objective: Objective, percentile: float, min_trials_required: int, start_step: int) -> None:
        super().__init__(objective)
        self._share, self._least, self._start = percentile / 100, min_trials_required, start_step

    def tests(self, step: int) -> bool:
        stride = 1 << max(0, step.bit_length() - EVERY_STEP.bit_length() + 1)
        return step >= self._start and step % stride == 0

    def is_poor(self, best: float, others: array[float]) -> bool:
        if len(others) < self._least:
            return False
        place = (len(others) - 1) * self._share
        below, above = others[math.floor(place)], others[math.ceil(place)]
        return best > below + (above - below) * (place - math.floor(place))
