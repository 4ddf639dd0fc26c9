"""Places, variables and a port that each trial has for itself on this machine, beside its job."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from katuna.errors import LaunchFailed
from katuna.manifest.own_paths import unnamed

METRICS, CHECKPOINTS = "metrics", "checkpoints"


@dataclass(frozen=True)
class Needs:
    """What each trial of a search needs.

    `checkpoints` is the container's folder of them, "" where no trial begins with another's. `metrics` says where the container's
    paths lie below the trial's folder METRICS, the most general path first. `variables` are set to files of that folder;
    `python_path` comes first on PYTHONPATH. `port` is one of this machine that no other trial may have meanwhile, 0 for none.

    METRICS is empty whenever an attempt begins, as a new pod's folder is. CHECKPOINTS is a copy of the parent's, or empty, when the
    trial begins, and an attempt finds there what the attempt before it left.
    """

    checkpoints: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    python_path: str = ""
    port: int = 0

    @property
    def has_metrics_folder(self) -> bool:
        return bool(self.metrics or self.variables)

    @property
    def paths(self) -> tuple[str, ...]:
        """The most general of the container's paths: of the metrics, then of the checkpoints."""
        return tuple(dict.fromkeys(path for path in (*list(self.metrics)[:1], self._checkpoints) if path))

    @property
    def _checkpoints(self) -> str:
        return posixpath.normpath(self.checkpoints) if self.checkpoints else ""

    def maps(self, trial: Path) -> dict[str, str]:
        """Paths of the container to where they lie when `trial` is the trial's folder."""
        places = {path: str(trial / METRICS / place) for path, place in self.metrics.items()}
        return {**places, **({self._checkpoints: str(trial / CHECKPOINTS)} if self.checkpoints else {})}

    def environment(self, trial: Path, python_path: str) -> dict[str, str]:
        """The trial's variables; `python_path` is the PYTHONPATH that it would have without them."""
        found = {name: str(trial / METRICS / place) for name, place in self.variables.items()}
        path = ":".join(filter(None, (self.python_path, python_path)))
        return {**found, **({"PYTHONPATH": path} if self.python_path else {})}

    def problems(self, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Which paths the trial cannot learn of, as (message, hint): they occur in none of the `texts` that paths are mapped in."""
        given = list(texts)
        for what, path in (("checkpoints", self.checkpoints), ("metrics", next(iter(self.metrics), ""))):
            if found := unnamed(what, path, given):
                yield found

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
        if self.has_metrics_folder:
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
