from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from factories import a_life, make_experiment, make_trial, opened
from katib_recorded import Json, Recording, is_early_stopped, read, recorded, seconds, trial_events
from katuna.manifest.experiment import Objective, ObjectiveType
from katuna.metric_line import Report
from katuna.report.katib_status import katib_experiment, katib_trial, timestamp
from katuna.search.trials import (
    EARLY_STOPPED,
    UNAVAILABLE,
    Asked,
    Edited,
    Ended,
    Event,
    Exited,
    Opened,
    Reported,
    Resumed,
    Started,
    Stopping,
    StopRule,
    TrialState,
    fold,
)


def without_words(status: Json) -> Json:
    """Without reason and message of the last condition: for a trial without metrics katuna says more than the job's own."""
    *others, last = status["conditions"]
    return {**status, "conditions": [*others, {key: last[key] for key in last if key not in ("reason", "message")}]}


def in_name_order(observation: Json) -> Json:
    """Katib's order of metrics changes from trial to trial; ours is that of the strategies."""
    return {**observation, "metrics": sorted(observation["metrics"], key=lambda one: one["name"])}


@recorded
def test_trials_look_as_katib_shows_them_at_every_change(file: Path) -> None:
    recording = read(file)
    objective = recording.experiment.objective
    for number, (name, statuses) in enumerate(recording.statuses.items()):
        for _, status in statuses:
            if is_early_stopped(status) and "observation" not in status:
                continue  # Katib stops first and looks for metrics later, or, with retain false, never (katib.md 10, B7)
            trial = fold(trial_events(recording, number, name, status), objective).trials[number]
            ours = katib_trial(recording.experiment, trial)["status"]
            if trial.state is TrialState.METRICS_UNAVAILABLE:
                assert ours["conditions"][-1]["reason"] == "MetricsUnavailable"
                assert ours["conditions"][-1]["message"].startswith("Metrics are not available")
                ours, status = without_words(ours), without_words(status)  # noqa: PLW2901
            if "observation" in status:
                ours, status = ({**one, "observation": in_name_order(one["observation"])} for one in (ours, status))  # noqa: PLW2901
            assert ours == status


@recorded
def test_trial_objects_are_the_recorded_ones(file: Path) -> None:
    recording = read(file)
    for number, (name, line) in enumerate(recording.trials.items()):
        (asked, *_) = trial_events(recording, number, name, recording.statuses[name][0][1])
        ours = katib_trial(recording.experiment, fold([asked], recording.experiment.objective).trials[number])
        assert ours["spec"] == line["spec"]
        assert ours["metadata"]["labels"] == line["metadata"]["labels"]
        assert (ours["kind"], ours["metadata"]["name"], ours["metadata"]["namespace"]) == ("Trial", name, "kubeflow")


def final_search(recording: Recording):
    """What was so when Katib last wrote the Experiment's status: trials of which it did not know yet are left out."""
    final = recording.final
    known = {name for key, names in final.items() if key.endswith("TrialList") for name in names}
    events: list[Event] = [Opened(seconds(final["startTime"]), recording.experiment.name, 0, "", {}, {})]
    for number, (name, statuses) in enumerate(recording.statuses.items()):
        if name in known:
            status = [status for t, status in statuses if t <= recording.until][-1]
            events.extend(trial_events(recording, number, name, status))
    for restart in recording.restarts:
        at = seconds(restart["lastTransitionTime"])
        events += [Ended(at, True, "ExperimentMaxTrialsReached", ""), Edited(at, {"maxTrialCount": 4})]
    last = final["conditions"][-1]
    if last["type"] in ("Succeeded", "Failed"):
        at = seconds(last["lastTransitionTime"])
        events.append(Ended(at, last["type"] == "Succeeded", last["reason"], last["message"]))
    return fold(events, recording.experiment.objective)


@recorded
def test_experiments_end_as_katib_shows_them(file: Path) -> None:
    recording = read(file)
    search = final_search(recording)
    ours = katib_experiment(recording.experiment, search)["status"]
    theirs = dict(recording.final)
    if file.stem == "badsetting":
        theirs["completionTime"] = theirs["conditions"][-1]["lastTransitionTime"]  # Katib forgets it when its suggestion fails
    for status in (ours, theirs):
        for key in status:
            if key.endswith("TrialList"):
                status[key] = sorted(status[key])  # Katib's order is arbitrary
    for status in (ours, theirs):
        best = status["currentOptimalTrial"]
        if best["observation"]:
            status["currentOptimalTrial"] = {**best, "observation": in_name_order(best["observation"])}
    their_best = theirs["currentOptimalTrial"].get("bestTrialName")
    if their_best != ours["currentOptimalTrial"].get("bestTrialName"):
        (rival,) = [trial for trial in search.trials.values() if trial.name == their_best]
        assert search.best is not None
        assert rival.value(recording.experiment.objective) == search.best.value(
            recording.experiment.objective
        )  # an arbitrary tie
        theirs["currentOptimalTrial"] = ours["currentOptimalTrial"]
    # Running since: katuna says the first trial's creation, Katib when it next looked, up to a second later.
    if ours["conditions"][-1]["type"] == "Running":
        for status in (ours, theirs):
            for key in ("lastUpdateTime", "lastTransitionTime"):
                status["conditions"][-1].pop(key)
    assert ours == theirs


