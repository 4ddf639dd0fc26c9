"""Where the kernel allows no mounts, a trial runs in a mirrored tree: relative paths and TMPDIR are its own still."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import IN_A_TREE, TWO, Site, alone, printed, values, ways, wrong

NO_MOUNTS = (sys.executable, Path(__file__).with_name("no_mounts.py"))
QUICK_IN_A_TREE = ("appends", "moves_folder", "rewrites_itself", "tmp_dir")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="filters system calls")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, before=NO_MOUNTS)
    yield made
    made.close()


def test_the_filter_refuses_namespaces() -> None:
    program = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); print(libc.unshare(0x10020000), ctypes.get_errno())"
    done = subprocess.run([*map(str, NO_MOUNTS), sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "-1 1\n"


def check(site: Site, names: tuple[str, ...], *options: str, parallel: int) -> None:
    run = site.search(names, *options, parallel=parallel, lrs=TWO)
    assert ways(run) == {"mirrored"}, site.said
    assert wrong(values(run), alone(names, TWO)) == {}
    assert site.changes() == {}
    assert site.left_on_the_machine() == []


def test_relative_paths_are_the_trials_own(site: Site) -> None:
    check(site, QUICK_IN_A_TREE, parallel=2)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 2], ids=["one-at-a-time", "two-at-a-time"])
@pytest.mark.parametrize("how", ["warm", "cold"])
def test_every_trainer_that_keeps_to_the_tree(site: Site, how: str, parallel: int) -> None:
    check(site, IN_A_TREE, *(["--cold"] if how == "cold" else []), parallel=parallel)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK_IN_A_TREE)
def test_a_job_finds_nothing_of_the_one_before(site: Site, name: str) -> None:
    for lr in ("0.1", "0.3"):
        run = site.train("python", f"{name}.py", f"--lr={lr}")
        assert printed((run / "log").read_text()) == alone([name], [lr])[name, lr]
        assert ways(run) == {"mirrored"}
    assert site.changes() == {}
    assert site.left_on_the_machine() == []
