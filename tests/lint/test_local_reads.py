"""A path of the working folder that a job names: it is here, and in no image."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from experiments import JOB, changed
from katuna.errors import Finding
from katuna.lint.literals import named_paths
from katuna.lint.load import Source, lint, load_experiment
from katuna.lint.local_reads import MAX_SOURCE_BYTES, ON

CODE = "not-in-image"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working folder with data, a package, programs, and what earlier trials have left."""
    for name in (
        "data/train.csv",
        "x.npz",
        "snapshot.pt",
        "log.txt",
        "sub/deep/a.csv",
        "pkg/__init__.py",
        "pkg/run.py",
        "run.sh",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a,b\n")
    (tmp_path / "tool").write_bytes(b"\x7fELF\0")
    return tmp_path


def write_script(folder: Path, text: str, name: str = "train.py") -> None:
    (folder / name).write_text(text, encoding="utf-8")


def a_job(*command: str, **container: Any) -> dict[str, Any]:
    whole = {"name": "main", "image": "i", "command": list(command), **container}
    pod = {"restartPolicy": "Never", "containers": [whole]}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": pod}}}


def reads(folder: Path | None, *manifests: Any) -> list[Finding]:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in manifests]
    sources = [Source(f"{number}.yaml", text) for number, text in enumerate(texts)]
    return [each for each in lint(sources, read_script=lambda _: None, folder=folder) if each.code == CODE]


def paths(folder: Path, *manifests: Any) -> list[str]:
    """What the messages name, by order of their places."""
    return [finding.message.split("'")[-2] for finding in reads(folder, *manifests)]


# Words


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["python", "train.py", "./data/train.csv"], ["./data/train.csv"]),
        (["python", "train.py", "--data=./data"], ["./data"]),
        (["python", "train.py", "--data", "data/train.csv", "--more=data/train.csv"], ["data/train.csv"]),
        (["python", "train.py", "data.path=x.npz"], ["x.npz"]),
        (["torchrun", "--nproc-per-node=2", "train.py", "--weights", "x.npz"], ["x.npz"]),
        (["sh", "-c", "export A=1; B=./data exec python train.py x.npz && python eval.py 'sub/deep/a.csv'"], ["x.npz", "./data", "sub/deep/a.csv"]),
        (["sh", "-c", "cat <x.npz | python train.py"], ["x.npz"]),
        (["sh", "-c", "cd sub && python train.py deep/a.csv"], ["deep/a.csv"]),
    ],
)  # fmt: skip
def test_a_path_that_is_here_is_named(here: Path, command: list[str], named: list[str]) -> None:
    assert paths(here, a_job(*command)) == named


@pytest.mark.parametrize(
    "command",
    [
        ["python", "train.py", "--data=./nowhere", "data/no.csv", "--lr=0.1", "."],
        ["python", "train.py", "--data=data", "sub"],
        ["python", "train.py", "/data/train.csv", "--data=s3://data/train.csv", "--data=~/x.npz"],
        ["python", "pkg/run.py"],
        ["python", "./pkg"],
        ["bash", "./run.sh"],
        ["mpirun", "-n", "2", "./tool"],
        ["./x.npz"],
        ["python", "train.py", "--output-dir=./data", "--log_dir", "sub/deep", "-o", "x.npz", "--checkpoint=snapshot.pt"],
        ["sh", "-c", "python train.py > log.txt 2>&1"],
        ["sh", "-c", "python train.py | tee -a log.txt"],
        ["sh", "-c", "mkdir -p data && curl -L http://h/x -o x.npz && python train.py data/train.csv x.npz"],
        ["sh", "-c", "if [ -e snapshot.pt ]; then python train.py snapshot.pt; fi"],
        ["sh", "-c", "git clone http://h/other && cd other && python train.py x.npz"],
        ["sh", "-c", "python train.py # --data=./data"],
        ["sh", "-c", "python train.py './data"],
        ["sh", "-c"],
        [],
    ],
)
def test_programs_outputs_and_what_is_not_here_are_not_named(here: Path, command: list[str]) -> None:
    assert paths(here, a_job(*command)) == []


def test_arguments_of_the_images_own_program_are_all_words(here: Path) -> None:
    assert paths(here, a_job(args=["x.npz", "--data=./data"])) == ["x.npz", "./data"]