OBJECTIVE = Objective(ObjectiveType.MAXIMIZE, "accuracy", additional=("loss",), strategies={"accuracy": "latest", "loss": "min"})
EXPERIMENT = make_experiment(
    objective=OBJECTIVE,
    labels={"team": "vision"},
    manifest={"kind": "Experiment", "spec": {"objective": {"type": "maximize"}, "metricsCollectorSpec": {}}},
)
POINT = {"lr": "0.01", "width": "8", "optimizer": "sgd"}


def last_condition(thing: Json) -> tuple[str, str, str, str]:
    last = thing["status"]["conditions"][-1]
    return last["type"], last["status"], last["reason"], last["message"]


def test_times_are_utc_and_cut_to_the_second() -> None:
    assert timestamp(1_763_903_285.999) == "2025-11-23T13:08:05Z"


def test_a_journal_without_events_still_has_a_status() -> None:
    status = katib_experiment(EXPERIMENT, fold([], OBJECTIVE))["status"]
    assert status == {"conditions": [], "completionTime": None, "currentOptimalTrial": {"observation": {}}}


def test_a_young_search_is_created_and_not_yet_running() -> None:
    status = katib_experiment(EXPERIMENT, fold([opened()], OBJECTIVE))["status"]
    assert [one["type"] for one in status["conditions"]] == ["Created"]
    assert status["completionTime"] is None


def test_pending_running_and_done_are_counted_apart() -> None:
    events: list[Event] = [
        opened(),
        *a_life(0, POINT, 0.5),
        Asked(5, 1, "one", POINT),
        Started(6, 1, 1, {}),
        Asked(7, 2, "two", POINT),
    ]
    status = katib_experiment(EXPERIMENT, fold(events, OBJECTIVE))["status"]
    assert (status["trials"], status["trialsSucceeded"], status["trialsRunning"], status["trialsPending"]) == (3, 1, 1, 1)
    assert (status["runningTrialList"], status["pendingTrialList"]) == (["one"], ["two"])
    assert not {"completionTime", "trialsFailed", "failedTrialList", "trialMetricsUnavailable"} & set(status)
    assert status["conditions"][-1]["status"] == "True"


def test_the_best_trial_shows_every_metric_of_the_strategies_in_their_order() -> None:
    status = katib_experiment(EXPERIMENT, fold([opened(), *a_life(0, POINT, 0.5)], OBJECTIVE))["status"]
    best = status["currentOptimalTrial"]
    assert best["parameterAssignments"][0] == {"name": "lr", "value": "0.01"}
    missing = {"name": "loss", "min": UNAVAILABLE, "max": UNAVAILABLE, "latest": UNAVAILABLE}
    assert best["observation"]["metrics"] == [{"name": "accuracy", "min": "0.5", "max": "0.5", "latest": "0.5"}, missing]


def test_a_failed_trial_appends_the_reason_of_its_process_and_has_no_observation() -> None:
    events = [
        *a_life(0, POINT, None)[:2],
        Reported(1.5, 0, (Report("accuracy", "0.9"),)),
        Exited(2, 0, 137, "OOMKilled", "out of memory"),
    ]
    trial = katib_trial(EXPERIMENT, fold(events, OBJECTIVE).trials[0])
    assert last_condition(trial) == (
        "Failed",
        "True",
        "TrialFailed. Job reason: OOMKilled",
        "Trial has failed. Job message: out of memory",
    )
    assert "observation" not in trial["status"]
    assert trial["status"]["conditions"][1]["status"] == "False"


def test_a_trial_that_never_started_was_never_running() -> None:
    events = [Asked(0, 0, "x", POINT), Exited(1, 0, None, "StartError", "no such command")]
    trial = katib_trial(EXPERIMENT, fold(events, OBJECTIVE).trials[0])
    assert [one["type"] for one in trial["status"]["conditions"]] == ["Created", "Failed"]


def test_a_stopped_trial_is_killed() -> None:
    events = [*a_life(0, POINT, 0.5)[:3], Stopping(3, 0, "ExperimentGoalReached"), Exited(4, 0, 143, "Error")]
    trial = katib_trial(EXPERIMENT, fold(events, OBJECTIVE).trials[0])
    kind, _, reason, _ = last_condition(trial)
    assert (kind, reason) == ("Killed", "TrialKilled. Job reason: ExperimentGoalReached")
    assert trial["status"]["completionTime"] == timestamp(4)


def test_a_trial_without_its_metric_says_which_lines_were_nearest() -> None:
    events = [*a_life(0, POINT, None)[:2], Exited(3, 0, 0, "Completed", nearest=("acuracy=0.9",))]
    trial = katib_trial(EXPERIMENT, fold(events, OBJECTIVE).trials[0])
    kind, _, reason, message = last_condition(trial)
    assert (kind, reason) == ("MetricsUnavailable", "MetricsUnavailable")
    assert "acuracy=0.9" in message
    assert trial["status"]["observation"]["metrics"][0]["latest"] == UNAVAILABLE


