"""Searches that tests really run: Experiment files over small Python programs, and the katuna command as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

KATUNA = (sys.executable, "-m", "katuna")

SCORES = "import sys; lr = float(sys.argv[1]); print(f'accuracy={1 - abs(lr - 0.3):.6f}')"
"""A trial that is over at once; its best lr is 0.3."""

LR = {"name": "lr", "parameterType": "double", "feasibleSpace": {"min": "0.01", "max": "0.9"}}


def experiment_yaml(program: str = SCORES, **changes: Any) -> str:
    """An Experiment over one double, four random trials of `program`, two at a time. `changes` go into its spec; `name`, `job`,
    `env` and `parameters` into what they say."""
    name = changes.pop("name", "toy")
    parameters = changes.get("parameters", [LR])
    words = [f"${{trialParameters.{parameter['name']}}}" for parameter in parameters]
    container = {
        "name": "main",
        "image": "registry.example/toy:1",
        "command": changes.pop("command", ["python", "-I", "-S", "-c", program, *words]),
    }
    if env := changes.pop("env", {}):
        container["env"] = [{"name": key, "value": value} for key, value in env.items()]
    job = {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}, **changes.pop("job", {})}
    spec = {
        "objective": {"type": "maximize", "objectiveMetricName": "accuracy"},
        "algorithm": {"algorithmName": "random", "algorithmSettings": [{"name": "random_state", "value": "5"}]},
        "parallelTrialCount": 2,
        "maxTrialCount": 4,
        "parameters": parameters,
        "trialTemplate": {
            "primaryContainerName": "main",
            "trialParameters": [{"name": parameter["name"], "reference": parameter["name"]} for parameter in parameters],
            "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": job},
        },
        **changes,
    }
    return yaml.safe_dump({"apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": {"name": name}, "spec": spec})


def write_experiment(folder: Path, program: str = SCORES, **changes: Any) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(experiment_yaml(program, **changes))
    return path


def katuna(
    *arguments: str | Path, cwd: Path | None = None, timeout: float = 60, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end and gives its output; never raises for its exit code."""
    return subprocess.run(
        [*KATUNA, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )


def is_refused(*arguments: str) -> str:
    """The message of an input that is refused: exit code 2, stderr, nothing on stdout, no run folder, no traceback."""
    done = katuna(*arguments)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not Path("runs").exists()
    return done.stderr


def objects(*arguments: str) -> Any:
    """What `katuna ... -o json` prints."""
    done = katuna(*arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def journal_events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def history(run: Path) -> list[dict[str, Any]]:
    """The journal as if nothing had happened to it: without times, pids and resume marks, and without what attempts told that a
    resume took up again; the reports of a trial in one, however they were read. How soon a stopped trial ended is left out too."""
    kept: list[dict[str, Any]] = []
    stopped: set[int] = set()
    for event in journal_events(run):
        plain = {name: value for name, value in event.items() if name not in ("at", "crc", "process")}
        if event["event"] == "Resumed":
            again = event["restarted"]
            kept = [each for each in kept if each["event"] == "Asked" or each.get("number") not in again]
            stopped -= set(again)
            continue
        if event["event"] == "Stopping":
            stopped.add(event["number"])
        if event["event"] == "Exited" and event["number"] in stopped:
            plain = {"event": "Exited", "number": event["number"]}
        if event["event"] == kept[-1]["event"] == "Reported" if kept else False:
            kept[-1]["reports"] += plain["reports"]
        else:
            kept.append(plain)
    return kept


def processes_with(mark: str) -> list[int]:
    """The processes that carry `mark` in their environment or arguments (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def await_none(mark: str, within_s: float) -> list[int]:
    """Waits until no process carries the mark; returns those that are left when the time is up."""
    give_up = time.monotonic() + within_s
    while (left := processes_with(mark)) and time.monotonic() < give_up:
        time.sleep(0.02)
    return left


def await_line(path: Path, text: str, within_s: float = 30, times: int = 1) -> None:
    """Waits until a file holds `text`, `times` times."""
    give_up = time.monotonic() + within_s
    while not path.exists() or path.read_text(errors="replace").count(text) < times:
        assert time.monotonic() < give_up, f"{path} never held {text!r}: {path.read_text() if path.exists() else 'no file'}"
        time.sleep(0.02)


def _heed_sigint() -> None:
    """Whoever runs the tests in the background may have SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def spawn(*arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """katuna in a process group of its own, as a terminal would run it."""
    return subprocess.Popen(
        [*KATUNA, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=cwd,
        process_group=0,
        preexec_fn=_heed_sigint,  # noqa: PLW1509
        env={**os.environ, **(env or {})},
    )
