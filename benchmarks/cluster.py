"""What a cluster adds to a search: 12 trials of one second, 2 at a time, there and on this machine in turn:
`python benchmarks/cluster.py [n]`. The cluster is the one that kubectl would use; `make cluster-up` gives one."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from sidebyside import in_turn, machine, show

TRIALS = 12
TRAIN = "import time\ntime.sleep(1)\nprint('accuracy=0.5', flush=True)\n"

EXPERIMENT = f"""\
apiVersion: kubeflow.org/v1beta1
kind: Experiment
metadata: {{name: seconds}}
spec:
  objective: {{type: maximize, objectiveMetricName: accuracy}}
  algorithm: {{algorithmName: random}}
  parallelTrialCount: 2
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
            - {{name: main, image: "python:3.11", command: [python, train.py, "${{trialParameters.lr}}"]}}
"""


def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "seconds.yaml").write_text(EXPERIMENT)
        (Path(folder) / "train.py").write_text(TRAIN)
        tune = ["sh", "-c", 'cd "$0" && exec "$@"', folder, sys.executable, "-m", "katuna", "tune", "seconds.yaml"]
        homes = {name: {"KATUNA_HOME": str(Path(folder) / name)} for name in ("here", "there")}
        commands = {"this machine": tune, "the cluster": [*tune, "--on", "cluster"]}
        taken = in_turn(commands, n, {"this machine": homes["here"], "the cluster": homes["there"]})
    print(f"{TRIALS} trials of one second, 2 at a time; n = {n} each, in turn; {machine('katuna', 'optuna')}")
    show(taken, "this machine")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
