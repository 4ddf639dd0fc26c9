"""Jobs for the launcher's tests: what a rendered trial looks like, and a launcher to run it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from katuna.launch.local import LocalLauncher
from katuna.launch.needs import METRICS, Needs
from katuna.manifest.experiment import Collector
from katuna.metrics.collect import Collecting
from katuna.runs.measured import Measured
from katuna.search.contracts import Launcher, LaunchEvent, TrialRequest
from katuna.search.trials import Exited

PATIENCE_S = 60.0


class WallClock:
    def now(self) -> float:
        return time.time()

    def elapsed(self) -> float:
        return time.monotonic()


def a_job(*argv: str, name: str = "t", container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A batch Job with one container; `spec` holds more fields of the Job's spec. A `$` in argv is taken literally."""
    command = [word.replace("$", "$$") for word in argv]
    whole = {"name": "main", "image": "example/image", "command": command, **(container or {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [whole]}}, **spec},
    }


def a_request(number: int, *argv: str, **more: Any) -> TrialRequest:
    return TrialRequest(number, f"t{number}", a_job(*argv, name=f"t{number}", **more))


class ALauncher(Measured):
    """This machine's launcher with the metrics of a collector, as a run has it: trials' folders below `folder`, the objective
    `accuracy`. `jobs` is the launcher without the metrics."""

    def __init__(self, folder: Path, collector: Collector, checkpoints: str = "", **options: Any) -> None:
        def trial_dir(name: str) -> Path:
            return folder / name

        asked = Collecting(("accuracy", "loss"), collector)
        needs = Needs(checkpoints, asked.places, asked.variables, asked.python_path, asked.port)
        self.jobs = LocalLauncher(trial_dir, "main", WallClock(), needs=needs, **options)
        self.preflight = self.jobs.preflight
        super().__init__(
            self.jobs,
            lambda name, output: asked.source(trial_dir(name) / METRICS, output.log, output.start),
            trial_dir,
            WallClock(),
            "accuracy",
        )


def a_launcher(folder: Path, collector: Collector = Collector(), **options: Any) -> ALauncher:  # noqa: B008
    return ALauncher(folder, collector, **options)


def run_one(
    launcher: Launcher, request: TrialRequest, meanwhile: Callable[[LaunchEvent], None] | None = None
) -> list[LaunchEvent]:
    """All events of a trial, to its Exited."""
    launcher.start(request)
    events: list[LaunchEvent] = []
    give_up = time.monotonic() + PATIENCE_S
    while not (events and isinstance(events[-1], Exited)):
        assert time.monotonic() < give_up, events
        for event in launcher.poll(1.0):
            events.append(event)
            if meanwhile is not None:
                meanwhile(event)
    return events


def the_end(events: list[LaunchEvent]) -> Exited:
    end = events[-1]
    assert isinstance(end, Exited)
    return end


def carriers(mark: str) -> list[int]:
    """The processes whose environment or arguments hold `mark`, whoever their parents are (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            texts = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in texts:
            found.append(int(process.name))
    return found


def until(condition: Callable[[], object], within_s: float = PATIENCE_S) -> bool:
    """Whether the condition came true in time."""
    give_up = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True