def test_variables(here: Path) -> None:
    env = {"TRAIN": "./data/train.csv", "PYTHONPATH": "./sub", "LOG_DIR": "./data", "KATUNA_DATA": "x.npz", "WORD": "data"}
    job = a_job("python", "train.py", env=[{"name": name, "value": value} for name, value in env.items()])
    assert [finding.path.rpartition("containers")[2] for finding in reads(here, job)] == ["[0].env[0].value", "[0].env[3].value"]


def test_init_containers_too(here: Path) -> None:
    job = a_job("true")
    job["spec"]["template"]["spec"]["initContainers"] = [{"name": "a", "image": "i", "command": ["cp", "x.npz", "/mnt"]}]
    assert paths(here, job) == ["x.npz"]


# Mounts


@pytest.mark.parametrize(
    ("folder", "mount", "named"),
    [
        ("/image/work", "/image/work/data", ["x.npz"]),
        ("/image/work", "/image/work", []),
        ("/image/work", "/image/work/x.npz", ["data/train.csv"]),
        ("/image/work", "/data", ["data/train.csv", "x.npz"]),
        ("", "/anywhere/data", ["x.npz"]),
        ("", "/mnt", ["data/train.csv", "x.npz"]),
    ],
)
def test_what_is_below_a_mount_is_there(here: Path, folder: str, mount: str, named: list[str]) -> None:
    """Without a workingDir the image has one that nobody knows."""
    container = {"volumeMounts": [{"name": "v", "mountPath": mount}], **({"workingDir": folder} if folder else {})}
    assert paths(here, a_job("python", "train.py", "data/train.csv", "x.npz", **container)) == named


def test_a_working_folder_that_is_here_is_looked_at_too(here: Path) -> None:
    assert paths(here, a_job("cat", "deep/a.csv", "x.npz", "no.csv", workingDir=str(here / "sub"))) == ["deep/a.csv", "x.npz"]


# Scripts


def test_the_files_that_a_script_reads_are_named_with_their_line(here: Path) -> None:
    write_script(
        here,
        '"""Reads data/train.csv."""\n'
        "import argparse, json, numpy as np, pandas as pd, torch\n"
        "from pathlib import Path\n"
        'FOLDER = Path("data")\n'
        'rows = pd.read_csv(FOLDER / "train.csv")\n'
        'weights = np.load("./x.npz")\n'
        'state = torch.load("snapshot.pt")\n'
        'with open(Path("sub", "deep").joinpath("a.csv")) as file: pass\n',
    )
    found = reads(here, a_job("python", "train.py"))
    told = [each.message.partition(": ")[0] for each in found]
    assert told == [
        "'train.py:5' names 'data/train.csv', a file of this machine",
        "'train.py:6' names './x.npz', a file of this machine",
        "'train.py:7' names 'snapshot.pt', a file of this machine",
        "'train.py:8' names 'sub/deep/a.csv', a file of this machine",
    ]
    assert {each.path for each in found} == {"spec.template.spec.containers[0].command[1]"}


@pytest.mark.parametrize(
    "source",
    [
        'Path("data")',
        'open("pkg/run.py")',
        'open("x.npz", "w")',
        'P = "x.npz"\nopen(P, mode="ab")',
        'PATH = "snapshot.pt"\nif os.path.exists(PATH): torch.load(PATH)',
        'torch.save(model, os.path.join("data", "train.csv"))',
        'Path("x.npz").write_text("a")',
        'Path(__file__).parent / "x.npz"',
        'os.path.join(root, "x.npz")',
        'f"{root}x.npz"',
        "'x.npz'",
        'open("x.npz"',
        'open("x.npz")\0',
        "# coding: nonsense\nopen('x.npz')",
        "x = " + "(" * 5000 + '"x.npz"' + ")" * 5000,
        'open("x.npz")\n' + "#" * MAX_SOURCE_BYTES,
    ],
)
def test_what_a_script_makes_or_hides_is_not_named(here: Path, source: str) -> None:
    write_script(here, source)
    assert paths(here, a_job("python", "train.py")) == []


