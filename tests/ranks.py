"""Starts the ranks of a training as the replicas of a PyTorchJob are started: real processes with RANK, WORLD_SIZE and MASTER_*."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

OURS = ("KATUNA_", "PET_", "TORCHELASTIC_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_RANK")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def start(
    stack: ExitStack, argv: Sequence[str | Path], size: int, *, ranks: Iterable[int] | None = None, **environ: str
) -> list[subprocess.Popen[str]]:
    """The processes of `ranks` (all of `size`); what is left of them is killed when `stack` closes."""
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **environ}
    started = []
    for rank in range(size) if ranks is None else ranks:
        process = subprocess.Popen(
            [sys.executable, *map(str, argv)],
            env=environment(RANK=str(rank), **shared),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(stack.enter_context(process))
        stack.callback(process.kill)
    return started


def ended(process: subprocess.Popen[str], timeout: float = 100) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def run(argv: Sequence[str | Path], size: int, **environ: str) -> list[tuple[int, str, str]]:
    with ExitStack() as stack:
        return [ended(process) for process in start(stack, argv, size, **environ)]
