"""A search of K real trials, two at a time, as each tool runs it: from the start of its process to its end.
`python benchmarks/sweep.py [n] [--quick] [--json] [--ray PYTHON]`.

    katuna              `katuna tune` of a Katib Experiment: journal, guards, metrics from the log; each trial the unmodified script
    katuna, imported    the same run from its first trial's start on: without the one import of PyTorch and scikit-learn
    katuna --cold       the same, each trial with an interpreter of its own
    optuna 1, 2         study.optimize(n_jobs=1 or 2) in one process: no isolation, no record; one job has both CPUs' threads
    ray                 Ray Tune with reuse_actors, where --ray names a Python that has it

Then 12 trials that sleep for a second, beside what the real Katib took for them.

Two ideals: nothing started, nothing written, no slot ever empty.

    ideal           the seconds that the trials of katuna's own run say they computed, over two slots
    ideal, apart    measured without katuna: as many trials from the same space in a pool of two forks that have computed before
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sidebyside import load, machine, ratio

TRIAL = Path(__file__).with_name("digits_trial.py")
SLOTS = 2

OPTUNA = """
import sys
sys.path.insert(0, sys.argv[1])
jobs, trials = int(sys.argv[2]), int(sys.argv[3])
import optuna, torch
import digits_trial
torch.set_num_threads(1 if jobs > 1 else 2)
def objective(trial):
    return digits_trial.fit(trial.suggest_float("lr", 1e-3, 1e-2, log=True), trial.suggest_int("width", 4, 16))["accuracy"]
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
study.optimize(objective, n_trials=trials, n_jobs=jobs)
"""

POOL = """
import multiprocessing, random, sys, time
sys.path.insert(0, sys.argv[1])
import torch
import digits_trial
torch.set_num_threads(1)
def run(point):
    digits_trial.fit(*point)
draw = random.Random(1)
points = [(10 ** draw.uniform(-3, -2), draw.randint(4, 16)) for _ in range(int(sys.argv[2]))]
with multiprocessing.get_context("fork").Pool(2) as pool:
    pool.map(run, points[:2], chunksize=1)
    began = time.perf_counter()
    pool.map(run, points, chunksize=1)
    print(time.perf_counter() - began)
"""

RAY = """
import sys
from ray import tune
import ray, logging
folder, trials = sys.argv[1], int(sys.argv[2])
ray.init(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
class Trainable(tune.Trainable):
    def setup(self, config):
        sys.path.insert(0, folder)
        import torch, digits_trial
        torch.set_num_threads(1)
        self.fit, self.given = digits_trial.fit, config
    def reset_config(self, config):
        self.given = config
        return True
    def step(self):
        return {**self.fit(**self.given), "done": True}
tune.Tuner(
    Trainable,
    param_space={"lr": tune.loguniform(1e-3, 1e-2), "width": tune.randint(4, 17)},
    tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True, max_concurrent_trials=2, metric="accuracy", mode="max"),
    run_config=tune.RunConfig(verbose=0, storage_path=sys.argv[3]),
).fit()
"""

EXPERIMENT = """
apiVersion: kubeflow.org/v1beta1
kind: Experiment
metadata: {{name: sweep}}
spec:
  objective: {{type: maximize, objectiveMetricName: accuracy, additionalMetricNames: [seconds]}}
  algorithm: {{algorithmName: random, algorithmSettings: [{{name: random_state, value: "1"}}]}}
  parallelTrialCount: 2
  maxTrialCount: {trials}
  parameters:
    - {{name: lr, parameterType: double, feasibleSpace: {{min: "0.001", max: "0.01", distribution: logUniform}}}}
    - {{name: width, parameterType: int, feasibleSpace: {{min: "4", max: "16"}}}}
  trialTemplate:
    primaryContainerName: main
    trialParameters:
      - {{name: lr, reference: lr}}
      - {{name: width, reference: width}}
    trialSpec:
      apiVersion: batch/v1
      kind: Job
      spec:
        template:
          spec:
            restartPolicy: Never
            containers:
              - name: main
                image: none
                command: [python, {script}, "--lr=${{trialParameters.lr}}", "--width=${{trialParameters.width}}"]
