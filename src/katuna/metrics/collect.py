"""Which reader takes a trial's metrics in, chosen from the Experiment; none of them knows a trial's state."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from katuna.manifest.experiment import Collector, Experiment
from katuna.metric_line import Report
from katuna.metrics.anyname import AnyNameTail
from katuna.metrics.filters import compile_filter
from katuna.metrics.jsonlines import JsonTail, katib_json, pushed_json
from katuna.metrics.shim import FILE_VARIABLE, FOLDER
from katuna.metrics.tail import LogTail
from katuna.metrics.tensorboard import EventFiles

PUSH_FILE = "pushed.jsonl"


class MetricSource(Protocol):
    """Where one attempt of a trial leaves its metrics. Values that are no numbers never come out of it; nan and infinities do."""

    @property
    def at_end(self) -> bool:
        """Whether the last `read` took in all that there was."""

    @property
    def nearest(self) -> tuple[str, ...]:
        """Up to three texts of the output that look most like the objective, or one that says where it was looked for. Empty
        once the objective was found."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the reports doubtful, in sentences for the trial's owner."""

    def read(self) -> list[Report]:
        """What came since the last call, a bounded amount of it; does not wait. Raises OSError."""

    def hurry(self) -> None:
        """The trial is about to be told to end: what goes away with it is taken in first, within a fraction of a second."""

    def finish(self) -> list[Report]:
        """The last reports, once nothing of the trial is left and `read` has come to the end."""

    def close(self) -> None:
        """Lets go of everything. Idempotent."""


@dataclass(frozen=True)
class Collecting:
    """What to look for, the objective metric first, and where."""

    metrics: tuple[str, ...]
    collector: Collector = field(default_factory=Collector)

    @classmethod
    def of(cls, experiment: Experiment) -> Collecting:
        return cls(experiment.objective.metrics, experiment.collector)

    @property
    def places(self) -> Mapping[str, str]:
        """The container's paths that each trial shall have for itself, the most general first, with where they lie in the trial's
        folder for its metrics: a folder, and the file in it."""
        path = posixpath.normpath(self.collector.path)
        if self.collector.kind == "TensorFlowEvent":
            return {path: ""}
        if self.collector.kind == "File":
            folder, name = posixpath.split(path)
            return {**({folder: ""} if folder.strip("/") else {}), path: name}
        return {}

    @property
    def port(self) -> int:
        """The port of this machine that a trial shall have for itself; 0 for none."""
        return self.collector.port if self.collector.kind == "PrometheusMetric" else 0

    @property
    def variables(self) -> Mapping[str, str]:
        """Variables of a trial that hold a path, with where that lies in the trial's folder for its metrics."""
        return {FILE_VARIABLE: PUSH_FILE} if self.collector.kind == "Push" else {}

    @property
    def python_path(self) -> str:
        """The folder that a trial needs first on its PYTHONPATH so that its metrics arrive; "" for none."""
        return str(FOLDER) if self.collector.kind == "Push" else ""

    def source(self, folder: Path, log: Path, offset: int) -> MetricSource:
        """The reader for an attempt whose output is `log` from byte `offset` on and whose metrics' folder is `folder`, empty yet."""
        kind, metrics = self.collector.kind, self.metrics
        if kind in ("StdOut", "AnyName"):
            filters = [compile_filter(text) for text in self.collector.filters]
            return AnyNameTail(log, offset) if kind == "AnyName" else LogTail(log, metrics, filters, offset)
        if kind == "Push":
            return JsonTail(folder / PUSH_FILE, metrics, pushed_json, "kubeflow.katib.report_metrics")
        if kind == "PrometheusMetric":
            from katuna.metrics.scrape import Scraper

            return Scraper(self.collector.port, self.collector.path, metrics)
        path, place = list(self.places.items())[-1]
        if kind == "TensorFlowEvent":
            return EventFiles(folder, metrics, path)
        assert kind == "File", f"a collector {kind} is refused before anything runs"
        if self.collector.format == "JSON":
            return JsonTail(folder / place, metrics, katib_json, path)
        filters = [compile_filter(text) for text in self.collector.filters]
        return LogTail(folder / place, metrics, filters, stands_for=path)
