"""When a search ends, how many trials it may start now, what may be changed of that: Katib's rules as pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from katuna.errors import InputRefused
from katuna.manifest.experiment import Experiment
from katuna.search.trials import Search, Trial, TrialState

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


SUSPENDED = "Suspended"
"""The reason of a job's end that was not to begin."""


def put_off(search: Search) -> bool:
    """Whether it ended for want of time, or as its job was suspended: it can go on, whatever its resumePolicy says."""
    return search.ended is not None and search.ended.reason in (TIME_IS_UP.reason, SUSPENDED)


def cut_short(trial: Trial) -> bool:
    """Whether the search's time limit has stopped the trial: where the search goes on, so does the trial, from its beginning."""
    return trial.state is TrialState.KILLED and trial.stop_reason == TIME_IS_UP.reason


def verdict(experiment: Experiment, search: Search) -> End | None:
    """Whether the trials so far end the search, tested in Katib's order: goal, failed limit, number of trials (katib.md 2.4).

    Here as in `room` the Experiment's counts are as `edited` gives them.
    """
    if experiment.is_training:
        trial = search.trials.get(0)
        ended = trial is not None and trial.state.is_final
        return End(trial.state is TrialState.SUCCEEDED, trial.reason, trial.message) if trial and ended else None
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


_FIELDS = {"parallelTrialCount": "parallel_trials", "maxTrialCount": "max_trials", "maxFailedTrialCount": "max_failed"}
"""What may be edited of an Experiment, and where the model has it."""

RESTARTABLE = ("LongRunning", "FromVolume")
"""The resume policies under which a search that has ended may go on."""


def edited(experiment: Experiment, search: Search) -> Experiment:
    """The Experiment with the counts that Edited events have given it, in its manifest too."""
    if not search.budget:
        return experiment
    manifest = {**experiment.manifest, "spec": {**experiment.manifest.get("spec", {}), **search.budget}}
    counts: dict[str, Any] = {_FIELDS[name]: count for name, count in search.budget.items()}
    return replace(experiment, manifest=manifest, **counts)


def check_edit(experiment: Experiment, search: Search, counts: Mapping[str, int]) -> None:
    """Whether `counts` (Katib's names of the three to their new values) may be set now: Katib's rules (katib.md 1.7), but for one.

    What changes nothing is allowed at any time, and parallelTrialCount alone while trials that were asked for have still to run: Katib,
    which goes on with such trials all at once, would refuse that. Raises InputRefused.
    """
    now = edited(experiment, search)
    if all(getattr(now, _FIELDS[name]) == count for name, count in counts.items()):
        return
    wanted = {name: counts.get(name, getattr(now, field)) for name, field in _FIELDS.items()}
    _check_counts(wanted)
    _check_restart(now, search)
    most = wanted["maxTrialCount"]
    is_pace = {name for name in counts if getattr(now, _FIELDS[name]) != counts[name]} == {"parallelTrialCount"}
    if is_pace and any(not trial.state.is_final or cut_short(trial) for trial in search.trials.values()):
        return
    if most is not None and most <= len(search.trials):
        raise InputRefused(
            f"spec.maxTrialCount: {most} is not more than the {len(search.trials)} trials that the search has asked for; "
            f"a budget can be changed only to one that leaves some to do: give {len(search.trials) + 1} or more"
        )


def _check_counts(wanted: Mapping[str, int | None]) -> None:
    most = wanted["maxTrialCount"]
    for name, least in (("maxTrialCount", 1), ("parallelTrialCount", 1), ("maxFailedTrialCount", 0)):
        count = wanted[name]
        if count is not None and count < least:
            raise InputRefused(f"spec.{name}: {count} is too small; give {least} or more")
        if count is not None and most is not None and count > most:
            raise InputRefused(
                f"spec.{name}: {count} is more than maxTrialCount, {most}; give {most} or less, or raise maxTrialCount"
            )


def _check_restart(experiment: Experiment, search: Search) -> None:
    """A search that has ended goes on only after its number of trials, and only where the file's resumePolicy says so."""
    if search.ended is None or put_off(search):
        return
    way_out = "start another that knows its results with `katuna tune FILE --warm-start RUN`"
    if search.ended.reason != MAX_TRIALS.reason:
        raise InputRefused(
            f"the search has ended with {search.ended.reason}; only one that has ended with {MAX_TRIALS.reason} can go on with "
            f"another budget; {way_out}"
        )
    if experiment.resume_policy not in RESTARTABLE:
        raise InputRefused(
            f"spec.resumePolicy: {experiment.resume_policy!r} ends the search for good once it has succeeded; only "
            f"{' and '.join(RESTARTABLE)} let it go on with another budget; {way_out}"
        )
