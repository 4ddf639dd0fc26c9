"""Hostile trainers beside one another: the folder that they run in, their values when each runs alone, and what a search says of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from katuna.launch.volumes import memory_places
from searches import KATUNA, journal_events

FOLDER = Path(__file__).with_name("trainers")
ON_THEIR_OWN = {
    *(
        "checkpoints",
        "fills_cache",
        "fills_trial_folder",
        "fixed_port",
        "imports_late",
        "lists_tmp",
        "reads_data",
        "renames_folder",
    ),
}
"""Trainers of single tests."""
TRAINERS = {path.stem for path in FOLDER.glob("*.py") if not path.stem.endswith("_helper")}
HOSTILE = tuple(sorted(TRAINERS - ON_THEIR_OWN))
BEYOND_A_TREE = {"dev_shm", "mapped_below", "mapped_folder", "shares_memory", "tmp_name"}
"""Those whose absolute names a mirrored tree leaves as they are."""
IN_A_TREE = tuple(name for name in HOSTILE if name not in BEYOND_A_TREE)
QUICK = ("appends", "moves_folder", "reads_back", "rewrites_itself", "shares_memory", "tmp_name")

LRS = ("0.1", "0.2", "0.3", "0.4")
TWO = LRS[:2]
"""Enough to find what the one before has left."""
MAPS = ("--map=/opt/store=./linked store", "--map=/opt/app=./app")
MACHINE_WIDE = (Path("/tmp"), Path("/dev/shm"))  # noqa: S108

Values = Mapping[tuple[str, str], str | None]
"""Trainer and lr to what it printed; None where it failed."""


@dataclass
class Site:
    """The working folder of a search, with every trainer and its inputs, and a folder beside it for --map. `home` is KATUNA_HOME,
    None for ./runs; `mark` is in each name that a trainer uses outside of these folders. `before` goes before the command line of katuna,
    `variables` into its environment."""

    base: Path
    home: Path | None = None
    mark: str = field(default_factory=lambda: f"hostile-{uuid4()}")
    port: int = 0
    before: Sequence[str | Path] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lay_out(self.base)
        self.said = ""
        self.begun: list[subprocess.Popen[str]] = []
        self.untouched = self.digests()

    @property
    def folder(self) -> Path:
        return self.base / "here"

    @property
    def environ(self) -> dict[str, str]:
        home = {"KATUNA_HOME": str(self.home)} if self.home else {}
        return {**{name: value for name, value in os.environ.items() if name != "KATUNA_HOME"}, **home, **self.variables}

    @property
    def runs(self) -> Path:
        return self.home or self.folder / "runs"

    def digests(self) -> dict[str, Any]:
        """Of all that is the user's."""
        return {"here": digest(self.folder), "store": digest(self.base / "store")}

    def changes(self) -> dict[str, Any]:
        """What is not as it was, with what it was and is."""
        now = self.digests()
        return {
            f"{folder}/{path}": (entries.get(path), now[folder].get(path))
            for folder, entries in self.untouched.items()
            for path in sorted({*entries, *now[folder]})
            if entries.get(path) != now[folder].get(path)
        }

    def add(self, name: str, text: str) -> Path:
        """One more file of the user's."""
        path = self.folder / name
        path.write_text(text)
        self.untouched = self.digests()
        return path

    def begin(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """katuna, started from the working folder, in a process group of its own; `close` ends what still runs."""
        process = subprocess.Popen(
            [*map(str, [*self.before, *KATUNA, *arguments])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.folder,
            process_group=0,
            env=self.environ,
        )
        self.begun.append(process)
        return process

    def katuna(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """The same to its end; never raises for its exit code."""
        process = self.begin(*arguments)
        shown, errors = process.communicate(timeout=110)
        self.said = shown
        return subprocess.CompletedProcess(process.args, process.returncode, shown, errors)

    def search(self, names: Sequence[str], *options: str | Path, parallel: int, lrs: Sequence[str] = LRS) -> Path:
        """A search to its end in which each trainer runs with each lr, all of one trainer before the next. Returns its run folder."""
        done = self.katuna(*self.tune(names, *options, parallel=parallel, lrs=lrs))
        assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
        return self.runs / "hostile"

    def tune(self, names: Sequence[str], *options: str | Path, parallel: int, lrs: Sequence[str] = LRS) -> Sequence[str | Path]:
        """What katuna is told to run that search; writes the Experiment."""
        self.add("experiment.yaml", experiment(names, lrs, parallel, self.names))
        return ("tune", "experiment.yaml", *(f"--try=trainer={name},lr={lr}" for name in names for lr in lrs), *MAPS, *options)

    def train(self, *command: str, options: Sequence[str | Path] = ()) -> Path:
        """A Job that runs the command to its end. Returns its run folder."""
        self.add("job.yaml", self.job(*command))
        before = {*self.runs.glob("hostile*")}
        done = self.katuna("train", "job.yaml", *MAPS, *options)
        assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
        (run,) = {*self.runs.glob("hostile*")} - before
        return run

    def job(self, *command: str) -> str:
        """The file of a Job that runs the command once."""
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "hostile"}, "spec": job_spec(command, self.names)}
        return yaml.safe_dump(whole)

    @property
    def names(self) -> dict[str, str]:
        """What the file sets in the environment of the trainers."""
        return {"MARK": self.mark, "PORT": str(self.port), "STORE": "/opt/store", "APP": "/opt/app"}

    def left_on_the_machine(self) -> list[Path]:
        """What lies under the mark's name where each program of the machine would find it, or in memory for a run or one of its jobs."""
        folders = [folder for run in self.runs.glob("hostile*") for folder in (run, *run.glob("trials/*"))]
        return [*left(self.mark), *(place for folder in folders for place in memory_places(folder) if place.exists())]

    def close(self) -> None:
        for process in self.begun:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for path in left(self.mark):
            path.unlink()


def lay_out(base: Path) -> None:
    """`here`, with each trainer, its input and its folder of inputs, and `store`."""
    here, store = base / "here", base / "store"
    for folder in (here, store, here / "app"):
        folder.mkdir(parents=True)
    (store / "given.txt").write_text("given\n")
    (here / "app" / "given.txt").write_text("given\n")
    (here / "linked store").symlink_to("../store")
    for path in FOLDER.glob("*.py"):
        shutil.copy(path, here)
    for name in TRAINERS:
        (here / f"{name}.txt").write_text("one\ntwo\nthree\n")
        (here / f"{name}.inputs").mkdir()
        for each in "abc":
            (here / f"{name}.inputs" / f"{each}.txt").write_text(f"{each}\n")


def digest(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Path to kind, mode, owner, time and contents of all below the folder, but for ./runs."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] == "runs":
            continue
        status = path.lstat()
        plain = path.is_file() and not path.is_symlink()
        contents = str(path.readlink()) if path.is_symlink() else sha256(path.read_bytes()).hexdigest()[:12] if plain else ""
        found[str(name)] = (oct(status.st_mode), status.st_uid, status.st_mtime_ns, contents)
    return found


def left(mark: str) -> list[Path]:
    return [path for folder in MACHINE_WIDE for path in folder.glob(f"*{mark}*")]


def job_spec(command: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
    """The spec of a Job that runs the command once, with these variables."""
    variables = [{"name": name, "value": value} for name, value in env.items()]
    one = {"name": "main", "image": "registry.example/hostile:1", "command": [*command], "env": variables}
    return {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [one]}}}


def experiment(names: Sequence[str], lrs: Sequence[str], parallel: int, env: Mapping[str, str]) -> str:
    """The Experiment over trainers and learning rates; its trials run `python TRAINER.py --lr=LR`."""
    spaces = {"trainer": names, "lr": lrs}
    command = ["python", "${trialParameters.trainer}.py", "--lr=${trialParameters.lr}"]
    trials = len(names) * len(lrs)
    spec = {
        "objective": {"type": "maximize", "objectiveMetricName": "acc"},
        "algorithm": {"algorithmName": "random", "algorithmSettings": [{"name": "random_state", "value": "1"}]},
        "parallelTrialCount": parallel,
        "maxTrialCount": trials,
        "maxFailedTrialCount": trials,
        "parameters": [
            {"name": name, "parameterType": "categorical", "feasibleSpace": {"list": [*choices]}}
            for name, choices in spaces.items()
        ],
        "trialTemplate": {
            "primaryContainerName": "main",
            "trialParameters": [{"name": name, "reference": name} for name in spaces],
            "trialSpec": {"apiVersion": "batch/v1", "kind": "Job", "spec": job_spec(command, env)},
        },
    }
    return yaml.safe_dump(
        {"apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": {"name": "hostile"}, "spec": spec}
    )


# What is right


def alone(names: Iterable[str], lrs: Iterable[str] = LRS) -> Values:
    """Each command run by itself in a fresh copy of the folder, under a mark of its own."""
    points = [(name, lr) for name in names for lr in lrs]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(points, pool.map(lambda point: _alone(*point), points), strict=True))


