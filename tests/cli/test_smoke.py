"""`katuna smoke`: corners of a space, really run."""

from __future__ import annotations

import os
import re
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from factories import make_experiment
from katuna.manifest.experiment import Parameter
from katuna.runs.smoke import Shortening, corners, script_place
from searches import await_line, await_none, experiment_yaml, katuna, spawn


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where smoke tests make their folders."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def left(folder: Path) -> list[Path]:
    return list(folder.glob("katuna-smoke-*"))


PROGRAM = """
import sys, time
lr, optimizer, *more = sys.argv[1:]
epochs = int(dict(word.removeprefix("--").split("=", 1) for word in more).get("epochs", 1000))
if optimizer == "broken":
    sys.exit("no such optimizer")
for epoch in range(epochs):
    print(f"accuracy={float(lr)}" if optimizer != "silent" else "nothing to say", flush=True)
    time.sleep(0.1)
"""


def write(program: str = PROGRAM, optimizers: tuple[str, ...] = ("sgd", "adam", "adamw"), **changes: Any) -> None:
    words = ["${trialParameters.lr}", "${trialParameters.optimizer}"]
    parameters = [
        {"name": "lr", "parameterType": "double", "feasibleSpace": {"min": "0.01", "max": "0.9"}},
        {"name": "optimizer", "parameterType": "categorical", "feasibleSpace": {"list": list(optimizers)}},
    ]
    command = changes.pop("command", ["python", "-I", "-S", "-c", program, *words])
    whole = yaml.safe_load(experiment_yaml(command=command, parameters=parameters, **changes))
    whole["spec"]["trialTemplate"]["trialParameters"] = [{"name": name, "reference": name} for name in ("lr", "optimizer")]
    Path("toy.yaml").write_text(yaml.safe_dump(whole))


def test_all_well(temporary: Path) -> None:
    write()
    done = katuna("smoke", "toy.yaml", "--arg=--epochs=1")
    assert done.returncode == 0, done.stderr
    heading, *rows = (line.split() for line in done.stdout.splitlines())
    assert heading == ["#", "lr", "optimizer", "STATE", "accuracy", "TOOK"]
    assert sorted(tuple(row[:4]) for row in rows) == [
        ("0", "0.01", "sgd", "Succeeded"),
        ("1", "0.9", "adamw", "Succeeded"),
        ("2", "0.01", "adam", "Succeeded"),
    ]
    assert [row[4] for row in rows] == ["0.01", "0.9", "0.01"]
    assert left(temporary) == []
    assert not Path("runs").exists()


def test_what_crashes_or_is_silent_is_named_and_its_files_stay(temporary: Path) -> None:
    write(optimizers=("broken", "sgd", "silent"))
    done = katuna("smoke", "toy.yaml", "--arg", "--epochs=1")
    assert done.returncode == 1, done.stderr
    assert re.search(r"^0 +0\.01 +broken +Failed", done.stdout, re.MULTILINE)
    assert re.search(r"^1 +0\.9 +silent +MetricsUnavailable", done.stdout, re.MULTILINE)
    assert "\ncorner 0: Error, exit code 1; its log ends:\n  no such optimizer\n" in done.stdout
    assert "corner 1: it never reported a number for 'accuracy'" in done.stdout
    (kept,) = left(temporary)
    assert f"their files are in {kept / 'toy'}" in done.stderr
    assert "no such optimizer" in katuna("logs", str(kept / "toy")).stdout


def test_keep_files(temporary: Path) -> None:
    write(optimizers=("sgd",))
    done = katuna("smoke", "toy.yaml", "--arg=--epochs=1", "--keep-files")
    assert done.returncode == 0, done.stderr
    (kept,) = left(temporary)
    assert "2 succeeded" in katuna("show", str(kept / "toy")).stdout


def test_a_trial_that_outlasts_the_timeout_is_fine_if_it_has_printed_its_metric(temporary: Path) -> None:
    write(optimizers=("sgd", "silent"))
    done = katuna("smoke", "toy.yaml", "--timeout", "1s")
    assert done.returncode == 1, done.stderr
    assert re.search(r"^0 +0\.01 +sgd +TimedOut +0\.01", done.stdout, re.MULTILINE)
    assert re.search(r"^1 +0\.9 +silent +TimedOut", done.stdout, re.MULTILINE)
    assert re.search(r"^corner 0 timed out, accuracy=0\.01, after", done.stderr, re.MULTILINE)
    assert re.search(r"^corner 1 timed out, without accuracy, after", done.stderr, re.MULTILINE)
    assert len(left(temporary)) == 1


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_leaves_nothing(tmp_path: Path, temporary: Path, signum: int, code: int) -> None:
    mark = f"mark-{uuid.uuid4()}"
    write(PROGRAM.replace("time.sleep", "open('begun', 'a').write('x'); time.sleep"), env={"MARK": mark})
    process = spawn("smoke", "toy.yaml", "--shared-files")
    await_line(tmp_path / "begun", "x", times=2)
    os.killpg(process.pid, signum)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert "interrupted: 0 of 3 corners done" in errors
    assert "Traceback" not in errors
    assert left(temporary) == []
    assert await_none(mark, within_s=1.0) == []


