"""katuna: run Katib Experiments on this machine, from the very file that a Kubeflow cluster takes.

import katuna

run = katuna.tune("katib/digits-tpe.yaml")
run.best.assignments, run.to_dataframe()

katuna.load()            # the latest run
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["Run", "load", "tune"]

if TYPE_CHECKING:
    from katuna.conduct import tune
    from katuna.run import Run, load


def __getattr__(name: str) -> object:
    """Imported when first asked for: `katuna --help` and trainers, which import this package too, need none of it."""
    if name in __all__:
        from katuna import conduct, run

        return getattr(conduct if name == "tune" else run, name)
    raise AttributeError(f"module 'katuna' has no attribute {name!r}")
