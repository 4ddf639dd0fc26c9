"""A training that was killed, at any moment, and started again comes to the very bits of one that was not."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SERVER = Path(__file__).with_name("small_training.py")
MOMENTS = {0: 100, 1: 24}
"""How many moments at which a rank can be killed a whole training has, at least: only rank 0 writes."""

Told = dict[str, Any]
Start = Callable[..., Told]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Trains in processes of their own: `start(folder, processes, strategy, asynchronous, fuse)` gives codes, errors and what was told."""
    alone = {name: text for name, text in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environ = {**alone, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:

        def started(folder: Path, processes: int, strategy: str, *, asynchronous: bool = False, fuse: str = "") -> Told:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            task = {"folder": str(folder), "processes": processes, "strategy": strategy, "asynchronous": asynchronous}
            print(json.dumps({**task, "fuse": fuse, "port": port}), file=server.stdin, flush=True)
            told: Told = json.loads(server.stdout.readline())  # type: ignore[union-attr]
            return told

        yield started


def whole(done: Told) -> Told:
    """What a training told that came to its end in all ranks, without a word about anything."""
    assert not any(done["codes"]), done
    assert not any(done["errors"]), done
    told: Told = done["told"]
    return told


def check_kills(start: Start, folder: Path, processes: int, strategy: str, points: int) -> None:
    draw = random.Random(7)
    uninterrupted = whole(start(folder / "whole", processes, strategy))
    assert len(uninterrupted["random"]) == processes
    for point in range(points):
        rank, asynchronous = point % processes, draw.random() < 0.5
        fuse = f"{rank}:{draw.randint(1, MOMENTS[rank])}"
        training = (folder / f"{point}", processes, strategy)
        killed = start(*training, asynchronous=asynchronous, fuse=fuse)
        assert killed["codes"][rank] == -9, (fuse, killed)
        assert all(killed["codes"]), (fuse, killed)
        assert whole(start(*training, asynchronous=asynchronous)) == uninterrupted, (fuse, asynchronous)
        assert sorted(each.name for each in training[0].iterdir()) == ["step-000021", "step-000024"]


@pytest.mark.parametrize(("processes", "strategy", "points"), [(1, "ddp", 3), (2, "ddp", 3), (2, "fsdp", 1)])
def test_a_killed_training_comes_to_the_same_bits(
    start: Start, tmp_path: Path, processes: int, strategy: str, points: int
) -> None:
    check_kills(start, tmp_path, processes, strategy, points)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("processes", "strategy", "points"), [(1, "ddp", 20), (2, "ddp", 20), (2, "fsdp", 10)])
def test_killed_at_20_points_it_comes_to_the_same_bits(
    start: Start, tmp_path: Path, processes: int, strategy: str, points: int
) -> None:
    check_kills(start, tmp_path, processes, strategy, points)


def test_killed_again_and_again_it_still_gets_there(start: Start, tmp_path: Path) -> None:
    uninterrupted = whole(start(tmp_path / "whole", 1, "ddp"))
    draw = random.Random(1)
    kills = 0
    while not (done := start(tmp_path / "killed", 1, "ddp", fuse=f"0:{draw.randint(1, 40)}"))["told"]:
        assert done["codes"] == [-9]
        kills += 1
    assert kills >= 2
    assert done["told"] == uninterrupted


def test_another_number_of_processes_goes_on_from_the_same_checkpoint(start: Start, tmp_path: Path) -> None:
    for before, after in ((2, 1), (1, 2)):
        folder = tmp_path / f"{before}"
        assert start(folder, before, "fsdp", fuse="0:60")["codes"][0] == -9
        left = sorted(each.name for each in folder.glob("step-*"))
        told = [whole(start(copied(folder, tmp_path / f"{before}-{time}"), after, "ddp")) for time in range(2)]
        assert left
        assert told[0] == told[1], "also what is random in a rank that is new"
        assert len(set(told[0]["random"])) == after


def copied(folder: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, to))