@cache
def _alone(name: str, lr: str) -> str:
    mark = f"alone-{uuid4()}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
        lay_out(Path(base))
        here = Path(base, "here")
        places = {"STORE": f"{base}/store", "APP": f"{here}/app", "PYTHONUNBUFFERED": "1"}
        try:
            done = subprocess.run(
                [sys.executable, f"{name}.py", f"--lr={lr}"],
                capture_output=True,
                text=True,
                timeout=30,
                cwd=here,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **places, "MARK": mark},
            )
        finally:
            for path in left(mark):
                path.unlink()
    assert done.returncode == 0, (name, done.stderr)
    return printed(done.stdout)


def printed(text: str) -> str:
    """What the program says of itself; it says it once."""
    (value,) = [line.removeprefix("acc=") for line in text.splitlines() if line.startswith("acc=")]
    return value


# What a run says


def values(run: Path) -> Values:
    events = journal_events(run)
    points = {
        each["number"]: (each["assignments"]["trainer"], each["assignments"]["lr"]) for each in events if each["event"] == "Asked"
    }
    said = {
        each["number"]: value
        for each in events
        if each["event"] == "Reported"
        for metric, value, *_ in each["reports"]
        if metric == "acc"
    }
    ended = {each["number"]: each["reason"] for each in events if each["event"] == "Exited"}
    return {point: said.get(number) if ended.get(number) == "Completed" else None for number, point in points.items()}


def wrong(found: Values, right: Values) -> dict[str, dict[str, tuple[str | None, str | None]]]:
    """For each trainer whose values are not all right: lr to what it is and what it should be."""
    table: dict[str, dict[str, tuple[str | None, str | None]]] = {}
    for point in {**right, **found}:
        if found.get(point) != right.get(point):
            table.setdefault(point[0], {})[point[1]] = (found.get(point), right.get(point))
    return table


def starts(run: Path) -> list[Mapping[str, Any]]:
    """The record of each start of a process: how, and with which files."""
    return [each["process"] for each in journal_events(run) if each["event"] == "ContainerStarted"]


def ways(run: Path) -> set[str]:
    """How the files of its processes were kept apart."""
    return {start["files"] for start in starts(run)}
