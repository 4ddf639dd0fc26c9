"""katuna from Python."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest
import yaml

import katuna
from katuna.errors import InputRefused, RunNotFound, SpecRefused
from katuna.launch.local_options import LocalOptions
from katuna.runs.plan import RunOptions
from katuna.search.trials import Event, Exited, Search
from searches import KATUNA, experiment_yaml, write_experiment
from searches import katuna as katuna_command


def test_tune_returns_the_run_and_load_finds_it_again(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    ends: list[str] = []

    def watch(event: Event, search: Search) -> None:
        if isinstance(event, Exited):
            ends.append(search.trials[event.number].state.value)

    run = katuna.tune(path, home=tmp_path / "mine", watch=watch)
    assert ends == ["Succeeded"] * 4
    assert run.state == "Succeeded"
    assert run.best is not None
    values = {trial.number: trial.value(run.experiment.objective) for trial in run.trials}
    assert values[run.best.number] == max(values.values())  # type: ignore[type-var]
    frame = run.to_dataframe()
    assert len(frame) == 4
    assert frame["objective"].max() == values[run.best.number]
    again = katuna.load(home=tmp_path / "mine")
    assert again.path == run.path
    assert again.trials == run.trials
    assert katuna.load("to", home=tmp_path / "mine").name == "toy"


def test_bad_input_raises_with_its_findings(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, maxTrialCount="many")
    with pytest.raises(SpecRefused) as caught:
        katuna.tune(path)
    assert any(finding.path == "spec.maxTrialCount" for finding in caught.value.findings)
    with pytest.raises(RunNotFound):
        katuna.load()


def test_the_surface_is_what_is_documented() -> None:
    assert {name for name in katuna.__all__ if not callable(getattr(katuna, name))} == set()
    with pytest.raises(AttributeError, match="nosuch"):
        _ = katuna.nosuch


def test_options_survive_the_journal() -> None:
    options = RunOptions(
        LocalOptions(
            maps=(("/opt/app", "./trainers"),),
            entrypoints={"image:1": ("python", "train.py")},
            pythons={"image:1": "/usr/bin/python3"},
            pass_env=("TOKEN",),
            device="cpu",
            cwd="/",
        ),
        keep=3,
        algorithm="tpe",
        settings={"n_startup_trials": "5"},
        early_stopping="asha",
        stopping_settings={"min_step": "2"},
        let_running_finish=True,
        tries=({"lr": "0.1"}, {}),
    )
    assert RunOptions.from_json(json.loads(json.dumps(options.as_json()))) == options
    before = {name: value for name, value in options.as_json().items() if name in ("local", "keep")}
    assert RunOptions.from_json(before) == RunOptions(options.local, keep=3)


def test_a_run_begins_with_the_results_of_another(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    first = katuna.tune(path, home=tmp_path / "mine")
    second = katuna.tune(path, home=tmp_path / "mine", warm_start=["toy"], options=RunOptions(algorithm="tpe"))
    assert [known.assignments for known in second.search.known] == [trial.assignments for trial in first.trials]
    assert second.experiment.algorithm == "tpe"
    again = katuna.load(second.path)
    assert (again.experiment, again.search) == (second.experiment, second.search)


def test_pbt_keeps_what_its_trials_begin_with(tmp_path: Path) -> None:
    pbt = Path(__file__).parents[2] / "katib" / "digits-pbt.yaml"
    with pytest.raises(InputRefused, match="leave --keep out"):
        katuna.tune(pbt, home=tmp_path, options=RunOptions(keep=3))


def test_the_command_gives_a_new_folder_and_the_variables_of_the_trial(tmp_path: Path) -> None:
    """A folder that the shell has set stands; what the trial wrote itself is not touched."""
    program = "import os, sys; open(os.environ['KATUNA_TRIAL_DIR'] + '/model', 'x').close(); print('accuracy=0.5', os.environ['A'], os.environ['KATIB_TRIAL_NAME'])"
    run = katuna.tune(write_experiment(tmp_path, program, maxTrialCount=1, parallelTrialCount=1, env={"A": "b c"}), home=tmp_path)
    assert run.best is not None
    line = ["/bin/bash", "-c", run.command(run.best)]
    for _ in range(2):
        again = subprocess.run(line, capture_output=True, text=True, check=True, env={"PATH": os.defpath})
        assert again.stdout == f"accuracy=0.5 b c {run.best.name}\n"
    assert len(list(run.folder.trial(run.best.name).glob("again-*/model"))) == 2
    subprocess.run(line, capture_output=True, check=True, env={"PATH": os.defpath, "KATUNA_TRIAL_DIR": str(tmp_path)})
    assert (tmp_path / "model").exists()


def test_a_job_with_volumes_and_more_containers_is_trained_again_as_a_job(tmp_path: Path) -> None:
    whole = yaml.safe_load(
        experiment_yaml("import sys; print(open('/data/x').read(), end='')", maxTrialCount=1, parallelTrialCount=1)
    )
    pod = whole["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    main = pod["containers"][0]
    main["command"][4] = "import sys; print(open(sys.argv[2]).read(), end='')"
    main["command"].append("/data/x")
    main["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    pod["volumes"] = [{"name": "data", "emptyDir": {}}]
    pod["initContainers"] = [
        {
            "name": "get",
            "image": "i",
            "command": ["sh", "-c", "echo accuracy=0.25 > /data/x"],
            "volumeMounts": main["volumeMounts"],
        }
    ]
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(whole))
    run = katuna.tune(path, home=tmp_path)
    assert run.best is not None
    again = subprocess.run(["/bin/bash", "-c", run.command(run.best)], capture_output=True, text=True, check=True)
    assert "accuracy=0.25" in again.stdout


def test_the_command_line_is_one_line_whatever_is_in_it(tmp_path: Path) -> None:
    """A program of several lines, with quotes, a backslash and a terminal escape, comes back as it was from a shell."""
    program = "import sys\nprint('accuracy=0.5', \"it's\", '\\\\', '\\x1b[31m\x1b[0m', 'é')"
    run = katuna.tune(
        write_experiment(tmp_path, program, maxTrialCount=1, parallelTrialCount=1, env={"A": "b\tc"}), home=tmp_path
    )
    assert run.best is not None
    line = run.command(run.best)
    assert line.isprintable()
    again = subprocess.run(["/bin/bash", "-c", line], capture_output=True, check=True)
    assert again.stdout == run.folder.log(run.best.name).read_bytes()


def test_a_run_and_its_trials_go_to_other_processes_and_are_copied(tmp_path: Path) -> None:
    run = katuna.tune(write_experiment(tmp_path, maxTrialCount=2), home=tmp_path)
    loaded = katuna.load(run.name, home=tmp_path)
    for each in (run, loaded):
        assert len(each.trials) == 2
        for sent in (pickle.loads(pickle.dumps(each)), copy.deepcopy(each)):  # noqa: S301
            assert (sent.trials, sent.best, sent.state) == (run.trials, run.best, "Succeeded")
            assert sent.experiment.name == "toy"
    ask = katuna.Search(tmp_path / "experiment.yaml").ask()
    assert pickle.loads(pickle.dumps(ask)) == ask  # noqa: S301


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    place.mkdir()
    monkeypatch.chdir(place)
    write_experiment(place)
    done = katuna_command("tune", "experiment.yaml", env={"KATUNA_HOME": ""})
    assert done.returncode == 0, done.stderr
    for words in (
        ["resume"],
        ["ls"],
        ["show"],
        ["trials", "-o", "json"],
        ["best", "-o", "command"],
        ["export", "--format", "csv"],
    ):
        done = katuna_command(*words, env={"KATUNA_HOME": ""})
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (words, done.stderr)
    page = subprocess.run([*KATUNA, "report"], capture_output=True, check=True, env={**os.environ, "KATUNA_HOME": ""})
    assert Path(os.fsdecode(page.stdout.rstrip(b"\n"))).is_file()


def test_a_search_with_a_generated_name_runs_under_its_beginning(tmp_path: Path) -> None:
    manifest = yaml.safe_load(experiment_yaml(maxTrialCount=1, parallelTrialCount=1))
    manifest["metadata"] = {"generateName": "toy-"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(manifest))
    run = katuna.tune(tmp_path / "experiment.yaml", home=tmp_path / "runs")
    assert (run.name, run.state) == ("toy", "Succeeded")
    assert katuna.load("toy", home=tmp_path / "runs").experiment.name == "toy"
