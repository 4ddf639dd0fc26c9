"""The folders that a trial's container would have for itself, for its metrics and its checkpoints: where they lie here, and what is
in them when the trial begins."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from katuna.errors import LaunchFailed
from katuna.launch.command import map_paths
from katuna.metrics.collect import Collecting

METRICS, CHECKPOINTS = "metrics", "checkpoints"


@dataclass(frozen=True)
class Volumes:
    """`checkpoints` is the container's path of them, "" where the search hands none from trial to trial.

    Below the trial's folder, `metrics` is empty whenever an attempt begins, as a new pod's is; `checkpoints` is a copy of the
    parent's, or empty, when the trial begins, and an attempt finds there what the one before left.
    """

    collecting: Collecting
    checkpoints: str = ""

    def maps(self, trial: Path) -> Mapping[str, str]:
        """Paths of the container to where they lie when `trial` is the trial's folder."""
        here = {path: str(place) for path, place in self.collecting.here(trial / METRICS).items()}
        return {**here, **({posixpath.normpath(self.checkpoints): str(trial / CHECKPOINTS)} if self.checkpoints else {})}

    def problems(self, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Which paths the trial cannot learn of, as (message, hint): they occur in none of the `texts` that paths are mapped in.

        Such a trainer writes to the path that it has built in, which is one for all trials that run at a time.
        """
        given = list(texts)
        asked = {"checkpoints": self.checkpoints, "metrics": next(iter(self.collecting.paths), "")}
        for what, path in asked.items():
            if path and not path.strip("/"):
                yield f"the trial's {what} cannot lie in {path} itself", "name a folder below it"
            elif path and not any(map_paths(text, {posixpath.normpath(path): ""}) != text for text in given):
                message = f"{path}, where the trial's {what} are to lie, occurs nowhere in the job's command, env or workingDir"
                yield (
                    message,
                    f"each trial has a folder of its own here: give the trainer the path as an argument or in env ({path})",
                )

    def begin(self, trial: Path, parent: Path | None) -> None:
        """Before the first attempt of `trial`, which `parent` hands its checkpoints to. Raises LaunchFailed and OSError."""
        if not self.checkpoints:
            return
        _remove(trial / CHECKPOINTS)
        if parent is None:
            (trial / CHECKPOINTS).mkdir()
            return
        source = parent / CHECKPOINTS
        if not source.is_dir():
            raise LaunchFailed(f"the trial begins with the checkpoints of {parent.name}, and there is no folder {source}")
        copy_folder(source, trial / CHECKPOINTS)

    def begin_attempt(self, trial: Path) -> None:
        """Raises OSError."""
        if self.collecting.collector.kind not in ("StdOut", "PrometheusMetric"):
            _remove(trial / METRICS)
            (trial / METRICS).mkdir()


def copy_folder(source: Path, target: Path) -> None:
    """Copies folders and files. A link to something within `source` leads to its copy; other links, pipes and the like are left out."""
    root = os.path.realpath(source)
    for folder, folders, files in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir()
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                real = os.path.realpath(path)
                if os.path.commonpath([root, real]) == root:
                    (place / name).symlink_to(os.path.relpath(real, os.path.realpath(folder)))
            elif path.is_file():
                shutil.copy2(path, place / name)


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)
