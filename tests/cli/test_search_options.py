"""`tune`'s options that change the search: other algorithms, points to begin with, results from elsewhere; and what a dry run says."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from katuna.cli import main
from searches import experiment_yaml, journal_events, katuna

PARAMETERS = [
    {"name": "lr", "parameterType": "double", "feasibleSpace": {"min": "0.01", "max": "0.9"}},
    {"name": "width", "parameterType": "int", "feasibleSpace": {"min": "8", "max": "64", "step": "8"}},
    {"name": "mix", "parameterType": "categorical", "feasibleSpace": {"list": ["plain", "a,b", "=sum"]}},
]
PROGRAM = "import sys; print(f'accuracy={1 - abs(float(sys.argv[1]) - 0.3) + int(sys.argv[2]) / 1000:.6f}')"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str = "toy", **changes: Any) -> str:
    """An Experiment over a double, a stepped int and a list with difficult choices; the file's name."""
    words = [f"${{trialParameters.{each['name']}}}" for each in PARAMETERS]
    command = changes.pop("command", ["python", "-I", "-S", "-c", PROGRAM, *words])
    parameters = changes.pop("parameters", PARAMETERS)
    changes = {"parallelTrialCount": 1, **changes}
    whole = yaml.safe_load(experiment_yaml(name=name, command=command, parameters=parameters, **changes))
    names = [parameter["name"] for parameter in PARAMETERS]
    whole["spec"]["trialTemplate"]["trialParameters"] = [{"name": each, "reference": each} for each in names]
    Path(f"{name}.yaml").write_text(yaml.safe_dump(whole))
    return f"{name}.yaml"


