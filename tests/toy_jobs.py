"""Jobs that tests really run: PyTorchJob files over small programs of the standard library alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

IMAGE = "registry.example/toy:1"

STEPS = """
import os, signal, sys, time
steps, pause = int(sys.argv[1]), float(sys.argv[2])
state = os.path.join(os.environ["KATUNA_TRIAL_DIR"], "checkpoints-" + os.environ["RANK"])
done = int(open(state).read()) if os.path.exists(state) else 0
print("from step", done, flush=True)
for step in range(done + 1, steps + 1):
    time.sleep(pause)
    open(state + ".new", "w").write(str(step))
    os.replace(state + ".new", state)
    print(f"step={step} loss={1 / step:.4f}", flush=True)
"""
"""A trainer that keeps its step and goes on from it: `STEPS PAUSE_S` are its arguments."""


def pytorchjob(
    program: str, *arguments: str, name: str = "toy", workers: int = 0, restart: str = "Never", **changes: Any
) -> dict[str, Any]:
    """A job of one Master and `workers` Workers that all run `program`. `env`, `container`, `pod` and `spec` go where they say."""
    command = ["python", "-I", "-S", "-c", program, *arguments]
    container = {"name": "pytorch", "image": IMAGE, "command": command, **changes.get("container", {})}
    container["env"] = [
        *container.get("env", []),
        *({"name": key, "value": value} for key, value in changes.get("env", {}).items()),
    ]
    pod = {"containers": [container], **changes.get("pod", {})}
    replica = {"replicas": 1, "restartPolicy": restart, "template": {"spec": pod}}
    replicas = {"Master": replica, **({"Worker": {**replica, "replicas": workers}} if workers else {})}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {"pytorchReplicaSpecs": replicas, **changes.get("spec", {})},
    }


def write_job(folder: Path, program: str, *arguments: str, beside: tuple[Mapping[str, Any], ...] = (), **changes: Any) -> Path:
    """`job.yaml` in the folder, with the documents of `beside` after it in the same file."""
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump_all([pytorchjob(program, *arguments, **changes), *map(dict, beside)], sort_keys=False))
    return path
