"""When a search ends and how many trials it may start now: Katib's rules (katib.md 2.4, 13) as pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from katuna.spec.model import Experiment
from katuna.trials import Search, TrialState

FAILED_STATES = (TrialState.FAILED, TrialState.METRICS_UNAVAILABLE)
"""Metrics-unavailable trials count as failed for `maxFailedTrialCount` (katib.md 2.4)."""


@dataclass(frozen=True)
class End:
    """The verdict on a whole search; `reason` and `message` become the Experiment's last condition."""

    succeeded: bool
    reason: str
    message: str


GOAL_REACHED = End(True, "ExperimentGoalReached", "Experiment has succeeded because Objective goal has reached")
MAX_TRIALS = End(True, "ExperimentMaxTrialsReached", "Experiment has succeeded because max trial count has reached")
MAX_FAILED = End(False, "ExperimentFailed", "Experiment has failed because max failed count has reached")
SPACE_EXHAUSTED = End(
    True, "ExperimentSuggestionEndReached", "Experiment has succeeded because every point of the space was tried"
)
TIME_IS_UP = End(True, "ExperimentTimeoutReached", "Experiment has succeeded because its --timeout has passed")
TIME_IN_VAIN = End(
    False, "ExperimentTimeoutReached", "Experiment has failed because its --timeout passed before any trial had a value"
)
"""The last three have no counterpart on a cluster: Katib's grid goes on for ever, and it knows no time limit."""


def verdict(experiment: Experiment, search: Search) -> End | None:
    """Whether the trials so far end the search, tested in Katib's order: goal, failed limit, number of trials."""
    objective, best = experiment.objective, search.best
    if best is not None and objective.goal is not None:
        value = best.value(objective)
        assert value is not None
        if objective.type.reaches(value, objective.goal):
            return GOAL_REACHED
    failed = sum(search.counts[state] for state in FAILED_STATES)
    if experiment.max_failed is not None and failed and failed >= experiment.max_failed:
        return MAX_FAILED
    if experiment.max_trials is not None and search.finished >= experiment.max_trials:
        return MAX_TRIALS
    return None


def room(experiment: Experiment, search: Search) -> int:
    """How many more trials may be asked for now.

    Katib leaves metrics-unavailable trials out of this sum and so starts more than `maxTrialCount`; that is not copied.
    """
    want = experiment.parallel_trials
    if experiment.max_trials is not None:
        want = min(want, experiment.max_trials - search.finished)
    return max(0, want - (len(search.trials) - search.finished))