def test_a_default_counts_where_its_option_is_not_given(here: Path) -> None:
    write_script(here, 'parser.add_argument("-d", "--data", default="data/train.csv")')
    assert paths(here, a_job("python", "train.py")) == ["data/train.csv"]
    assert paths(here, a_job("python", "train.py", "--data=/mnt/train.csv")) == []
    assert paths(here, a_job("python", "train.py", "-d", "/mnt/train.csv")) == []


def test_a_script_that_is_no_file_is_left_alone(here: Path) -> None:
    (here / "folder.py").mkdir()
    os.mkfifo(here / "pipe.py")
    (here / "loop.py").symlink_to("loop.py")
    for script in ("folder.py", "pipe.py", "loop.py", "a\0.py", "n" * 5000 + ".py", "/nowhere/train.py"):
        assert paths(here, a_job("python", script)) == [], script


def test_joined_paths_do_not_grow_without_end() -> None:
    lines = ['a0 = "d/" "x"', *(f"a{n + 1} = os.path.join(a{n}, a{n})" for n in range(200))]
    assert max(len(each.path) for each in named_paths("\n".join(lines).encode())) < 2048
    assert isinstance(named_paths(("a = x" + ' / "x.npz"' * 20000).encode()), tuple)


# Kinds


def test_a_path_that_replicas_share_is_told_once(here: Path) -> None:
    container = {"name": "pytorch", "image": "i", "command": ["python", "train.py", "./data"]}
    replica = {"replicas": 1, "restartPolicy": "Never", "template": {"spec": {"containers": [container]}}}
    job = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "j"}}
    found = reads(here, {**job, "spec": {"pytorchReplicaSpecs": {"Master": replica, "Worker": replica}}})
    assert [each.path for each in found] == ["spec.pytorchReplicaSpecs[Master].template.spec.containers[0].command[2]"]


def test_what_a_train_job_reads_is_at_its_trainer(here: Path) -> None:
    job: dict[str, Any] = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "j"},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {"command": ["torchrun", "train.py", "data/train.csv"], "env": [{"name": "A", "value": "x.npz"}]},
        },
    }
    assert [each.path for each in reads(here, job)] == ["spec.trainer.command[2]", "spec.trainer.env[0].value"]
    job["spec"]["runtimeRef"]["name"] = "nowhere"
    assert len(reads(here, job)) == 2


LEARNING_RATE = '"--lr=${trialParameters.learningRate}"'


def test_an_experiments_word_is_at_its_place(here: Path) -> None:
    text = changed(JOB, LEARNING_RATE, f"{LEARNING_RATE}, ./data/train.csv")
    (found,) = reads(here, text)
    line = next(number for number, each in enumerate(text.splitlines(), 1) if "./data" in each)
    assert (found.line, found.column) == (line, 1 + text.splitlines()[line - 1].index("./data"))
    assert found.path == "spec.trialTemplate.trialSpec.spec.template.spec.containers[0].command[3]"
    assert (found.level, found.on) == ("warning", ON)


def test_a_search_parameter_may_be_a_path(here: Path) -> None:
    text = changed(JOB, "[sgd, adam]", "[data/train.csv, other.csv]")
    assert paths(here, text) == ["data/train.csv"]


def test_a_template_in_a_config_map_has_its_own_place(here: Path) -> None:
    template = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: templates, namespace: kubeflow}
data:
  trial.yaml: |
    apiVersion: batch/v1
    kind: Job
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: trainer
              image: i
              command: [python, train.py, "--lr=${trialParameters.learningRate}", "${trialParameters.layers}", "${trialParameters.optimizer}", x.npz]
"""
    head = JOB[: JOB.index("    trialSpec:")]
    reference = "    configMap: {configMapName: templates, configMapNamespace: kubeflow, templatePath: trial.yaml}\n"
    more = "    successCondition: status.conditions.#(type==\"Complete\")#|#(status==\"True\")#\n    failureCondition: status.conditions.#(type==\"Failed\")#|#(status==\"True\")#\n"  # fmt: skip
    found = reads(here, head + reference + more, template)
    assert [(each.file, each.line) for each in found] == [("1.yaml", 15)]


def test_nothing_is_looked_for_without_a_folder_nor_before_a_run_here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    text = changed(JOB, LEARNING_RATE, f"{LEARNING_RATE}, ./data/train.csv")
    assert reads(None, text) == []
    assert load_experiment([Source("f.yaml", text)]).findings == ()
