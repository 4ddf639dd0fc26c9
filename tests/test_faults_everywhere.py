"""A kill, a full disk or a broken one at every call that changes something below the run folder, in one trial's whole life: readers
see the old state or the new one, and the search goes on without a human."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from katuna.runs.journal import read
from katuna.search.trials import Asked, Ended, Exited, Opened, Reported, Started, Told
from searches import SCORES, katuna, write_experiment

CHANGES = (
    *("openat", "mkdir", "write", "pwrite64", "writev", "copy_file_range", "sendfile", "ftruncate", "fallocate"),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "unlink", "unlinkat"),
)
FAULTS = {"kill": "signal=KILL", "full": "error=ENOSPC", "broken": "error=EIO"}
MOST = 40
STRACE = shutil.which("strace") or ""

# katuna whose run folder has a name that is known beforehand, also while it is being made.
KATUNA = """
import secrets, sys
secrets.token_hex = lambda size: {token!r}[: 16 if size == 8 else 32]
from katuna.cli import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Call:
    """The `turn`-th call of this name on this path in its process."""

    name: str
    path: str
    turn: int


def token_of(folder: Path) -> str:
    """A trial's token has to be its own on this machine: what carries it is ended."""
    return hashlib.blake2b(str(folder).encode(), digest_size=16).hexdigest()


def traced(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`katuna tune` of the folder's Experiment, in the folder, under strace."""
    command = [sys.executable, "-c", KATUNA.format(token=token_of(folder)), "tune", "experiment.yaml"]
    return subprocess.run(
        [STRACE, "-f", "-qq", "-o", str(folder / "trace"), *options, *command],
        cwd=folder,
        env={**os.environ, "KATUNA_HOME": str(folder / "runs")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def an_experiment(folder: Path) -> Path:
    folder.mkdir()
    write_experiment(folder, SCORES, parallelTrialCount=1, maxTrialCount=1)
    return folder


def calls_that_change(folder: Path) -> list[Call]:
    """What a whole search does below its run folder, in order; the paths are those of a search in `folder`."""
    done = traced(folder, "-y", "-e", "trace=" + ",".join(CHANGES))
    if done.returncode != 0 and "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    runs, seen, calls = str(folder / "runs"), Counter[tuple[str, str, str]](), []
    for line in (folder / "trace").read_text().splitlines():
        match = re.match(r'(\d+) +(\w+)\((?:\d+<([^>]+)>|(?:AT_FDCWD<[^>]*>, )?"([^"]+)")(.*)', line)
        if not match or not (path := match[3] or match[4]).startswith(runs):
            continue
        seen[match[1], match[2], path] += 1
        if match[2] != "openat" or "O_CREAT" in match[5]:
            calls.append(Call(match[2], path, seen[match[1], match[2], path]))
    return calls


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    if not STRACE:
        pytest.skip("strace is not installed")
    folder = an_experiment(tmp_path_factory.mktemp("life") / "here")
    return [
        Call(call.name, call.path.replace(str(folder), "{folder}").replace(token_of(folder), "{token}"), call.turn)
        for call in calls_that_change(folder)
    ]


def sample(calls: list[Call], most: int) -> list[Call]:
    if len(calls) <= most:
        return calls
    chance = random.Random(4)
    return [calls[place] for place in sorted(chance.sample(range(len(calls)), most))]


def fails_at(folder: Path, call: Call, fault: str) -> subprocess.CompletedProcess[str]:
    """The folder's search with the fault at that call."""
    path = call.path.replace("{folder}", str(folder)).replace("{token}", token_of(folder))
    return traced(folder, "-P", path, "-e", f"trace={call.name}", "-e", f"inject={call.name}:{FAULTS[fault]}:when={call.turn}")


ORDER = [Opened, Asked, Started, Exited, Ended]
"""The journal of a trial's life. A trial that is itself killed, or cannot write its log, may report nothing."""


def check_one(folder: Path, call: Call, fault: str) -> str:
    """Runs a search into the fault and on to its end; returns how the first run ended, for the counts."""
    done = fails_at(an_experiment(folder), call, fault)
    told = f"{fault} at {call}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, told
    if fault == "kill":
        assert done.returncode in (-9, 137, 0, 1), told
    else:
        assert done.returncode in (0, 1, 2), told
        if done.returncode == 1 and "failed" not in done.stdout:
            assert re.search(r"error: .*cannot be written: .*katuna resume toy", done.stderr), told
        if done.returncode == 2:
            assert re.search(r"error: .*(no run folder can be made|cannot be written).*(make room|copy the run)", done.stderr), (
                told
            )
    journal = folder / "runs" / "toy" / "journal.jsonl"
    if journal.exists():
        kinds = [type(event) for event, _ in read(journal) if not isinstance(event, Reported | Told)]
        assert kinds == ORDER[: len(kinds)], told
    go_on = ("resume", "toy") if journal.exists() else ("tune", "experiment.yaml")
    again = katuna(*go_on, cwd=folder, env={"KATUNA_HOME": str(folder / "runs")})
    told += f"\n{go_on}: exit code {again.returncode}\n{again.stdout}\n{again.stderr}"
    events = [event for event, _ in read(journal)]
    assert [event.number for event in events if isinstance(event, Exited)] == [0], told
    assert isinstance(events[-1], Ended), told
    assert again.returncode == (0 if events[-1].succeeded else 1), told
    return str(done.returncode)


@pytest.mark.timeout(120)
def test_a_fault_at_some_calls(tmp_path: Path, calls: list[Call]) -> None:
    chance = random.Random(20261123)
    for number, call in enumerate(chance.sample(calls, 6)):
        check_one(tmp_path / str(number), call, tuple(FAULTS)[number % 3])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_call(tmp_path: Path, calls: list[Call], fault: str) -> None:
    tried = sample(calls, MOST)
    ends = Counter(check_one(tmp_path / str(number), call, fault) for number, call in enumerate(tried))
    print(f"{fault}: {len(tried)} of {len(calls)} calls, exit codes {dict(ends)}")
    assert sum(ends[code] for code in ends if code != "0") >= len(tried) // 3, "the faults were felt"
