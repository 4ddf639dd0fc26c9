"""What the engine and its journal cost beside Optuna's JournalFileBackend, the sampler's own time left out: trials that do nothing,
points drawn by `random.Random` on both sides, both journals on disk. `python benchmarks/engine.py [n] [folder]`."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sidebyside import machine, show

from katuna.lint.load import Source, load_experiment
from katuna.manifest.experiment import Experiment
from katuna.metric_line import Report
from katuna.runs.conduct import SystemClock
from katuna.runs.journal import Journal, begin, read
from katuna.search.contracts import LaunchEvent, NoSuggestion, Suggestion, TrialRequest
from katuna.search.engine import Engine
from katuna.search.trials import Assignments, Event, Exited, Opened, Reported, Search, Started, Trial, fold

NAMES = ("rate", "decay", "noise")
VALUES = 20
"""How many values a reporting trial reports beyond the one that it is judged by."""

EXPERIMENT = """\
apiVersion: kubeflow.org/v1beta1
kind: Experiment
metadata: {{name: engine}}
spec:
  objective: {{type: maximize, objectiveMetricName: accuracy}}
  algorithm: {{algorithmName: random, algorithmSettings: [{{name: random_state, value: "1"}}]}}
  parallelTrialCount: 1
  maxTrialCount: {trials}
  parameters: [{parameters}]
  trialTemplate:
    primaryContainerName: main
    trialParameters: [{references}]
    trialSpec:
      apiVersion: batch/v1
      kind: Job
      spec:
        template:
          spec:
            restartPolicy: Never
            containers: [{{name: main, image: none, command: ["true", {arguments}]}}]
"""


def experiment_text(trials: int) -> str:
    return EXPERIMENT.format(
        trials=trials,
        parameters=", ".join(f'{{name: {name}, parameterType: double, feasibleSpace: {{min: "0", max: "1"}}}}' for name in NAMES),
        references=", ".join(f"{{name: {name}, reference: {name}}}" for name in NAMES),
        arguments=", ".join(f'"${{trialParameters.{name}}}"' for name in NAMES),
    )


# katuna: the real engine and journal between a suggester and a launcher that do nothing.


class Points:
    """Random points at no cost."""

    def __init__(self) -> None:
        self._random = random.Random(1)

    def learn(self, assignments: Assignments, value: float) -> None:
        pass

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        return Suggestion({name: repr(self._random.random()) for name in NAMES})

    def restore(self, number: int, suggestion: Suggestion) -> None:
        pass

    def tell(self, trial: Trial) -> None:
        pass


class AtOnce:
    """Trials that are over when they start; each value is an event of its own, as if it had been seen alone."""

    def __init__(self, values: int) -> None:
        self._values = values
        self._ready: list[LaunchEvent] = []

    def start(self, request: TrialRequest) -> None:
        self._ready.append(Started(time.time(), request.number, 1, {"pid": 1, "guard": 1}))
        for step in range(self._values + 1):
            self._ready.append(Reported(time.time(), request.number, (Report("accuracy", repr(step / 7)),)))
        self._ready.append(Exited(time.time(), request.number, 0, "Completed"))

    def attach(self, trial: Trial) -> bool:
        return False

    def poll(self, timeout_s: float) -> Sequence[LaunchEvent]:
        events, self._ready = self._ready, []
        return events

    def stop(self, number: int, grace_s: float) -> None:
        pass

    def close(self, grace_s: float = 0.0) -> None:
        pass


def ours(folder: Path, trials: int, values: int, watch: Callable[[Event, Search], None] | None = None) -> Path:
    """One search of ours; returns its journal."""
    path = folder / "journal.jsonl"
    path.write_bytes(begin([Opened(time.time(), "engine", 1, "0" * 64, {}, {})]))
    journal = Journal(path)
    end = Engine(loaded(trials), Points(), AtOnce(values), journal, SystemClock(), watch=watch).run()
    journal.close()
    assert end is not None
    return path


def loaded(trials: int) -> Experiment:
    return load_experiment((Source("engine.yaml", experiment_text(trials)),)).experiment


# Optuna: ask, report, tell over its journal file.


class FreeSampler(optuna.samplers.BaseSampler):
    """Random points at no cost."""

    def __init__(self) -> None:
        self._random = random.Random(1)

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> float:
        return self._random.random()


def optunas(folder: Path, trials: int, values: int) -> None:
    """The same search in Optuna."""
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    study = optuna.create_study(storage=storage, sampler=FreeSampler(), direction="maximize")
    space = {name: FloatDistribution(0.0, 1.0) for name in NAMES}
    for _ in range(trials):
        trial = study.ask(fixed_distributions=space)
        for step in range(values):
            trial.report(step / 7, step)
        study.tell(trial, 0.5)


# Measurements


def in_new_folders(home: Path) -> Iterator[Path]:
    while True:
        with tempfile.TemporaryDirectory(dir=home) as folder:
            yield Path(folder)


def beside(home: Path, n: int, trials: int, values: int) -> dict[str, list[float]]:
    """Seconds of whole searches, ours and Optuna's in turn, after a short one of each to warm up."""
    sides = {"katuna": ours, "optuna": optunas}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    folders = in_new_folders(home)
    for turn in range(n + 1):
        for name, search in sides.items():
            folder = next(folders)
            began = time.perf_counter()
            search(folder, trials if turn else 20, values)
            if turn:
                taken[name].append(time.perf_counter() - began)
    folders.close()  # type: ignore[attr-defined]
    return taken


