"""Stands before the real package kubeflow, where there is one, and lends what that has."""

from __future__ import annotations

import importlib.machinery
import os
import pkgutil
import sys

__path__ = pkgutil.extend_path(__path__, __name__)


def lend(name: str, attribute: str) -> object:
    """What the real package `name` calls `attribute`; the first time, its `__init__` runs in the module that stands before it.

    Raises AttributeError, and what that `__init__` raises.
    """
    names = sys.modules[name].__dict__
    is_private = attribute.startswith("__") and attribute not in ("__all__", "__version__")
    if not is_private and not names.get("_is_loaded"):
        # Set first: the real package's own modules ask for things on their way.
        names["_is_loaded"] = True
        try:
            _load(name)
        except BaseException:
            names["_is_loaded"] = False
            raise
    if attribute not in names:
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
    return names[attribute]


def _load(name: str) -> None:
    module = sys.modules[name]
    ours = dict(module.__dict__)
    spec = importlib.machinery.PathFinder.find_spec(name, [os.path.dirname(folder) for folder in module.__path__[1:]])  # noqa: PTH120
    if spec is not None and spec.loader is not None and spec.origin:
        spec.loader.exec_module(module)
        module.__dict__.update(ours)


def __getattr__(attribute: str) -> object:
    return lend(__name__, attribute)