"""


RECORDED_KATIB_S = 28.2
"""12 trials of one second, 2 at a time, on a machine of the same kind: recorded once from a real Katib."""
ONE_SECOND_IDEAL_S = 6.0
BASES = ("ideal", "ideal, apart", "katuna")


def took(command: list[str], folder: Path) -> tuple[float, str]:
    """Seconds, and its output."""
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{command[:4]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - began, done.stdout


def by_katuna(trials: int, *flags: str) -> tuple[float, float, float]:
    """Seconds, those of them from its first trial's start on, and the ideal's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sweep.yaml").write_text(EXPERIMENT.format(trials=trials, script=TRIAL))
        seconds, _ = took([sys.executable, "-m", "katuna", "tune", "sweep.yaml", *flags], folder)
        reported = [
            line.partition("=")[2]
            for log in folder.glob("runs/sweep/trials/*/log")
            for line in log.read_text().splitlines()
            if line.startswith("seconds=")
        ]
        assert len(reported) == trials, f"{len(reported)} of {trials} trials succeeded"
        events = [json.loads(line) for line in (folder / "runs/sweep/journal.jsonl").read_text().splitlines()]
        started = min(event["at"] for event in events if event["event"] == "Started")
        return seconds, events[-1]["at"] - started, sum(map(float, reported)) / SLOTS


def one_second_trials() -> float:
    """Seconds of a search of 12, which an ideal one ends in 6."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "second.py"
        script.write_text("import time\ntime.sleep(1)\nprint('accuracy=1')\n")
        (folder / "sweep.yaml").write_text(
            EXPERIMENT.format(trials=12, script=script).replace(", additionalMetricNames: [seconds]", "")
        )
        return took([sys.executable, "-m", "katuna", "tune", "sweep.yaml"], folder)[0]


def in_process(python: str, program: str, *arguments: str) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as name:
        return took([python, "-c", program, *arguments], Path(name))


def measure(trials: int, n: int, ray: str) -> dict[str, list[float]]:
    """In turn: seconds by tool, and the ideals."""
    found: dict[str, list[float]] = {}
    for _ in range(n):
        seconds, from_first, ideal = by_katuna(trials)
        apart = float(in_process(sys.executable, POOL, str(TRIAL.parent), str(trials))[1])
        turn = {"ideal": ideal, "ideal, apart": apart, "katuna": seconds, "katuna, imported": from_first}
        for jobs in (1, 2):
            turn[f"optuna n_jobs={jobs}"] = in_process(sys.executable, OPTUNA, str(TRIAL.parent), str(jobs), str(trials))[0]
        if trials <= 32:
            turn["katuna --cold"] = by_katuna(trials, "--cold")[0]
            if ray:
                with tempfile.TemporaryDirectory() as storage:
                    turn["ray"] = in_process(ray, RAY, str(TRIAL.parent), str(trials), storage)[0]
        for name, value in turn.items():
            found.setdefault(name, []).append(value)
    return found


def ratios(taken: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """By tool, to each of BASES: the median of the ratios turn by turn."""
    return {name: {base: ratio(taken, name, base) for base in BASES} for name in taken}


def show(size: str, taken: dict[str, list[float]]) -> None:
    print(f"\n{size} trials, {SLOTS} at a time, {len(taken['ideal'])} turns")
    print(f"{'':18} {'median s':>9} {'range':>16}", *(f"{f'of {base}':>16}" for base in BASES))
    for name, to in ratios(taken).items():
        seconds = taken[name]
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name:18} {statistics.median(seconds):9.2f} {spread:>16}", *(f"{to[base]:16.2f}" for base in BASES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="?", default=3, help="turns")
    parser.add_argument("--quick", action="store_true", help="one turn of 8 trials")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object")
    parser.add_argument("--ray", default="", metavar="PYTHON", help="an interpreter that has ray, torch and scikit-learn")
    given = parser.parse_args()
    turns = 1 if given.quick else given.n
    figures = {size: measure(size, turns, given.ray) for size in ([8] if given.quick else [32, 128])}
    seconds = [one_second_trials() for _ in range(turns)]
    header = f"{machine('katuna', 'torch', 'optuna')}; {load()}"
    one_second = {"seconds": seconds, "ideal_s": ONE_SECOND_IDEAL_S, "recorded_katib_s": RECORDED_KATIB_S}
    if given.json:
        by_size = {size: {"seconds": taken, "ratios": ratios(taken)} for size, taken in figures.items()}
        print(json.dumps({"header": header, "trials": by_size, "one_second_trials": one_second}, indent=1))
        return
    print(header)
    for size, taken in figures.items():
        show(str(size), taken)
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    print(f"\n12 trials of one second, {SLOTS} at a time: katuna {statistics.median(seconds):.2f} s ({spread}),", end=" ")
    print(f"ideal {ONE_SECOND_IDEAL_S:g} s, Katib {RECORDED_KATIB_S} s as recorded")


if __name__ == "__main__":
    main()