def test_a_trial_that_is_run_again_is_created_again() -> None:
    events = [opened(), *a_life(0, POINT, 0.5)[:3], Resumed(9, (0,))]
    trial = katib_trial(EXPERIMENT, fold(events, OBJECTIVE).trials[0])
    assert [one["type"] for one in trial["status"]["conditions"]] == ["Created"]


def test_an_early_stopped_trial_keeps_its_metrics_and_stays_running_beside() -> None:
    rule = StopRule("accuracy", "0.7", "less", 1)
    asked, *life = a_life(0, POINT, 0.5)[:3]
    events = [opened(), replace(asked, rules=(rule,)), *life, Stopping(3, 0, EARLY_STOPPED), Exited(4, 0, 143, "Stopped")]
    search = fold(events, OBJECTIVE)
    trial = katib_trial(EXPERIMENT, search.trials[0])
    assert [(one["type"], one["status"]) for one in trial["status"]["conditions"]] == [
        ("Created", "True"),
        ("Running", "True"),
        ("EarlyStopped", "True"),
    ]
    assert last_condition(trial)[2:] == ("TrialEarlyStopped", "Trial is early stopped")
    assert "completionTime" not in trial["status"]
    assert trial["status"]["observation"]["metrics"][0]["latest"] == "0.5"
    assert trial["spec"]["earlyStoppingRules"] == [{"name": "accuracy", "value": "0.7", "comparison": "less", "startStep": 1}]
    status = katib_experiment(EXPERIMENT, search)["status"]
    assert (status["trialsEarlyStopped"], status["earlyStoppedTrialList"]) == (1, [search.trials[0].name])
    assert status["currentOptimalTrial"]["bestTrialName"] == search.trials[0].name


def test_a_search_taken_up_again_is_restarting_for_ever_and_shows_its_new_budget() -> None:
    ended = Ended(50, True, "ExperimentMaxTrialsReached", "Experiment has succeeded because max trial count has reached")
    events: list[Event] = [opened(), *a_life(0, POINT, 0.5), ended, Edited(60, {"maxTrialCount": 2}), Resumed(61, ())]
    running = katib_experiment(EXPERIMENT, fold(events, OBJECTIVE))
    assert conditions(running) == [("Created", "True", 0), ("Restarting", "True", 60), ("Running", "True", 60)]
    assert running["status"]["completionTime"] == timestamp(50), "as recorded: Katib does not take it away"
    assert running["spec"]["maxTrialCount"] == 2
    events += [*a_life(1, POINT, 0.6, at=70), replace(ended, at=80)]
    done = katib_experiment(EXPERIMENT, fold(events, OBJECTIVE))
    assert conditions(done) == [
        ("Created", "True", 0),
        ("Restarting", "True", 60),
        ("Running", "False", 80),
        ("Succeeded", "True", 80),
    ]
    assert done["status"]["completionTime"] == timestamp(80)


def test_an_edit_before_the_end_is_no_restart() -> None:
    events: list[Event] = [opened(), *a_life(0, POINT, 0.5), Edited(60, {"maxTrialCount": 2})]
    shown = katib_experiment(EXPERIMENT, fold(events, OBJECTIVE))
    assert [kind for kind, _, _ in conditions(shown)] == ["Created", "Running"]
    assert shown["spec"]["maxTrialCount"] == 2


def conditions(thing: Json) -> list[tuple[str, str, int]]:
    return [(one["type"], one["status"], int(seconds(one["lastTransitionTime"]))) for one in thing["status"]["conditions"]]


def test_the_algorithms_labels_are_the_trials() -> None:
    trial = katib_trial(EXPERIMENT, make_trial(assignments=POINT, labels={"pbt.suggestion.katib.kubeflow.org/generation": "1"}))
    assert trial["metadata"]["labels"] == {
        "team": "vision",
        "katib.kubeflow.org/experiment": "digits",
        "pbt.suggestion.katib.kubeflow.org/generation": "1",
    }
    assert trial["spec"]["labels"] == {"pbt.suggestion.katib.kubeflow.org/generation": "1"}


def test_labels_and_rendered_job_are_in_the_trial() -> None:
    trial = katib_trial(EXPERIMENT, make_trial(3, assignments=POINT))
    assert trial["metadata"]["labels"] == {"team": "vision", "katib.kubeflow.org/experiment": "digits"}
    container = trial["spec"]["runSpec"]["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][-3:] == ["--lr=0.01", "--width=8", "--optimizer=sgd"]


def test_a_search_ends_with_the_reason_of_its_last_event() -> None:
    ended = Ended(50, False, "ExperimentFailed", "Experiment has failed because max failed count has reached")
    experiment = katib_experiment(EXPERIMENT, fold([opened(), *a_life(0, POINT, None), ended], OBJECTIVE))
    assert last_condition(experiment) == ("Failed", "True", ended.reason, ended.message)
    assert experiment["status"]["conditions"][1]["status"] == "False"
    assert experiment["status"]["completionTime"] == timestamp(50)
    json.dumps(experiment)
