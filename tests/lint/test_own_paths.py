"""lint and a run agree on paths that each trial has for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from katuna.errors import LOCAL
from katuna.lint.load import lint
from katuna.manifest.yamltext import Source
from searches import experiment_yaml

EVENTS = {"collector": {"kind": "TensorFlowEvent"}, "source": {"fileSystemPath": {"path": "/opt/tb/", "kind": "Directory"}}}
FILE = {
    "collector": {"kind": "File"},
    "source": {"fileSystemPath": {"path": "/var/log/katib/m.log", "kind": "File", "format": "TEXT"}},
}
PBT = {
    "algorithmName": "pbt",
    "algorithmSettings": [
        {"name": "suggestion_trial_dir", "value": "/opt/kept"},
        {"name": "n_population", "value": "5"},
        {"name": "truncation_threshold", "value": "0.2"},
    ],
}


def remarks(**changes: Any) -> list[tuple[str, tuple[str, ...], str]]:
    found = lint([Source("x.yaml", experiment_yaml(**changes))], folder=Path())
    return [(each.path, each.on, each.message) for each in found if each.code == "path-not-given"]


@pytest.mark.parametrize(("collector", "path"), [(EVENTS, "/opt/tb"), (FILE, "/var/log/katib")])
def test_a_metrics_path_that_the_trainer_is_not_told_is_an_error_here(collector: dict[str, Any], path: str) -> None:
    ((place, on, message),) = remarks(metricsCollectorSpec=collector, command=["python", "train.py", "${trialParameters.lr}"])
    assert (place, on) == ("spec.metricsCollectorSpec.source.fileSystemPath.path", LOCAL)
    assert f"{path}, where the trial's metrics are to lie, occurs nowhere in the job's command, env or workingDir" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"command": ["python", "train.py", "${trialParameters.lr}", "--logs=/opt/tb/run"]},
        {"command": ["python", "train.py", "${trialParameters.lr}"], "env": {"LOGS": "/opt/tb"}},
        {
            "command": [],
            "env": {"LR": "${trialParameters.lr}"},
        },  # the image's entrypoint may name it, and --entrypoint can say so
    ],
)
def test_one_that_it_is_told_or_may_know_is_none(changes: dict[str, Any]) -> None:
    assert remarks(metricsCollectorSpec=EVENTS, **changes) == []


def test_the_checkpoints_of_pbt_are_looked_for_too() -> None:
    ((place, on, message),) = remarks(algorithm=PBT, command=["python", "train.py", "${trialParameters.lr}"])
    assert (place, on) == ("spec.algorithm.algorithmSettings[0].value", LOCAL)
    assert message.startswith("/opt/kept, where the trial's checkpoints are to lie, ")
    assert remarks(algorithm=PBT, command=["python", "train.py", "${trialParameters.lr}", "/opt/kept"]) == []


def test_what_only_a_secret_holds_is_not_known() -> None:
    manifest = yaml.safe_load(
        experiment_yaml(metricsCollectorSpec=EVENTS, command=["python", "train.py", "${trialParameters.lr}"])
    )
    (container,) = manifest["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": "LOGS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]
    found = lint([Source("x.yaml", yaml.safe_dump(manifest))], pass_env=("LOGS",), folder=Path())
    assert "path-not-given" not in [each.code for each in found]
