"""Stands before the real kubeflow.katib, where there is one: `report_metrics` is ours, the rest is lent."""

from __future__ import annotations

import pkgutil

from .. import lend

__path__ = pkgutil.extend_path(__path__, __name__)

from .api.report_metrics import report_metrics as report_metrics


def __getattr__(attribute: str) -> object:
    return lend(__name__, attribute)
