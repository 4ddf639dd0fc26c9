"""What katuna adds to a trial: a search of N empty trials, one at a time, next to the same commands run by a loop:
`python benchmarks/overhead.py [n]`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from sidebyside import in_turn, machine, show

TRIALS = 40
PROGRAM = "print('accuracy=0.5')"

EXPERIMENT = f"""\
apiVersion: kubeflow.org/v1beta1
kind: Experiment
metadata: {{name: overhead}}
spec:
  objective: {{type: maximize, objectiveMetricName: accuracy}}
  algorithm: {{algorithmName: random}}
  parallelTrialCount: 1
  maxTrialCount: {TRIALS}
  parameters:
  - {{name: lr, parameterType: double, feasibleSpace: {{min: "0", max: "1"}}}}
  trialTemplate:
    primaryContainerName: main
    trialParameters: [{{name: lr, reference: lr}}]
    trialSpec:
      apiVersion: batch/v1
      kind: Job
      spec:
        template:
          spec:
            restartPolicy: Never
            containers:
            - {{name: main, image: none, command: [python, -I, -S, -c, "{PROGRAM}", "${{trialParameters.lr}}"]}}
"""

LOOP = f"""
import subprocess, sys
for number in range({TRIALS}):
    subprocess.run([sys.executable, "-I", "-S", "-c", {PROGRAM!r}, "0.5"], check=True, stdout=subprocess.DEVNULL)
"""


def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "overhead.yaml"
        path.write_text(EXPERIMENT)
        katuna = str(Path(sys.executable).parent / "katuna")
        subprocess.run([katuna, "lint", str(path)], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        commands = {"a loop": [sys.executable, "-c", LOOP], "katuna tune": [katuna, "tune", str(path)]}
        taken = in_turn(commands, n, {"katuna tune": {"KATUNA_HOME": str(Path(folder) / "runs")}})
    print(f"{TRIALS} empty trials, one at a time; n = {n} each, in turn; {machine('katuna', 'optuna')}")
    show(taken, "a loop")
    added = sorted((ours - loop) / TRIALS for ours, loop in zip(taken["katuna tune"], taken["a loop"], strict=True))
    print(f"added to a trial, start of katuna included: {1000 * added[len(added) // 2]:.0f} ms (median of {n})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
