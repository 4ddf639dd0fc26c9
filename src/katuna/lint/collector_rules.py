"""What a metrics collector must be told, in Katib's words (katib.md 4.1), and which collectors a run here has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from katuna.errors import KATIB, KATUNA, LOCAL
from katuna.manifest.diagnostic import Path, Remark, listed, one_of, shown, unlike_katib
from katuna.manifest.experiment import Collector
from katuna.manifest.job import Job, expand_variables
from katuna.manifest.own_paths import unnamed
from katuna.metrics.collect import Collecting
from katuna.metrics.filters import compile_filter

COLLECTORS_HERE = ("StdOut", "File", "TensorFlowEvent", "PrometheusMetric", "Push")
COLLECTORS = (*COLLECTORS_HERE, "Custom")

READS_TEXT = ("StdOut", "File")
"""The collectors that look for metrics in lines of text, with a filter."""

COLLECTOR: Path = ("spec", "metricsCollectorSpec")
SOURCE: Path = (*COLLECTOR, "source")
FILE_SYSTEM: Path = (*SOURCE, "fileSystemPath")

_TWO_GROUPS = re.compile(r".*\(.*\).*\(.*\).*")


def check_collector(spec: Mapping[str, Any]) -> Iterator[Remark]:
    """`spec` is a defaulted Experiment's."""
    collector = spec["metricsCollectorSpec"]["collector"]
    source = spec["metricsCollectorSpec"].get("source", {})
    kind, path = collector.get("kind", ""), (*COLLECTOR, "collector", "kind")
    if kind not in COLLECTORS:
        yield one_of(path, kind, COLLECTORS)
        return
    if kind == "Custom":
        message, hint = "the container of a Custom collector does not run here", f"collectors here: {listed(COLLECTORS_HERE)}"
        yield Remark(path, message, hint, on=KATUNA, code="not-served-here")
        if "customCollector" not in collector:
            yield Remark((*COLLECTOR, "collector", "customCollector"), "must be specified for Custom", code="missing-field")
    elif kind == "PrometheusMetric":
        message = "no Katib installation serves PrometheusMetric"
        yield Remark(path, message, "use StdOut or File there", on=KATIB, code="not-served-by-katib")
        yield from _check_http(source.get("httpGet", {}), spec.get("parallelTrialCount"))
    yield from _check_file_system(kind, source)
    for index, text in enumerate(source.get("filter", {}).get("metricsFormat", [])):
        yield from _check_filter(kind, text, (*SOURCE, "filter", "metricsFormat", index))


def _check_http(get: Mapping[str, Any], parallel: int | None) -> Iterator[Remark]:
    port, path = str(get.get("port", "")), get.get("path", "")
    if not re.fullmatch(r"[0-9]+", port, re.ASCII) or not 0 < int(port) < 2**16:
        message = f"must be a positive whole number up to 65535, not {shown(get.get('port'))}"
        yield Remark((*SOURCE, "httpGet", "port"), message, code="out-of-range")
    elif parallel is not None and parallel > 1:
        message = f"{parallel} trials at a time cannot all listen on port {port} of this machine"
        yield Remark(("spec", "parallelTrialCount"), message, "write 1 for PrometheusMetric", on=LOCAL, code="shared-port")
    if not path.startswith("/"):
        yield Remark((*SOURCE, "httpGet", "path"), f"must begin with /, not {shown(path)}", code="relative-path")


def _check_file_system(kind: str, source: Mapping[str, Any]) -> Iterator[Remark]:
    """The webhook names the path also where the kind is wrong."""
    system = source.get("fileSystemPath", {})
    file_kind, path = system.get("kind", ""), system.get("path", "")
    kinds = {"File": ("File",), "TensorFlowEvent": ("Directory",), "Custom": ("File", "Directory") if system else ()}
    wanted = kinds.get(kind, ())
    where: Path = (*FILE_SYSTEM, "path")
    if wanted and file_kind not in wanted:
        message = f"the kind must be {' or '.join(wanted)} for {kind}, not {shown(file_kind)}"
        yield Remark(where, message, code="unknown-value", about=(*FILE_SYSTEM, "kind"))
    if wanted and not path.startswith("/"):
        yield Remark(where, f"must be an absolute path, not {shown(path)}", code="relative-path")
    if kind == "File" and system.get("format") not in ("TEXT", "JSON"):
        yield one_of((*FILE_SYSTEM, "format"), system.get("format", ""), ("TEXT", "JSON"))
    if kind == "File" and system.get("format") == "JSON" and "filter" in source:
        message = "there is no filter for the format JSON"
        yield Remark((*SOURCE, "filter"), message, "leave it out", at_key=True, code="field-of-another-type")
    if kind == "TensorFlowEvent" and "format" in system:
        message = "must be empty for TensorFlowEvent"
        yield Remark((*FILE_SYSTEM, "format"), message, "leave it out", at_key=True, code="field-of-another-type")


def _check_filter(kind: str, text: str, path: Path) -> Iterator[Remark]:
    """Katib compiles filters with Go's RE2, but for StdOut and Push, where it finds out when the first trial runs."""
    for remark, of_webhook in _filter_problems(text, path):
        if of_webhook and kind not in ("StdOut", "Push"):
            yield remark
        elif kind != "Push":
            yield from unlike_katib(remark, "no metric is ever read")


def _filter_problems(text: str, path: Path) -> Iterator[tuple[Remark, bool]]:
    """(remark, whether Katib's webhook would make it for a collector that it looks at)"""
    try:
        pattern = compile_filter(text)
    except ValueError as error:
        hint = "Go's syntax: no look-around, back-references or possessive repeats"
        yield Remark(path, f"not a regular expression: {error}", hint, code="bad-filter"), True
        return
    webhook = not _TWO_GROUPS.search(text)
    if webhook or pattern.groups < 2:
        hint = r"such as ([\w-]+)=([+-]?[0-9.]+([eE][+-]?[0-9]+)?)"
        yield Remark(path, "needs two groups: the metric's name and its value", hint, code="bad-filter"), webhook


def check_own_paths(spec: Mapping[str, Any], job: Job) -> Iterator[Remark]:
    """`spec` is a defaulted Experiment's, `job` one of its trials'. What an image's own entrypoint or a Secret may hold is not known."""
    containers = [replica.container for replica in job.replicas]
    if any(container.secrets or not container.command for container in containers):
        return
    texts = [
        text
        for replica in job.replicas
        for text in (
            *(*replica.container.command, *replica.container.args, replica.container.working_dir),
            *expand_variables(replica.container.env).values(),
        )
    ]
    collector, algorithm = spec["metricsCollectorSpec"], spec.get("algorithm") or {}
    asked = Collector(
        collector["collector"].get("kind", ""), path=collector.get("source", {}).get("fileSystemPath", {}).get("path", "")
    )
    places: list[tuple[str, str, Path]] = [("metrics", next(iter(Collecting((), asked).places), ""), (*FILE_SYSTEM, "path"))]
    for index, setting in enumerate(algorithm.get("algorithmSettings", []) if algorithm.get("algorithmName") == "pbt" else ()):
        if setting.get("name") == "suggestion_trial_dir":
            places.append(("checkpoints", setting.get("value", ""), ("spec", "algorithm", "algorithmSettings", index, "value")))
    for what, path, where in places:
        if found := unnamed(what, path, list(map(str, texts))):
            yield Remark(where, *found, on=LOCAL, code="path-not-given")
