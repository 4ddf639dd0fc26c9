"""What people are told of the files that trials and replicas have to themselves: which way, and what lies there afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from katuna.cli.output import told

if TYPE_CHECKING:
    from katuna.runs.run import Run

MOST_TOLD = 20
"""How many files are named."""


def surroundings(run: Run, place: str, network: Callable[[], str]) -> list[str]:
    """Where the jobs of a run that begins run, and where they write; `place` is the folder of one trial or job, `network` tells who
    reaches its processes."""
    from katuna.launch.workspace import in_words

    cluster = run.options.cluster
    if cluster is not None:
        chosen = [f"context {cluster.context}"] if cluster.context else []
        chosen += [f"namespace {cluster.namespace}"] if cluster.namespace else []
        where = f" ({', '.join(chosen)})" if chosen else ""
        code = (
            "the code of this folder goes with them" if cluster.code == "configmap" and run.code else "their images hold the code"
        )
        return [f"the jobs run on the cluster{where}; {code}"]
    files = [in_words(run.files.way, run.files.why, place)] if run.files else []
    here = f"images are not pulled: their commands run here, in {run.options.local.cwd}"
    return [here, *files, *filter(None, [network()])]


def left_lines(folder: Path) -> list[str]:
    """The files that a trial or job has left, a line each, the largest first: `1,204 KB  work/model.pt`."""
    from katuna.launch.workspace import left

    found = sorted(left(folder), key=lambda each: (-(each[1] or 0), each[0]))
    sizes = ["removed" if size is None else in_bytes(size) for _, size in found]
    width = max(map(len, sizes), default=0)
    lines = [f"{size.rjust(width)}  {path}" for size, (path, _) in zip(sizes, found, strict=True)]
    return told(lines)


def still_running(pids: Sequence[int], handle: str, state: str) -> str:
    """Of the processes of a run that no katuna is at work on."""
    some = ", ".join(map(str, pids[:MOST_TOLD])) + (", ..." if len(pids) > MOST_TOLD else "")
    one = len(pids) == 1
    ends = f"`katuna resume {handle}` or " if state == "Interrupted" else ""
    return (
        f"{'a process of it still runs' if one else f'{len(pids)} processes of it still run'}, though its katuna is gone "
        f"({'pid' if one else 'pids'} {some}); {ends}`katuna rm {handle}` ends {'it' if one else 'them'}"
    )


def in_bytes(size: int) -> str:
    """`512 B`, `1.2 MB`."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
