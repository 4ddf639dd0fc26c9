"""The processes that a run left when katuna and its guards were killed together. The tokens in its folder find them, as for a
resume. A run folder is not trusted: links are not followed, and a claim counts only in the folder that katuna wrote it for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from katuna.launch.guard import LINUX
from katuna.launch.process import PODS, await_release, token_in
from katuna.launch.volumes import sweep
from katuna.trees import folders

_TOKEN = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")

OLD_GUARD_TIMEOUT_S = 15.0

Carriers = Mapping[str, list[int]]
"""Pids by token."""


def carriers() -> Carriers:
    """Every process of this machine that may be looked at and carries what could be a token; itself left out."""
    found: dict[str, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*") if LINUX else ():
        try:
            text = (folder / "environ").read_bytes() + b"\0" + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if (pid := int(folder.name)) != os.getpid():
            for token in set(_TOKEN.findall(text)):
                found.setdefault(token.decode(), []).append(pid)
    return found


def left_running(run: Path, among: Carriers | None = None) -> list[int]:
    """The processes of a run's containers and their guards, in order; also of one that katuna is at work on."""
    among = carriers() if among is None else among
    return sorted({pid for job in _jobs(run) if among for pid in _of(job, among)})


def end_left(run: Path) -> None:
    """Ends them, as a resume would, and removes what the run has in memory; nobody else may be at work on it.

    Raises LaunchFailed for what cannot be ended.
    """
    among = carriers()
    for job in _jobs(run):
        if among and _of(job, among):
            release(job)
        sweep(job)


def _jobs(run: Path) -> Iterator[Path]:
    """The folders of the run's jobs: its own, and those of its trials."""
    yield run
    yield from folders(run / "trials")


def _of(job: Path, among: Carriers) -> set[int]:
    claims = (claim for pod in folders(job / PODS) for claim in folders(pod))
    return {pid for claim in claims for pid in among.get(token_in(claim), ())}


def release(folder: Path) -> None:
    """Waits until guards of an earlier katuna process have let go of a job's folder, and ends what killed ones left. Raises LaunchFailed."""
    for pod in folders(folder / PODS):
        for claim in folders(pod):
            await_release(claim, OLD_GUARD_TIMEOUT_S, folder.name)
    sweep(folder)
