"""`.gitignore` files are read as git reads them: folders and patterns at random, and git's own answer."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from katuna.runs.collect import collect
from katuna.runs.ignore import Ignored, parsed

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")

PIECES = [
    *("*", "**", "***", "a", "b", "ab", "a*", "*b", "?", "x.py", "*.py", "c d", "\\a", "\\*", "a\\", "a]"),
    *("[ab]", "[!a]", "[^b]", "[a-c]x", "[[:alpha:]]", "[]a]", "[-a]", "[a-]", "[\\]]", "[a"),
]
NAMES = ["a", "b", "ab", "cx", "x.py", "b.py", "c d", "a]", "]", "*", "-"]


def a_pattern(draw: random.Random) -> str:
    pieces = [draw.choice(PIECES) for _ in range(draw.choice([1, 1, 1, 2, 2, 3]))]
    return draw.choice(["", "", "", "!", "!", "/"]) + "/".join(pieces) + draw.choice(["", "", "", "/", "/**", " ", "\\ ", "\r"])


def fill(top: Path, draw: random.Random) -> None:
    for _ in range(40):
        path = top.joinpath(*(draw.choice(NAMES) for _ in range(draw.randint(1, 4))))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        except OSError:
            pass  # A folder has the name already, or a file the name of the folder.
    folders = [path for path in top.rglob("*") if path.is_dir()]
    for folder in [top, *draw.sample(folders, min(2, len(folders)))]:
        begin = ["*", "!*/"] if draw.random() < 0.3 else []
        lines = [*begin, *(a_pattern(draw) for _ in range(draw.randint(1, 5)))]
        (folder / ".gitignore").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("seed", range(20))
def test_what_is_ignored_is_what_git_ignores(seed: int, tmp_path: Path) -> None:
    top = tmp_path / "project"
    top.mkdir()
    fill(top, random.Random(seed))
    git = shutil.which("git")
    assert git is not None
    subprocess.run([git, "init", "-q", str(top)], check=True)
    listing = [git, "-C", str(top), "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    patterns = {str(path.relative_to(top)): path.read_text() for path in top.rglob(".gitignore")}
    assert sorted(collect([top]).files) == sorted(filter(None, listed)), patterns


def test_a_long_file_costs_little_a_path() -> None:
    lines = ["*.py[cod]", "__pycache__/", "build/", "*.egg-info/", "/docs/_build/", "*.log", "instance/", "a/**/b"] * 20
    ignored = Ignored(lambda _: "\n".join(lines).encode()).within("/x")
    before = time.perf_counter()
    assert not any(ignored.holds(f"/x/some/folder/of/mine/file{number}.txt", is_folder=False) for number in range(10_000))
    # It is 0.1 s; a machine may have other things to do.
    assert time.perf_counter() - before < 3


def test_lines_that_are_no_pattern_count_for_nothing() -> None:
    assert parsed(["", "# none", "!", "/", "a\\", "[a", "   "]) == ()
