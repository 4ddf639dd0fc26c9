"""The examples really run: every file of katib/ and examples/, by the commands that its comments name, with its budget cut.

Files are found, not listed: a new one is tested because it is there.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import katuna
from katuna.launch.needs import METRICS
from katuna.lint.load import Source, load_experiment
from katuna.manifest.experiment import Experiment
from katuna.metric_line import number
from katuna.metrics.collect import Collecting
from katuna.search.trials import Asked, Edited, TrialState
from searches import katuna as run_katuna
from searches import objects

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "katib").rglob("*.yaml"), *(ROOT / "examples").rglob("*.yaml")])
LOCAL_ONLY = ROOT / "examples" / "local-only"
COMMAND = re.compile(r"# +\w[\w ]*: +katuna (.+)")
"""A comment such as `#   here:   katuna tune katib/digits-tpe.yaml`."""


def is_slow(file: Path) -> bool:
    """Whether a trial takes PyTorch's start-up of several seconds, at the least."""
    return "perceptron.py" not in file.read_text(encoding="utf-8")


def cases(*, slow: bool) -> list[Any]:
    """Each file as a parameter; those with PyTorch are slow, and all are when `slow`."""
    marks = [pytest.mark.slow, pytest.mark.timeout(600)]
    return [pytest.param(file, id=file.stem, marks=marks if slow or is_slow(file) else []) for file in FILES]


def experiment(file: Path) -> Experiment:
    return load_experiment([Source(str(file), file.read_text(encoding="utf-8"))]).experiment


def commands(file: Path) -> list[list[str]]:
    """The katuna commands of the comments above the file, or else the plain one."""
    head = file.read_text(encoding="utf-8").partition("\napiVersion:")[0]
    found = [shlex.split(match[1]) for match in map(COMMAND.fullmatch, head.splitlines()) if match]
    return found or [["tune", str(file.relative_to(ROOT))]]


# What there is


def test_every_algorithm_and_collector_has_an_example() -> None:
    searches = [experiment(file) for file in FILES if LOCAL_ONLY not in file.parents]
    assert {search.algorithm for search in searches} >= {
        "random",
        "grid",
        "tpe",
        "multivariate-tpe",
        "bayesianoptimization",
        "cmaes",
        "sobol",
        "hyperband",
        "pbt",
    }
    assert {(search.collector.kind, search.collector.format) for search in searches} >= {
        ("StdOut", ""),
        ("File", "TEXT"),
        ("File", "JSON"),
        ("TensorFlowEvent", ""),
        ("Push", ""),
    }
    assert any(search.early_stopping is not None and search.template.retain for search in searches)
    assert {search.resume_policy for search in searches} == {"Never", "LongRunning", "FromVolume"}
    words = [word for file in FILES for command in commands(file) for word in command]
    assert {"--warm-start", "--max-trials"} <= set(words)


def test_the_lists_of_examples_name_every_file() -> None:
    for folder in {file.parent for file in FILES}:
        text = (folder / "README.md").read_text(encoding="utf-8")
        named = set(re.findall(r"^\| `([\w.-]+\.yaml)`", text, re.MULTILINE))
        assert named == {file.name for file in FILES if file.parent == folder}, folder


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_comments_name_it(file: Path) -> None:
    assert experiment(file).name == file.stem
    assert str(file.relative_to(ROOT)) in [word for command in commands(file) for word in command]


@pytest.fixture(scope="module")
def findings() -> list[dict[str, Any]]:
    """What `katuna lint` says of all files together, for all engines."""
    done = run_katuna("lint", "-o", "json", *FILES, cwd=ROOT)
    found = json.loads(done.stdout)
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_without_findings(file: Path, findings: list[dict[str, Any]]) -> None:
    """Notes aside; of what lies in local-only, what a run here would be told."""
    engines = {"local"} if LOCAL_ONLY in file.parents else {"katib", "cluster", "local"}
    mine = [each for each in findings if each["file"] == str(file) and each["level"] != "note"]
    assert [each for each in mine if engines & set(each["on"])] == []


def test_what_lies_apart_is_what_katib_would_not_run(findings: list[dict[str, Any]]) -> None:
    apart = {file.stem for file in FILES if LOCAL_ONLY in file.parents}
    assert apart == {Path(each["file"]).stem for each in findings if each["level"] != "note" and "katib" in each["on"]}


# What they do


@dataclass(frozen=True)
class Cut:
    """How short a copy of a file is made: patterns and what takes their place. Numbers come from the file where they can."""

    trials: int = 2
    changes: tuple[tuple[str, str], ...] = ()


