"""Experiments to change, and what lint says of them."""

from __future__ import annotations

from typing import Any

from katuna.errors import Finding
from katuna.lint.load import Source, lint

JOB = """\
apiVersion: kubeflow.org/v1beta1
kind: Experiment
metadata:
  name: digits
  namespace: kubeflow
spec:
  objective:
    type: maximize
    goal: 0.98
    objectiveMetricName: accuracy
  algorithm:
    algorithmName: tpe
    algorithmSettings:
      - name: random_state
        value: "7"
  parallelTrialCount: 2
  maxTrialCount: 12
  maxFailedTrialCount: 3
  parameters:
    - name: lr
      parameterType: double
      feasibleSpace: {min: "1e-4", max: "0.1", distribution: logUniform}
    - name: layers
      parameterType: int
      feasibleSpace: {min: "1", max: "4"}
    - name: optimizer
      parameterType: categorical
      feasibleSpace: {list: [sgd, adam]}
  trialTemplate:
    primaryContainerName: trainer
    trialParameters:
      - {name: learningRate, description: step size, reference: lr}
      - {name: layers, reference: layers}
      - {name: optimizer, reference: optimizer}
    trialSpec:
      apiVersion: batch/v1
      kind: Job
      spec:
        template:
          spec:
            restartPolicy: Never
            containers:
              - name: trainer
                image: registry.example/trial:1
                command: [python, train.py, "--lr=${trialParameters.learningRate}"]
                args: ["--layers=${trialParameters.layers}", "--optimizer=${trialParameters.optimizer}"]
"""

PYTORCH_SPEC = """\
      apiVersion: kubeflow.org/v1
      kind: PyTorchJob
      spec:
        pytorchReplicaSpecs:
          Master:
            replicas: 1
            restartPolicy: Never
            template:
              spec:
                containers:
                  - name: pytorch
                    image: registry.example/trial:1
                    command: [python, train.py, "--lr=${trialParameters.learningRate}"]
                    args: ["--layers=${trialParameters.layers}", "--optimizer=${trialParameters.optimizer}"]
"""

PYTORCHJOB = (
    JOB[: JOB.index("      apiVersion: batch/v1")].replace("primaryContainerName: trainer", "primaryContainerName: pytorch")
    + PYTORCH_SPEC
)


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
    return text.replace(old, new)


def findings_of(*texts: str, level: str = "error", **options: Any) -> list[Finding]:
    """The findings of one level; the texts are files 0.yaml, 1.yaml, ..."""
    sources = [Source(f"{number}.yaml", text) for number, text in enumerate(texts)]
    return [finding for finding in lint(sources, **options) if finding.level == level]


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, "\n".join(map(str, findings)) or "nothing was found"
    return findings[0]
