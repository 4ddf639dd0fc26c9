"""A trial that begins again finds what it has written, and no trial finds what the user writes into its code meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Site, alone, values

NO_MOUNTS = (sys.executable, Path(__file__).with_name("no_mounts.py"))
FIVE = ("0.1", "0.2", "0.3", "0.4", "0.5")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="filters system calls")


@pytest.fixture(params=["layer", "mirrored"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, before=NO_MOUNTS if request.param == "mirrored" else ())
    yield made
    made.close()


def kill(process: subprocess.Popen[str]) -> None:
    """katuna and its whole group, as they are."""
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def logs(run: Path) -> list[Path]:
    """Of the trials of a search, or of a job."""
    return sorted([*run.glob("trials/*/log"), *run.glob("log")])


def await_texts(process: subprocess.Popen[str], run: Path, text: str, times: int = 1) -> None:
    """Waits until so many trials have printed it, while katuna runs."""
    until = time.monotonic() + 60
    while sum(text in log.read_text() for log in logs(run)) < times:
        assert process.poll() is None, (process.communicate(), [log.read_text() for log in logs(run)])
        assert time.monotonic() < until, [log.read_text() for log in logs(run)]
        time.sleep(0.02)


def check_starts(text: str) -> None:
    """Two: from nothing, and from where the first was when it was killed, which was in its fifth epoch or later."""
    starts = re.findall(r"^start (\d+) begins behind epoch (\d+)$", text, re.MULTILINE)
    (first, nothing), (second, reached) = starts
    assert (first, nothing, second) == ("1", "0", "2"), starts
    assert 4 <= int(reached) < 12
    assert text.count("epoch 12\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["warm", "cold"])
def test_trials_go_on_from_their_own_checkpoints(site: Site, how: str) -> None:
    lrs = ("0.1", "0.2")
    run = site.runs / "hostile"
    process = site.begin(*site.tune(["checkpoints"], *(["--cold"] if how == "cold" else []), parallel=2, lrs=lrs))
    await_texts(process, run, "epoch 4", times=2)
    kill(process)
    done = site.katuna("resume", "hostile")
    assert done.returncode == 0, done.stderr
    assert len(logs(run)) == 2
    for log in logs(run):
        check_starts(log.read_text())
    assert values(run) == alone(["checkpoints"], lrs)
    assert site.changes() == {}
    assert site.left_on_the_machine() == []


@pytest.mark.slow
def test_a_job_goes_on_from_its_checkpoint(site: Site) -> None:
    run = site.runs / "hostile"
    site.add("job.yaml", site.job("python", "checkpoints.py", "--lr=0.3"))
    process = site.begin("train", "job.yaml")
    await_texts(process, run, "epoch 4")
    kill(process)
    done = site.katuna("resume", "hostile")
    assert done.returncode == 0, done.stderr
    text = (run / "log").read_text()
    check_starts(text)
    assert f"acc={alone(['checkpoints'], ['0.3'])['checkpoints', '0.3']}" in text
    assert site.changes() == {}
    assert site.left_on_the_machine() == []


def edit(site: Site) -> None:
    """As an editor does: one file anew in its place, one written over."""
    script, module = (site.folder / f"imports_late{suffix}.py" for suffix in ("", "_helper"))
    new = script.with_suffix(".new")
    new.write_text(script.read_text().replace('"old"', '"new"'))
    new.replace(script)
    module.write_text(module.read_text().replace('"old"', '"new"'))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["warm", "cold"])
def test_trials_run_the_code_as_it_was_when_the_run_started(site: Site, how: str) -> None:
    run = site.runs / "hostile"
    process = site.begin(*site.tune(["imports_late"], *(["--cold"] if how == "cold" else []), parallel=1, lrs=FIVE))
    await_texts(process, run, "module: old")
    edit(site)
    await_texts(process, run, "acc=", times=2)
    await_texts(process, run, "module: old", times=3)
    kill(process)
    edited = site.digests()
    done = site.katuna("resume", "hostile")
    assert done.returncode == 0, done.stderr
    said = {line for log in logs(run) for line in log.read_text().splitlines() if line.endswith(("old", "new"))}
    assert said == {"script: old", "module: old", "again: old"}
    assert values(run) == {("imports_late", lr): f"{float(lr):.6f}" for lr in FIVE}
    assert site.digests() == edited
    assert site.left_on_the_machine() == []
