"""The recorded runs of the real Katib, run again: the same assignments and outcomes through the real engine, budget and stopper."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import FakeLauncher, ListSuggester, MemoryStore, Script, VirtualClock
from katib_recorded import RECORDED, Json, Recording, is_early_stopped, read, recorded
from katuna.metric_line import Report
from katuna.report.katib_status import katib_experiment, katib_trial, observation
from katuna.search.budget import check_edit
from katuna.search.engine import Engine
from katuna.search.stopping import stopper_for
from katuna.search.trials import UNAVAILABLE, Edited, Opened, Search, fold

NEVER_STARTS = {
    "badsetting": "refused before it is a run; Katib marks it Failed",
    "hang-min-eq-max": "runs here; Katib's random never gives a point of it",
    "hang-param-not-referenced": "refused before it is a run; Katib never starts a trial",
}
"""Recordings without a trial: there is nothing to run again."""

GOES_ON = {
    "job-medianstop-noretain": "B7: Katib loses the observation of the stopped trial and then never asks again",
    "hyperband": "B13: Katib's second rung is never asked for",
    "grid-exhausted": "Katib's grid begins again when it is through and so never ends",
}
"""Recordings that stay Running where katuna's search comes to an end: katib.md 10."""


def outcome(recording: Recording, number: int) -> Script:
    """What trial `number` did: how long it took, what it reported, how it ended."""
    name = list(recording.trials)[number]
    (began, _), (ended, status) = recording.statuses[name][0], recording.statuses[name][-1]
    last = status["conditions"][-1]["type"]
    if last == "Running":
        return Script(hangs=True)
    if recording.experiment.early_stopping is not None:
        return losses(recording, status)
    metrics = status.get("observation", {}).get("metrics", [])
    reports = [Report(one["name"], one[part]) for one in metrics for part in ("max", "min", "latest") if one[part] != UNAVAILABLE]
    return Script(((ended - began, tuple(reports)),), code=1 if last == "Failed" else 0)


def losses(recording: Recording, status: Json) -> Script:
    """All six reports of a trial of the medianstop recordings, also those that a stopped one did not come to: its loss falls as
    1/step towards a base, its accuracy is 1/(1 + loss). A trial of which the observation was lost had the worst base."""
    metrics = {one["name"]: one for one in status.get("observation", {}).get("metrics", [])}
    base = float(metrics["loss"]["max"]) - 1 if metrics else 0.5
    values = [base + 1 / step for step in range(1, 7)]
    return Script(tuple((1.0, (Report("loss", f"{loss:.6f}"), Report("accuracy", f"{1 / (1 + loss):.6f}"))) for loss in values))


def run_again(recording: Recording, *, let_running_finish: bool) -> MemoryStore:
    """Through the engine. A search that only ever waits is interrupted: wrong-primary-container, whose pods are never made."""
    experiment = recording.experiment
    store = MemoryStore([Opened(0.0, experiment.name, 1, "", {}, {})])
    points = [recording.assignments(name) for name in recording.trials]
    distinct = [point for index, point in enumerate(points) if experiment.name != "grid-exhausted" or point not in points[:index]]

    def once() -> None:
        clock = VirtualClock()
        Engine(
            experiment,
            ListSuggester(distinct),
            FakeLauncher(clock, lambda request: outcome(recording, request.number)),
            store,
            clock,
            stopper=stopper_for(experiment),
            let_running_finish=let_running_finish,
            interruptions=lambda: int(clock.now() > VirtualClock().now() + 1000),
        ).run()

    once()
    for _ in recording.restarts:
        counts = {"maxTrialCount": 4}
        check_edit(experiment, fold(store.events, experiment.objective), counts)
        store.append(Edited(0.0, counts))
        once()
    return store


def shape(status: Json) -> tuple[list[tuple[str, ...]], dict[str, int]]:
    """Conditions without times, and counts: what Katib shows of a search."""
    conditions = [(one["type"], one["status"], one["reason"], one["message"]) for one in status["conditions"]]
    return conditions, {key: count for key, count in status.items() if key.startswith("trial")}


def final_trials(recording: Recording) -> list[Json]:
    return [statuses[-1][1] for statuses in recording.statuses.values()]


@recorded
def test_the_same_outcomes_give_the_recorded_experiment(file: Path) -> None:
    recording = read(file)
    experiment = recording.experiment
    search = fold(run_again(recording, let_running_finish=True).events, experiment.objective)
    ours, theirs = katib_experiment(experiment, search)["status"], recording.final
    if file.stem in NEVER_STARTS:
        assert recording.trials == {}
        return
    if file.stem in GOES_ON:
        assert shape(theirs)[0][-1][:2] == ("Running", "True")
        assert shape(ours)[0][-1][:3] == ("Succeeded", "True", "ExperimentSuggestionEndReached")
        assert shape(ours)[0][0] == shape(theirs)[0][0]
        return
    assert shape(ours) == shape(theirs)
    assert_same_best(recording, search)


@recorded
def test_the_same_outcomes_give_the_recorded_trials(file: Path) -> None:
    """State, observation and early stopping rules of each trial; medianstop decides on all of them itself."""
    recording = read(file)
    experiment = recording.experiment
    search = fold(run_again(recording, let_running_finish=True).events, experiment.objective)
    for (name, statuses), trial in zip(recording.statuses.items(), search.trials.values(), strict=False):
        theirs, ours = statuses[-1][1], katib_trial(experiment, trial)
        assert ours["spec"].get("earlyStoppingRules") == recording.trials[name]["spec"].get("earlyStoppingRules")
        assert [one["type"] for one in ours["status"]["conditions"]] == [one["type"] for one in theirs["conditions"]]
        if "observation" in theirs:
            assert by_name(ours["status"]["observation"]) == by_name(theirs["observation"])
    stopped = sum(is_early_stopped(status) for status in final_trials(recording))
    assert stopped == {"job-medianstop": 3, "job-medianstop-noretain": 1}.get(file.stem, 0)


@pytest.mark.parametrize("name", ["goal-first", "job-goal", "job-maxfailed", "metric-never-printed"])
def test_by_default_what_runs_at_the_end_is_stopped(name: str) -> None:
    """B10: the same last condition, and the trials that Katib lets run on are killed."""
    recording = read(RECORDED / f"{name}.jsonl")
    search = fold(run_again(recording, let_running_finish=False).events, recording.experiment.objective)
    (ours, counts), (theirs, their_counts) = (
        shape(katib_experiment(recording.experiment, search)["status"]),
        shape(recording.final),
    )
    assert ours == theirs
    assert counts["trials"] == their_counts["trials"]
    assert counts["trialsKilled"] >= 1
    assert "trialsKilled" not in their_counts


def assert_same_best(recording: Recording, search: Search) -> None:
    their_best = recording.final["currentOptimalTrial"]
    if "bestTrialName" not in their_best:
        assert search.best is None
        return
    assert search.best is not None
    mine = by_name(observation(recording.experiment, search.best))
    if recording.trials and dict(search.best.assignments) == recording.assignments(their_best["bestTrialName"]):
        assert mine == by_name(their_best["observation"])
    objective = recording.experiment.objective.metric
    assert mine[objective] == by_name(their_best["observation"])[objective]  # of equals Katib's is an arbitrary one


def by_name(shown: Json) -> dict[str, Json]:
    return {one["name"]: one for one in shown["metrics"]}