CUTS = {
    # The whole first bracket: all its rungs.
    "hyperband": Cut(13),
    # More than two generations of the smallest population.
    "pbt": Cut(11, ((r"(n_population, value: )\"\d+\"", r'\1"5"'), (r"--epochs=\d+", "--epochs=1"))),
    "medianstop": Cut(
        5,
        (
            (r"(min_trials_required, value: )\"\d+\"", r'\1"2"'),
            (r"(start_step, value: )\"\d+\"", r'\1"2"'),
        ),
    ),
}


def cut_of(search: Experiment) -> Cut:
    return CUTS.get(search.early_stopping.algorithm if search.early_stopping else search.algorithm, Cut())


def cut(file: Path, copy: Path) -> None:
    """A copy of the file whose search is over in seconds; its text is otherwise the same, comments too."""
    text, search = file.read_text(encoding="utf-8"), experiment(file)
    short = cut_of(search)
    epochs = min([3, *(int(each) for each in re.findall(r"--epochs=(\d+)", text))])
    # A search whose comments give it more trials later gets one more then than now.
    later = 1 if any("--max-trials" in command for command in commands(file)) else 0
    assert search.max_trials is not None
    most = search.max_trials if search.algorithm == "hyperband" and later else min(search.max_trials, short.trials)
    changes = [
        *short.changes,
        (r"--epochs=\d+", f"--epochs={epochs}"),
        (r"(\n  maxTrialCount:) \d+", rf"\1 {most}"),
        (r"(\n  parallelTrialCount:) \d+", rf"\1 {min(search.parallel_trials, most)}"),
        (r"(\n  maxFailedTrialCount:) \d+", r"\1 1"),
    ]
    if search.collector.port:
        changes.append((rf"\b{search.collector.port}\b", str(free_port())))
    for pattern, replacement in changes:
        text = re.sub(pattern, replacement, text)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(text, encoding="utf-8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def run_cut(file: Path, folder: Path) -> None:
    """Runs the file's own commands, on cut copies of the files that they name. Raises for one that does not end well."""
    most = 0
    for command in commands(file):
        words = list(command)
        for index, word in enumerate(words):
            if word.endswith(".yaml"):
                copy = folder / word
                cut(ROOT / word, copy)
                most = experiment(copy).max_trials or 0
                words[index] = str(copy)
            elif words[index - 1] == "--max-trials":
                assert int(word) > (experiment(file).max_trials or 0)
                words[index] = str(max(most + 1, min(int(word), cut_of(experiment(file)).trials)))
        done = run_katuna(*words, cwd=ROOT, timeout=100)
        assert done.returncode == 0, (words, done.stdout, done.stderr)


def check(run: katuna.Run) -> None:
    """That every trial has come to a value, and one of them to the best."""
    search = run.experiment
    assert run.state == "Succeeded"
    assert run.search.ended is not None
    for trial in run.trials:
        where = (trial.name, trial.state, trial.reason, trial.message)
        assert trial.state in (TrialState.SUCCEEDED, TrialState.EARLY_STOPPED, TrialState.KILLED), where
        assert all(parameter.contains(trial.assignments[parameter.name]) for parameter in search.parameters), trial
        if trial.state is not TrialState.KILLED:
            assert all(number(trial.summary(metric).latest) is not None for metric in search.objective.metrics), where
    values = [value for trial in run.trials if (value := trial.value(search.objective)) is not None]
    assert run.best is not None
    assert run.best.value(search.objective) == (max if search.objective.type.value == "maximize" else min)(values)
    if search.objective.goal is None:
        assert run.search.ended.reason == "ExperimentMaxTrialsReached"
        assert len(run.trials) == search.max_trials
        assert len(values) == search.max_trials
    CHECKS.get(search.early_stopping.algorithm if search.early_stopping else search.algorithm, lambda _: None)(run)


def check_rules(run: katuna.Run) -> None:
    """medianstop gives later trials a rule on the objective, and early ones none."""
    stopping, objective = run.experiment.early_stopping, run.experiment.objective
    assert stopping is not None
    required, step = (int(stopping.settings[name]) for name in ("min_trials_required", "start_step"))
    assert all(trial.rules == () for trial in run.trials[:required])
    assert run.trials[-1].rules
    for trial in run.trials:
        for rule in trial.rules:
            assert (rule.metric, rule.comparison, rule.start_step) == (objective.metric, "less", step)
        if trial.state is TrialState.EARLY_STOPPED:
            assert trial.summary(objective.metric).count >= step


def check_lineage(run: katuna.Run) -> None:
    """pbt's trials go on from the weights of an earlier trial; the trainer counts the epochs in the checkpoint that it was given."""
    label = "pbt.suggestion.katib.kubeflow.org/"
    each = int(next(word.partition("=")[2] for word in run.command(run.trials[0]).split() if word.startswith("--epochs=")))
    named = {trial.name: trial for trial in run.trials}
    generations = {trial.name: int(trial.labels[label + "generation"]) for trial in run.trials}
    assert set(generations.values()) >= {0, 1, 2}
    for trial in run.trials:
        parent = named.get(trial.labels.get(label + "parent", ""))
        assert (parent is None) == (generations[trial.name] == 0)
        if parent is not None:
            assert parent.number < trial.number
            assert generations[parent.name] == generations[trial.name] - 1
        log = (run.folder.trial(trial.name) / "log").read_text()
        assert log.startswith(f"epoch={generations[trial.name] * each + 1} "), (trial.name, log)


def check_rungs(run: katuna.Run) -> None:
    """hyperband's first bracket: nine trials of 1 epoch, the best three again with 3, and the best of them with 9."""
    epochs = [int(trial.assignments["epochs"]) for trial in run.trials]
    assert epochs[:13] == [1] * 9 + [3] * 3 + [9]
    other = [name for name in run.trials[0].assignments if name != "epochs"]

    def points(part: slice) -> list[tuple[str, ...]]:
        return [tuple(trial.assignments[name] for name in other) for trial in run.trials[part]]

    value = {point: trial.value(run.experiment.objective) for point, trial in zip(points(slice(9)), run.trials[:9], strict=True)}
    assert set(points(slice(9, 12))) <= set(value)
    kept = [value[point] or 0 for point in points(slice(9, 12))]
    assert min(kept) >= sorted(each or 0 for each in value.values())[-3]
    assert points(slice(12, 13))[0] in points(slice(9, 12))


def check_grid(run: katuna.Run) -> None:
    points = {tuple(trial.assignments.values()) for trial in run.trials}
    assert len(points) == len(run.trials)


CHECKS = {"medianstop": check_rules, "pbt": check_lineage, "hyperband": check_rungs, "grid": check_grid}


def check_command(run: katuna.Run, folder: Path) -> None:
    """That `best -o command` trains the winner again, in a folder of its own, to the same value."""
    search, best = run.experiment, run.best
    assert best is not None
    before = sorted(path for path in run.folder.trial(best.name).iterdir() if not path.name.startswith("again-"))
    again = subprocess.run(
        ["/bin/bash", "-c", run.command(best)], capture_output=True, text=True, check=False, cwd="/", timeout=100
    )
    assert again.returncode == 0, (run.command(best), again.stdout, again.stderr)
    assert sorted(path for path in run.folder.trial(best.name).iterdir() if not path.name.startswith("again-")) == before
    if search.collector.kind == "PrometheusMetric":
        return
    (folder / "again.log").write_text(re.sub(r"^\S+ \| ", "", again.stdout, flags=re.MULTILINE))
    made = next(run.folder.trial(best.name).glob("again-*"), folder)
    source = Collecting.of(search).source(made / METRICS, folder / "again.log", 0)
    reports = [*source.read(), *source.finish()]
    source.close()
    values = [float(report.value) for report in reports if report.metric == search.objective.metric]
    assert best.value(search.objective) in values


@pytest.mark.parametrize("file", cases(slow=False))
def test_it_runs_with_its_budget_cut(file: Path, tmp_path: Path) -> None:
    run_cut(file, tmp_path)
    run = katuna.load(file.stem)
    check(run)
    check_command(run, tmp_path)
    words = [word for command in commands(file) for word in command]
    if "resume" in words:
        assert [event.counts["maxTrialCount"] for event in run.events if isinstance(event, Edited)] == [len(run.trials)]
        first = next(n for n, event in enumerate(run.events) if isinstance(event, Edited))
        assert 0 < sum(isinstance(event, Asked) for event in run.events[:first]) < len(run.trials)
    if "--warm-start" in words:
        other = katuna.load(words[words.index("--warm-start") + 1])
        told = [(dict(known.assignments), known.value) for known in run.search.known]
        assert told == [(dict(trial.assignments), trial.value(other.experiment.objective)) for trial in other.trials]


@pytest.mark.parametrize("file", cases(slow=True))
def test_it_runs_in_full(file: Path) -> None:
    for command in commands(file):
        done = run_katuna(*command, cwd=ROOT, timeout=500)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    run = katuna.load(file.stem)
    check(run)
    if run.experiment.early_stopping is not None:
        assert any(trial.state is TrialState.EARLY_STOPPED for trial in run.trials)
    shown = objects("show", run.name)
    assert shown["status"]["conditions"][-1]["type"] == "Succeeded"
    assert run.best is not None
    assert shown["status"]["currentOptimalTrial"]["bestTrialName"] == run.best.name
