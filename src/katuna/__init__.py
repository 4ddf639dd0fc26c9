"""katuna: run Katib Experiments and PyTorchJobs on this machine, from the very file that a Kubeflow cluster takes.

import katuna

run = katuna.tune("katib/digits-tpe.yaml")
run.best.assignments, run.to_dataframe()

katuna.load()            # a search that has run

training = katuna.train("training_jobs/digits.yaml")   # one training, without a search
training.status["conditions"], training.metrics

search = katuna.Search("katib/digits-tpe.yaml")   # only what to try; see docs/asktell.md
point = search.ask()
search.tell(point, 0.97)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["Run", "Search", "Training", "load", "train", "tune"]

_PLACES = {
    "tune": "katuna.runs.conduct",
    "Search": "katuna.runs.asktell",
    "train": "katuna.runs.conduct",
}

if TYPE_CHECKING:
    from katuna.runs.asktell import Search
    from katuna.runs.conduct import train, tune
    from katuna.runs.run import Run, Training, load


def __getattr__(name: str) -> object:
    """Imported when first asked for: `katuna --help` and trainers, which import this package too, need none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'katuna' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES.get(name, "katuna.runs.run")), name)