def compare(home: Path, n: int, trials: int) -> None:
    """A durable trial, and a reported value, which is what trials that report cost more."""
    plain = beside(home, n, trials, 0)
    print(f"\n{trials} trials, whole searches; n = {n} each, in turn")
    show(plain, "katuna")
    print(f"a durable trial: {each(plain, trials)}")
    if trials > 1000:
        return
    reporting = beside(home, n, trials, VALUES)
    print(f"\n{trials} trials that report {VALUES} values more; n = {n} each, in turn")
    show(reporting, "katuna")
    more = {name: [long - short for long, short in zip(reporting[name], plain[name], strict=True)] for name in plain}
    print(f"a reported value: {each(more, trials * VALUES)}")


def each(taken: dict[str, list[float]], count: int) -> str:
    medians = {name: statistics.median(seconds) / count for name, seconds in taken.items()}
    ratio = statistics.median(theirs / mine for theirs, mine in zip(taken["optuna"], taken["katuna"], strict=True))
    return f"katuna {1e6 * medians['katuna']:.0f} us, optuna {1e6 * medians['optuna']:.0f} us: {ratio:.1f} times"


def growth(home: Path, n: int, trials: int) -> None:
    """The processor's time of the last thousand trials against the first (the disk's own moods left out), and memory per trial."""
    ratios = []
    for folder, _ in zip(in_new_folders(home), range(n), strict=False):
        moments: list[float] = []
        ours(folder, trials, 0, lambda event, _, m=moments: m.append(time.process_time()) if isinstance(event, Exited) else None)
        ratios.append((moments[-1] - moments[-1001]) / (moments[1000] - moments[0]))
    print(f"\nlast 1000 of {trials} trials to the first: {spread(ratios)} (n = {n})")
    for values in (1, VALUES + 1):
        print(f"memory per finished trial of {values} values: {memory(home, values - 1):.0f} bytes")


def memory(home: Path, values: int) -> float:
    """Bytes that a search holds more after 3,000 trials than after 1,000, per trial."""
    marks: list[int] = []

    def mark(event: Event, search: Search) -> None:
        if isinstance(event, Exited) and search.finished in (1000, 3000):
            marks.append(tracemalloc.get_traced_memory()[0])

    with tempfile.TemporaryDirectory(dir=home) as folder:
        tracemalloc.start()
        ours(Path(folder), 3001, values, mark)
        tracemalloc.stop()
    return (marks[1] - marks[0]) / 2000


def spread(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def resume(home: Path, n: int, trials: int, values: int) -> None:
    """A run of real files with `trials` ended trials: reading its journal, and `katuna resume` until its next trial is asked for."""
    reads, starts, objective = [], [], loaded(1).objective
    with tempfile.TemporaryDirectory(dir=home) as name:
        run, kept = a_run(Path(name), trials, values)
        journal = run / "journal.jsonl"
        for _ in range(n):
            journal.write_bytes(kept)
            began = time.perf_counter()
            assert len(fold((event for event, _ in read(journal)), objective).trials) == trials
            reads.append(time.perf_counter() - began)
            starts.append(time_to_next(run, len(kept)))
    print(f"\na journal of {trials} trials of {values + 1} values, {len(kept) / 1e6:.1f} MB: read in {spread(reads)} s")
    print(f"`katuna resume` to its next trial's start: {spread(starts)} s (n = {n})")


def a_run(folder: Path, trials: int, values: int) -> tuple[Path, bytes]:
    """A run folder made by `katuna tune` whose journal then says that `trials` of `trials + 1` have ended; and that journal."""
    (folder / "engine.yaml").write_text(experiment_text(trials + 1))
    command = [sys.executable, "-m", "katuna", "tune", "engine.yaml", "--timeout", "1s"]
    subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, check=False)
    run = folder / "runs" / "engine"
    opened, _ = next(read(run / "journal.jsonl"))
    written = [event for event, _ in read(ours(folder, trials, values))]
    shutil.rmtree(run / "trials")
    (run / "trials").mkdir()
    return run, begin([opened, *written[1:-1]])


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "KATUNA_HOME": str(folder / "runs")}


def time_to_next(run: Path, size: int) -> float:
    """Seconds from the start of `katuna resume` until its journal tells of a trial that runs."""
    journal = run / "journal.jsonl"
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "katuna", "resume", str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while b'"Started"' not in journal.read_bytes()[size:]:
        assert process.poll() is None or b'"Started"' in journal.read_bytes()[size:], "the search ended without another trial"
        time.sleep(0.005)
    taken = time.perf_counter() - began
    process.wait()
    return taken


def file_system(folder: Path) -> str:
    """Its kind, where Linux says so."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown file system"
    return max((len(place), kind) for place, kind in mounts if folder.resolve().is_relative_to(place))[1]


def main(n: int, home: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{machine('katuna', 'optuna')}; {file_system(home)}; {len(NAMES)} parameters")
    compare(home, n, 1000)
    compare(home, max(3, n // 3), 10_000)
    growth(home, max(3, n // 3), 10_000)
    for values in (0, VALUES):
        resume(home, n, 1000, values)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7, Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.gettempdir()))