def test_an_argument_that_a_shell_would_swallow_is_refused(temporary: Path) -> None:
    script = "echo accuracy=${trialParameters.lr} ${trialParameters.optimizer}"
    write(command=["sh", "-c", script])
    refused = katuna("smoke", "toy.yaml", "--arg=--epochs=1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "`sh -c`, which passes no argument on" in refused.stderr
    assert katuna("smoke", "toy.yaml").returncode == 0
    write(command=["sh", "-c", f'{script}; echo got "$@"', "sh"])
    done = katuna("smoke", "toy.yaml", "--arg=--price=$(HOME)$$", "--keep-files")
    assert done.returncode == 0, done.stderr
    assert "got --price=$(HOME)$$" in katuna("logs", str(left(temporary)[0] / "toy")).stdout


def test_a_typo_is_refused_before_anything_runs(temporary: Path) -> None:
    write(objective={"type": "maximise", "objectiveMetricName": "accuracy"})
    done = katuna("smoke", "toy.yaml")
    assert done.returncode == 2
    assert "maximise" in done.stderr
    write()
    assert katuna("smoke", "toy.yaml", "--map", "/nowhere=./x").returncode == 2
    assert left(temporary) == []


SHELLS = {
    "bash -lc": 2,
    "sh -ec": 2,
    "/bin/bash -o pipefail -c": 4,
    "bash -euo pipefail -c": 4,
    "bash --norc -c --": 4,
    "sh": None,
    "bash -e": None,
    "python -c": None,
}


@pytest.mark.parametrize("words", SHELLS)
def test_a_shells_script_is_found_behind_its_options(words: str) -> None:
    assert script_place([*words.split(), "train"]) == SHELLS[words]


def test_a_script_that_takes_its_arguments_needs_a_word_before_them(temporary: Path) -> None:
    write(command=["bash", "-lc", 'echo "$@"; echo ${trialParameters.lr} ${trialParameters.optimizer}'])
    refused = katuna("smoke", "toy.yaml", "--arg=--epochs=1")
    assert refused.returncode == 2
    assert "`bash -lc`, which passes no argument on" in refused.stderr


def test_a_timeout_below_a_second_is_refused(temporary: Path) -> None:
    write()
    refused = katuna("smoke", "toy.yaml", "--timeout", "0.5")
    assert refused.returncode == 2
    assert "--timeout: 0.5 s is too short" in refused.stderr


NUMBERS = (Parameter("lr", "double", "0.1", "0.95", "0.1"), Parameter("width", "int", "8", "20", "8"))
LISTS = (
    Parameter("batch", "discrete", choices=("64", "16", "128", "32")),
    Parameter("kind", "categorical", choices=("b", "a", "b")),
    Parameter("one", "categorical", choices=("only",)),
)


def test_corners_hold_all_least_all_greatest_and_every_choice() -> None:
    found = corners(make_experiment(parameters=(*NUMBERS, *LISTS)))
    assert [tuple(point.values()) for point in found] == [
        ("0.1", "8", "16", "b", "only"),
        ("0.9", "16", "128", "a", "only"),
        ("0.1", "8", "32", "b", "only"),
        ("0.9", "16", "64", "a", "only"),
    ]


@pytest.mark.parametrize(
    ("parameters", "count"), [(NUMBERS, 2), (LISTS[2:], 1), ((Parameter("same", "double", "1", "1"),), 1), (LISTS[:1], 4)]
)
def test_there_are_no_more_corners_than_it_takes(parameters: tuple[Parameter, ...], count: int) -> None:
    assert len(corners(make_experiment(parameters=parameters))) == count


def test_a_shortened_job_keeps_its_own_arguments_and_the_shorter_deadline() -> None:
    pod = {"containers": [{"name": "side", "args": ["x"]}, {"name": "main", "args": ["--lr=1"]}]}
    job = {"kind": "Job", "spec": {"activeDeadlineSeconds": 3, "template": {"spec": pod}}}
    shortened = Shortening(("--epochs=1",), 2.5).apply(job, "main")
    assert [each["args"] for each in shortened["spec"]["template"]["spec"]["containers"]] == [["x"], ["--lr=1", "--epochs=1"]]
    assert shortened["spec"]["activeDeadlineSeconds"] == 3
    assert pod["containers"][1]["args"] == ["--lr=1"], "the job itself stays as it was"
    distributed = {"kind": "PyTorchJob", "spec": {"pytorchReplicaSpecs": {"Master": {"template": {"spec": pod}}}}}
    assert Shortening((), 2.5).apply(distributed, "main")["spec"]["runPolicy"] == {"activeDeadlineSeconds": 3}
