"""What verbs print, and where it goes: nothing in it steers a terminal, and a stream that fails has its own word."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from katuna.cli import output
from searches import KATUNA, SCORES, katuna, objects, write_experiment

EVIL = "a\x1b[31m\x9bb\u202ec"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KATUNA_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


def test_all_verbs_print_through_one_function() -> None:
    """The exception draws on a terminal and escapes line by line."""
    printing = set()
    for path in Path(output.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "click.echo",
                "click.secho",
                "sys.stdout.write",
                "print",
            ):
                printing.add(path.name)
    assert printing == {"output.py", "__init__.py"}, "__init__.py prints one word, before anything is imported"


def test_a_hostile_folder_is_shown_and_not_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / EVIL
    here.mkdir()
    monkeypatch.chdir(here)
    program = f"import os; open(os.environ['KATUNA_TRIAL_DIR'] + '/x', 'w').close(); open({EVIL!r}, 'w').close()\n{SCORES}"
    write_experiment(here, program, maxTrialCount=1, parallelTrialCount=1)
    made = katuna("tune", "experiment.yaml")
    assert made.returncode == 0, made.stderr
    assert "a\\x1b[31m\\x9bb\\u202ec" in made.stdout
    (name,) = (each["metadata"]["name"] for each in objects("trials", "toy"))
    lines = (
        "tune experiment.yaml --dry-run|tune nowhere.yaml|smoke experiment.yaml --keep-files|ls|show|show -o yaml|show -o json|show toy/0|"
        "best|best -o files|best -o command|code|report|export --to trials.csv|logs toy|stop toy|resume toy|train experiment.yaml"
    )
    for line in lines.split("|"):
        done = katuna(*line.split())
        shown = done.stdout + done.stderr
        assert shown, line
        assert not {"\x1b", "\x9b", "\u202e"} & {*shown}, line
    assert name in katuna("show", "toy/0").stdout
    for words in (
        (f"lint{EVIL}",),
        ("ls", f"--{EVIL}"),
        ("show", EVIL),
        ("trials", "-o", EVIL),
        ("lint", EVIL),
        ("rm", "-y", f"../{EVIL}/runs/toy"),
    ):
        done = katuna(*words)
        assert not {"\x1b", "\x9b", "\u202e"} & {*done.stdout, *done.stderr}, words


@needs_full
def test_no_room_for_a_remark_ends_nothing_and_changes_no_exit_code(tmp_path: Path) -> None:
    # A note on stderr before the start: the job's field means nothing here.
    write_experiment(tmp_path, job={"ttlSecondsAfterFinished": 5, "suspend": False})
    with Path("/dev/full").open("w") as full:

        def code(*words: str) -> int:
            return subprocess.run([*KATUNA, *words], stdout=subprocess.DEVNULL, stderr=full, check=False, timeout=60).returncode

        assert code("tune", "experiment.yaml") == 0
        assert objects("ls")[0]["state"] == "Succeeded"
        assert code("smoke", "experiment.yaml") == 0
        assert code("lint", "experiment.yaml") == 0
        assert code("tune", "nowhere.yaml") == 2
        assert code("tune", "--nonsense") == 2
        assert code("show", "nobody") == 2


def test_an_unexpected_error_of_the_system_is_not_called_the_output() -> None:
    code = (
        "import errno, katuna.runs.rundir as rundir\nfrom katuna.cli import main\n"
        "def all_runs(): raise OSError(errno.EMFILE, 'Too many open files')\n"
        "rundir.all_runs = all_runs\nmain(['ls'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: unexpected, at <string>:3 in all_runs: Too many open files\n"


@needs_full
def test_no_room_for_what_is_asked_for_is_told(tmp_path: Path) -> None:
    write_experiment(tmp_path, maxTrialCount=1, parallelTrialCount=1)
    assert katuna("tune", "experiment.yaml").returncode == 0
    for line in ("ls -o json", "export", "show -o yaml", "code", "completion bash", "--help", "ls --help"):
        with Path("/dev/full").open("w") as full:
            words = [*KATUNA, *line.split()]
            done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (1, "error: output: No space left on device\n"), line


# Files that a user names


def test_a_file_is_replaced_whole_a_link_followed_and_a_pipe_written_to(tmp_path: Path) -> None:
    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("before")
    before = real.stat().st_ino
    link.symlink_to("real.html")
    output.write_file(link, b"after")
    assert (real.read_text(), link.is_symlink(), real.stat().st_ino != before) == ("after", True, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "real.html"]
    reading, writing = os.pipe()
    output.write_file(Path(f"/dev/fd/{writing}"), b"through")
    os.close(writing)
    assert os.read(reading, 100) == b"through"
    os.close(reading)


@pytest.mark.parametrize("verb", ["report", "export"])
def test_a_report_for_which_there_is_no_room_leaves_the_one_before(tmp_path: Path, verb: str) -> None:
    write_experiment(tmp_path, maxTrialCount=2, parallelTrialCount=1)
    assert katuna("tune", "experiment.yaml").returncode == 0
    target = tmp_path / "out"
    target.write_text("the one before")
    limited = f"import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\nfrom katuna.cli import main\nmain([{verb!r}, '--to', 'out'])"
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("error: out cannot be written: File too large"), done.stderr
    assert target.read_text() == "the one before"
    assert not list(tmp_path.glob(".*.new"))