def points(run: str) -> list[dict[str, str]]:
    return [event["assignments"] for event in journal_events(Path("runs") / run) if event["event"] == "Asked"]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says to what it refuses: exit code 2, stderr, no run folder."""
    with pytest.raises(SystemExit) as left:
        main(["tune", *arguments])
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (2, ""), said.err
    assert not list(Path("runs").glob("toy*"))
    return said.err


def test_tries_come_first_in_katibs_form_and_the_rest_as_the_seed_has_it() -> None:
    file = write()
    given = ("--try", "lr=1e-1, width=16.0,mix=plain", "--try", '"mix=a,b"')
    for _ in range(2):
        done = katuna("tune", file, "--seed", "3", *given)
        assert done.returncode == 0, done.stderr
    assert katuna("tune", file, "--seed", "3").returncode == 0
    first, again, without = points("toy"), points("toy-2"), points("toy-3")
    assert first == again
    assert first[0] == {"lr": "0.1", "width": "16", "mix": "plain"}
    assert first[1]["mix"] == "a,b"
    assert {**first[1], "mix": ""} == {**without[1], "mix": ""}, "what is missing is drawn with the trial's own seed"
    assert first[2:] == without[2:], "later trials of a random search draw what they would have drawn"
    assert "--try lr=0.1,width=16,mix=plain" in katuna("show", "toy").stdout


TRIES = {
    "outside": ("lr=5", r"--try lr=5: lr cannot be '5': it is a double from 0\.01 to 0\.9"),
    "off the step": ("width=9", r"width cannot be '9': it is an int from 8 to 64 in steps of 8"),
    "no number": ("lr=fast", r"lr cannot be 'fast'"),
    "not finite": ("lr=nan", r"lr cannot be 'nan'"),
    "no choice": ("mix=mixed", r"mix cannot be 'mixed': it is one of plain, a,b, =sum"),
    "misspelt": ("wdith=8", r"no parameter 'wdith' \(did you mean width\?\)"),
    "no pair": ("lr", r"'lr' is not NAME=VALUE"),
    "unquoted comma": ("mix=a,b", r"'b' is not NAME=VALUE; a pair with a comma in it goes in double quotes"),
    "twice": ("lr=0.1,lr=0.2", r"lr is given twice"),
    "open quote": ('"mix=a', r"--try \"mix=a: .*double quotes"),
    "nothing": ("", r"--try needs a point"),
}


def test_more_tries_than_trials_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, write(maxTrialCount=1), "--try", "lr=0.1", "--try", "lr=0.2")
    assert "--try is given 2 times, and maxTrialCount is 1" in message


@pytest.mark.parametrize("case", TRIES)
def test_a_try_that_is_no_point_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, expected = TRIES[case]
    message = refusal(capsys, write(), "--try", text)
    assert re.search(expected, message), message


def test_a_try_is_refused_where_a_schedule_makes_the_points(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [{"name": "resource_name", "value": "width"}, {"name": "r_l", "value": "9"}]
    file = write(algorithm={"algorithmName": "hyperband", "algorithmSettings": settings}, parallelTrialCount=9, maxTrialCount=9)
    assert "hyperband makes every point by its schedule" in refusal(capsys, file, "--try", "lr=0.1")


def test_a_grid_with_a_try_has_each_point_once() -> None:
    coarse = [{**PARAMETERS[0], "feasibleSpace": {"min": "0.1", "max": "0.3", "step": "0.1"}}, *PARAMETERS[1:]]
    coarse[1] = {**PARAMETERS[1], "feasibleSpace": {"min": "8", "max": "16", "step": "8"}}
    file = write(parameters=coarse, algorithm={"algorithmName": "grid"}, maxTrialCount=18)
    done = katuna("tune", file, "--try", '"mix=a,b",lr=0.2,width=16')
    assert done.returncode == 0, done.stderr
    had = [tuple(point.values()) for point in points("toy")]
    assert had[0] == ("0.2", "16", "a,b")
    assert len(set(had)) == len(had) == 18


def test_another_algorithm_than_the_files_and_a_resume_means_the_same() -> None:
    file = write(resumePolicy="LongRunning", maxTrialCount=6)
    override = ("--algorithm", "tpe", "--setting", "n_startup_trials=2", "--seed", "4")
    whole = katuna("tune", file, *override)
    assert whole.returncode == 0, whole.stderr
    assert "by tpe" in whole.stdout
    assert "other than the file says: --algorithm tpe --setting n_startup_trials=2" in whole.stdout
    part = write("half", resumePolicy="LongRunning", maxTrialCount=3)
    assert katuna("tune", part, *override).returncode == 0
    resumed = katuna("resume", "half", "--max-trials", "6")
    assert resumed.returncode == 0, resumed.stderr
    assert points("half") == points("toy")
    shown = katuna("show", "half", "-o", "yaml").stdout
    assert yaml.safe_load(shown)["spec"]["algorithm"]["algorithmName"] == "tpe"
    assert Path("runs/half/experiment.yaml").read_text() == Path("half.yaml").read_text(), "the file stays as given"


OPTIONS = {
    "algorithm": (("--algorithm", "tpee"), r"no algorithm 'tpee'.*did you mean tpe"),
    "setting": (("--algorithm", "tpe", "--setting", "n_startup_trial=2"), r"did you mean n_startup_trials"),
    "value": (("--algorithm", "tpe", "--setting", "n_startup_trials=two"), r"n_startup_trials.*'two'"),
    "setting twice": (("--setting", "random_state=1", "--setting", "random_state=2"), r"--setting random_state is given twice"),
    "stopping": (("--early-stopping", "medain"), r"no early stopping 'medain'.*did you mean"),
    "stopping setting": (("--early-stopping", "asha", "--stopping-setting", "minstep=1"), r"no setting 'minstep'"),
    "stopping of nothing": (("--stopping-setting", "start_step=1"), r"the file asks for no early stopping; say which"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_misspelt_override_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = OPTIONS[case]
    message = refusal(capsys, write(), *arguments)
    assert re.search(expected, message), message


def test_early_stopping_from_the_command_line_and_none_of_it() -> None:
    slow = "import sys, time\nfor step in range(1, 9):\n    print(f'accuracy={float(sys.argv[1]) * step / 8}', flush=True); time.sleep(0.15)"
    words = [f"${{trialParameters.{each['name']}}}" for each in PARAMETERS]
    rule = {"algorithmName": "medianstop", "algorithmSettings": [{"name": "min_trials_required", "value": "1"}]}
    file = write(command=["python", "-I", "-S", "-c", slow, *words], maxTrialCount=2, earlyStopping=rule)
    point = ("--try", "lr=0.9", "--try", "lr=0.01")
    settings = ("--stopping-setting", "min_trials_required=1", "--stopping-setting", "start_step=2")
    stopped = katuna("tune", file, *point, "--early-stopping", "median", *settings)
    assert "(1 succeeded, 1 stopped early)" in stopped.stdout, stopped.stdout + stopped.stderr
    assert re.search(r"trial 1 accuracy=\S+ in \S+  stopped early", stopped.stdout)
    assert re.search(r"^1 .*EarlyStopped +0\.00", katuna("trials", "toy").stdout, re.MULTILINE)
    without = katuna("tune", file, *point, "--early-stopping", "none")
    assert "(2 succeeded)" in without.stdout
    assert "earlyStopping" not in yaml.safe_load(katuna("show", "toy-2", "-o", "yaml").stdout)["spec"]


def test_let_running_finish_waits_for_what_runs_when_the_goal_is_reached() -> None:
    slow = "import sys, time\ntime.sleep(1.2 if float(sys.argv[1]) > 0.5 else 0)\nprint('accuracy=' + sys.argv[1])"
    words = [f"${{trialParameters.{each['name']}}}" for each in PARAMETERS]
    aim = {"type": "minimize", "objectiveMetricName": "accuracy", "goal": 0.2}
    file = write(command=["python", "-I", "-S", "-c", slow, *words], objective=aim, maxTrialCount=2, parallelTrialCount=2)
    both = ("--try", "lr=0.1", "--try", "lr=0.8")
    stops = katuna("tune", file, *both)
    assert "(1 succeeded, 1 stopped)" in stops.stdout, stops.stdout + stops.stderr
    waits = katuna("tune", file, *both, "--let-running-finish")
    assert "goal has reached (2 succeeded)" in waits.stdout, waits.stdout + waits.stderr


def finished(file: str) -> None:
    done = katuna("tune", file, "--seed", "1")
    assert done.returncode == 0, done.stderr


def known(run: str) -> list[tuple[dict[str, str], float]]:
    return [(event["assignments"], event["value"]) for event in journal_events(Path("runs") / run) if event["event"] == "Known"]


def test_the_results_of_a_run_and_of_its_export_are_the_same() -> None:
    finished(write("before"))
    Path("before.csv").write_text(katuna("export", "before").stdout)
    file = write(algorithm={"algorithmName": "tpe"})
    for source in ("before", "before.csv", "runs/before"):
        done = katuna("tune", file, "--warm-start", source, "--seed", "1")
        assert done.returncode == 0, done.stderr
        assert f"{source}: 4 known results taken\n" in done.stderr
        assert "resumed" not in done.stdout
    from_run, from_file, from_path = (known(name) for name in ("toy", "toy-2", "toy-3"))
    assert [point for point, _ in from_run] == points("before")
    assert from_run == from_file == from_path
    assert points("toy") == points("toy-2")
    assert "4 results of before" in katuna("show", "toy").stdout
    assert "Results known before" in report_of("toy")


def report_of(run: str) -> str:
    assert katuna("report", run, "--to", "page.html").returncode == 0
    return Path("page.html").read_text()


def test_known_results_guide_a_search() -> None:
    """TPE over twelve known results whose best lie at small lr tries smaller ones than it does without them."""
    rows = [(f"{0.01 + 0.07 * place:.2f}", "8", "plain", 1.0 - place / 12) for place in range(12)]
    table([("lr", "width", "mix", "accuracy"), *rows])
    file = write(algorithm={"algorithmName": "tpe"}, maxTrialCount=8)
    for more in ((), ("--warm-start", "known.csv")):
        assert katuna("tune", file, "--seed", "2", *more).returncode == 0
    without, guided = (sum(float(point["lr"]) for point in points(name)) for name in ("toy", "toy-2"))
    assert guided < 0.7 * without


def table(rows: list[tuple[Any, ...]]) -> None:
    with Path("known.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_rows_that_cannot_be_used_are_counted_and_named() -> None:
    good = ("1e-1", "16.0", "a,b", "0.5", "ignored")
    bad = [("5", "8", "plain", "0.1", ""), ("0.1", "9", "plain", "0.1", ""), ("0.1", "8", "plain", "nan", ""), ("0.1", "8")]
    table([("lr", "width", "mix", "accuracy", "note"), good, *bad])
    done = katuna("tune", write(), "--warm-start", "known.csv", "--algorithm", "tpe")
    assert done.returncode == 0, done.stderr
    damaged = "1 with more or fewer fields than the 5 of the header"
    left_out = f"left out: {damaged}, 1 without a number for accuracy, 2 outside the space (first line 3: lr=5)"
    assert f"known.csv: 1 known result taken; {left_out}" in done.stderr
    assert known("toy") == [({"lr": "0.1", "width": "16", "mix": "a,b"}, 0.5)]


def test_a_cut_last_line_is_left_out_and_a_headers_blanks_are_no_names() -> None:
    Path("known.csv").write_text("lr, width, mix, accuracy\n0.1,8,plain,0.5\n0.2,8,plain,0.9")
    done = katuna("tune", write(), "--warm-start", "known.csv", "--algorithm", "tpe")
    assert done.returncode == 0, done.stderr
    assert "1 known result taken; left out: 1 on a last line without an end, which may be cut off" in done.stderr
    Path("known.csv").write_text("lr,width,mix,accuracy,note\n0.1,8,plain,0.5,x\n0.2,8,plain,0.9,y")
    assert "2 known results taken\n" in katuna("tune", "toy.yaml", "--warm-start", "known.csv", "--dry-run").stderr


def test_an_export_says_what_its_results_were_searched_for(capsys: pytest.CaptureFixture[str]) -> None:
    finished(write("before", objective={"type": "minimize", "objectiveMetricName": "accuracy"}))
    Path("before.csv").write_text(katuna("export", "before").stdout)
    message = refusal(capsys, write(), "--warm-start", "before.csv")
    assert "a search to minimize accuracy, this one is to maximize accuracy" in message
    strategies = [{"name": "accuracy", "value": "latest"}]
    aim = {"type": "minimize", "objectiveMetricName": "accuracy", "metricStrategies": strategies}
    done = katuna("tune", write(objective=aim), "--warm-start", "before.csv", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert (
        "warning: before.csv: its values are the min of what each trial reported, this search compares the latest" in done.stderr
    )


def test_an_algorithm_stands_in_for_one_that_is_itself_the_problem() -> None:
    """A grid without a step, one that searches something else, one that nobody knows, one with settings that are none."""
    seed = [{"name": "random_state", "value": "5"}]
    for name, settings in (
        ("grid", seed),
        ("enas", []),
        ("darts", []),
        ("nosuch", []),
        ("tpe", [{"name": "gamm", "value": "x"}]),
    ):
        file = write(algorithm={"algorithmName": name, "algorithmSettings": settings})
        assert katuna("tune", file, "--dry-run").returncode == 2
        for other in ("random", "gp"):
            done = katuna("tune", file, "--dry-run", "-n", "1", "--algorithm", other)
            assert done.returncode == 0, done.stderr
            assert ("# seed          5\n" in done.stdout) == bool(settings == seed)
    stopping = {"algorithmName": "nosuch"}
    file = write(earlyStopping=stopping)
    assert katuna("tune", file, "--dry-run").returncode == 2
    for rule in ("none", "median", "medianstop"):
        assert katuna("tune", file, "--dry-run", "--early-stopping", rule).returncode == 0


def test_a_resume_takes_the_algorithm_that_stands_in() -> None:
    file = write(algorithm={"algorithmName": "grid"}, resumePolicy="LongRunning", maxTrialCount=2)
    done = katuna("tune", file, "--algorithm", "random", "--seed", "1")
    assert done.returncode == 0, done.stderr
    resumed = katuna("resume", "toy", "--max-trials", "3")
    assert resumed.returncode == 0, resumed.stderr
    assert len(points("toy")) == 3
    assert "algorithmName: grid" in Path("runs/toy/experiment.yaml").read_text()


def test_warnings_are_of_the_algorithm_that_runs() -> None:
    file = write(algorithm={"algorithmName": "tpe"}, maxTrialCount=8)
    drawn = "drawn at random: tpe learns from the first 10"
    assert drawn in katuna("tune", file, "--dry-run").stderr
    assert drawn not in katuna("tune", file, "--dry-run", "--algorithm", "random").stderr
    said = katuna("tune", write(maxTrialCount=8), "--dry-run", "--algorithm", "tpe").stderr
    assert drawn in said


def test_a_nas_config_is_not_searched_by_another_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, write(nasConfig={"graphConfig": {"numLayers": 1}}), "--algorithm", "tpe")
    assert message.count("\n") == 1
    assert "--algorithm tpe: the file describes a nasConfig, and no algorithm here searches one" in message


def test_a_wrong_setting_of_an_option_is_not_blamed_on_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, write(), "--algorithm", "tpe", "--setting", "gamma=2")
    (error,) = (line for line in message.splitlines() if "gamma" in line)
    assert error.startswith("--algorithm tpe: error[bad-setting] on local: gamma must be")


def test_a_grid_that_is_wholly_known_is_refused_naming_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    coarse = [{**PARAMETERS[0], "feasibleSpace": {"min": "0.1", "max": "0.2", "step": "0.1"}}, *PARAMETERS[1:]]
    coarse[1] = {**PARAMETERS[1], "feasibleSpace": {"min": "8", "max": "8", "step": "8"}}
    rows = [(lr, "8", mix, lr) for lr in ("0.1", "0.2") for mix in ("plain", "a,b", "=sum")]
    table([("lr", "width", "mix", "accuracy"), *rows])
    file = write(parameters=coarse, algorithm={"algorithmName": "grid"}, maxTrialCount=6)
    message = refusal(capsys, file, "--warm-start", "known.csv")
    assert "all 6 points of the space are known already" in message
    assert "the best is accuracy=0.2 at lr=0.2 width=8 mix=plain" in message
    table([("lr", "width", "mix", "accuracy"), *rows[1:]])
    said = katuna("tune", file, "--warm-start", "known.csv", "--dry-run", "-n", "6").stdout
    assert "\n# trial 0: " in said
    assert "trial 1" not in said
    assert said.endswith("# no more trials: that is every point of the space\n")
    table([("lr", "width", "mix", "accuracy"), rows[0]])
    assert "1 result to begin with" in katuna("tune", file, "--warm-start", "known.csv", "--dry-run").stdout


def test_a_dry_run_shows_no_trial_that_would_not_run() -> None:
    said = katuna("tune", write(), "--dry-run", "-n", "9").stdout
    assert said.count("\n# trial ") == 4
    assert said.endswith("# no more trials: maxTrialCount is 4\n")
    settings = [{"name": "resource_name", "value": "width"}, {"name": "r_l", "value": "9"}]
    algorithm = {"algorithmName": "hyperband", "algorithmSettings": settings}
    file = write(algorithm=algorithm, parallelTrialCount=9, maxTrialCount=40)
    said = katuna("tune", file, "--dry-run", "-n", "30")
    assert re.search(r"# trial \d+ and later: hyperband needs the results of those before it first\n$", said.stdout), said.stderr


SOURCES = {
    "two of one name": ("lr,width,mix,accuracy,accuracy\n0.1,8,plain,0.5,0.6\n", r"more than one column is named accuracy"),
    "missing column": ("lr,mix,accuracy\n0.1,plain,0.5\n", r"nothing for parameter width; it has lr, mix, accuracy"),
    "no metric": (
        "lr,width,mix,loss\n0.1,8,plain,0.5\n",
        r"no column accuracy, the objective metric; columns: lr, width, mix, loss",
    ),
    "no rows": ("lr,width,mix,accuracy\n", r"there is no result in it"),
    "empty": ("", r"no column accuracy.*columns: none"),
    "all useless": ("lr,width,mix,accuracy\n9,8,plain,0.5\n", r"0 known results taken; left out: 1 outside the space"),
    "another export": ("objective,params.lr,params.width,params.mix,metrics.loss\n1,0.1,8,plain,1\n", r"a search for loss"),
    "not text": (b"\xff\xfe\x00", r"not UTF-8 text"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_source_of_which_nothing_can_be_used_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = SOURCES[case]
    Path("known.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(capsys, write(), "--warm-start", "known.csv")
    assert re.search(expected, message), message


def test_a_run_for_something_else_is_refused_naming_both(capsys: pytest.CaptureFixture[str]) -> None:
    finished(write("before", objective={"type": "minimize", "objectiveMetricName": "accuracy"}))
    message = refusal(capsys, write(), "--warm-start", "before")
    assert "that search is to minimize accuracy, this one to maximize accuracy" in message
    assert "no such file, and no run 'nosuch'" in refusal(capsys, write(), "--warm-start", "nosuch")


def test_an_algorithm_that_learns_nothing_says_so() -> None:
    table([("lr", "width", "mix", "accuracy"), ("0.1", "8", "plain", "0.5")])
    dry = ("--dry-run", "-n", "0", "--warm-start", "known.csv")
    assert "random learns nothing from known results" in katuna("tune", write(), *dry).stderr
    assert "learns nothing" not in katuna("tune", write(), *dry, "--algorithm", "tpe").stderr


def comments(*arguments: str) -> dict[str, str]:
    """The facts at the head of a dry run, whose output stays YAML."""
    done = katuna("tune", *arguments, "--dry-run", "-n", "1")
    assert done.returncode == 0, done.stderr
    assert [document["kind"] for document in yaml.safe_load_all(done.stdout)] == ["Experiment", "Job"]
    head = [line[2:] for line in done.stdout.split("apiVersion")[0].splitlines()[:-1]]
    return {line[:14].strip(): line[14:] for line in head}


def test_a_dry_run_says_how_large_the_search_is() -> None:
    facts = comments(write(maxFailedTrialCount=2))
    assert facts["seed"] == "5"
    assert re.fullmatch(r"\d+ CPUs?: 1 trial at once", facts["this machine"])
    assert re.fullmatch(r"(\d+) \(--seed \1 keeps it\)", comments(write(algorithm={"algorithmName": "tpe"}))["seed"])
    assert facts["space"] == "continuous (lr)"
    assert facts["trials"] == "4, 1 at a time, until 2 have failed"
    assert "duplicates" not in facts
    assert re.fullmatch(r"no GPU, \d+ CPU threads?", facts["each trial"])


def test_a_dry_run_says_how_many_points_repeat() -> None:
    stepped = [{**PARAMETERS[0], "feasibleSpace": {"min": "0.1", "max": "0.2", "step": "0.1"}}, *PARAMETERS[1:]]
    file = write(parameters=stepped, maxTrialCount=30)
    facts = comments(file, "--try", "lr=0.1")
    assert facts["space"] == "48 points"
    expected = 30 - 48 * (1 - (47 / 48) ** 30)
    assert facts["duplicates"].startswith(f"about {expected:.2g} of 30 trials")
    with_gpu = katuna("tune", file, "--device", "cuda", "--dry-run")
    assert "# each trial    1 GPU," in with_gpu.stdout
    assert with_gpu.returncode == (2 if "this machine has none" in with_gpu.stderr else 0), "as the run would be"
    assert facts["not the file"] == "--try lr=0.1"
    grid = comments(file, "--algorithm", "grid")
    assert grid["duplicates"].startswith("0")
    assert grid["not the file"] == "--algorithm grid"
