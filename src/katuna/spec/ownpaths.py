"""Paths that each trial has for itself on this machine: for its metrics, and for the checkpoints that pbt hands on. A trial learns of
them through its command and environment, or not at all."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from katuna.errors import LOCAL
from katuna.metrics.collect import Collecting
from katuna.spec.collectors import FILE_SYSTEM
from katuna.spec.job import Job, replica_environment
from katuna.spec.model import Collector
from katuna.spec.remark import Path, Remark


def map_paths(text: str, maps: Mapping[str, str]) -> str:
    """Replaces each path of `maps` and the paths below it, wherever one begins in `text`: `--data=/opt/app/x`, `/a:/opt/app`."""
    if not maps:
        return text
    longest_first = sorted(maps, key=len, reverse=True)
    pattern = rf"(?<![\w./~-])({'|'.join(map(re.escape, longest_first))})(?![\w.~-])"
    return re.sub(pattern, lambda match: maps[match[1]], text)


def unnamed(what: str, path: str, texts: Collection[str]) -> tuple[str, str] | None:
    """Why a trial's `what` cannot lie at `path`, as (message, hint); None where they can, or `path` is "". `texts` are those that
    paths are mapped in: a trainer that finds the path in none of them writes to the one that it has built in, which is one for all
    trials that run at a time."""
    if path and not path.strip("/"):
        return f"the trial's {what} cannot lie in {path} itself", "name a folder below it"
    if not path or any(map_paths(text, {posixpath.normpath(path): ""}) != text for text in texts):
        return None
    message = f"{path}, where the trial's {what} are to lie, occurs nowhere in the job's command, env or workingDir"
    return message, f"each trial has a folder of its own here: give the trainer the path as an argument or in env ({path})"


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
            *dict(replica_environment(job, replica)).values(),
        )
    ]
    collector, algorithm = spec["metricsCollectorSpec"], spec.get("algorithm") or {}
    asked = Collector(
        collector["collector"].get("kind", ""), path=collector.get("source", {}).get("fileSystemPath", {}).get("path", "")
    )
    places: list[tuple[str, str, Path]] = [("metrics", next(iter(Collecting((), asked).paths), ""), (*FILE_SYSTEM, "path"))]
    for index, setting in enumerate(algorithm.get("algorithmSettings", []) if algorithm.get("algorithmName") == "pbt" else ()):
        if setting.get("name") == "suggestion_trial_dir":
            places.append(("checkpoints", setting.get("value", ""), ("spec", "algorithm", "algorithmSettings", index, "value")))
    for what, path, where in places:
        if found := unnamed(what, path, texts):
            yield Remark(where, *found, on=LOCAL, code="path-not-given")
