"""The verbs on one finished search, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import yaml

from searches import KATUNA, katuna, objects, write_experiment


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The KATUNA_HOME of a search that has run: five trials, one of which fails."""
    folder = tmp_path_factory.mktemp("finished")
    program = (
        "import os, sys; lr = float(sys.argv[1]); print('hello \\x1b[31mred\\x1b[0m <script>alert(1)</script>')\n"
        "open(os.environ['KATUNA_TRIAL_DIR'] + '/model.bin', 'w').write('x')\n"
        "sys.exit('lr is too big') if lr > 0.7 else print(f'accuracy={1 - abs(lr - 0.3):.6f}')"
    )
    write_experiment(folder, program, maxTrialCount=5, parallelTrialCount=1)
    done = katuna("tune", "experiment.yaml", cwd=folder, env={"KATUNA_HOME": str(folder / "runs")})
    assert done.returncode == 0, done.stderr
    return folder / "runs"


@pytest.fixture(autouse=True)
def _home(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATUNA_HOME", str(finished))


def test_ls_names_the_run_and_how_it_stands() -> None:
    lines = katuna("ls").stdout.splitlines()
    assert lines[0].split() == ["NAME", "STATE", "WHAT", "TRIALS", "BEST", "AGE"]
    assert lines[1].split()[:4] == ["toy", "Succeeded", "random", "5/5"]
    assert katuna("ls", "-o", "name").stdout == "toy\n"


def test_show_prints_katibs_experiment() -> None:
    shown = objects("show")
    assert (shown["kind"], shown["metadata"]["name"]) == ("Experiment", "toy")
    assert shown["status"]["trials"] == 5
    assert shown["status"]["conditions"][-1]["type"] == "Succeeded"
    assert yaml.safe_load(katuna("show", "toy", "-o", "yaml").stdout) == shown
    assert "Succeeded" in katuna("show", "to").stdout


def test_trials_prints_katibs_trials() -> None:
    trials = objects("trials", "toy")
    assert [trial["kind"] for trial in trials] == ["Trial"] * 5
    states = {trial["status"]["conditions"][-1]["type"] for trial in trials}
    assert states == {"Succeeded", "Failed"}
    failed = next(trial for trial in trials if trial["status"]["conditions"][-1]["type"] == "Failed")
    assert "observation" not in failed["status"]
    assert "lr is too big" in failed["status"]["conditions"][-1]["message"]
    table = katuna("trials").stdout
    assert table.splitlines()[0].split() == ["#", "NAME", "STATE", "accuracy", "lr", "TOOK", "REASON"]
    assert "lr is too big" in table
    assert katuna("trials", "-o", "name").stdout.split() == [trial["metadata"]["name"] for trial in trials]


def test_best_is_the_best_and_its_command_trains_it_again() -> None:
    trials = objects("trials", "toy")
    observed = {
        trial["metadata"]["name"]: float(trial["status"]["observation"]["metrics"][0]["max"])
        for trial in trials
        if "observation" in trial["status"]
    }
    name = katuna("best", "-o", "name").stdout.strip()
    assert observed[name] == max(observed.values())
    line = katuna("best", "-o", "command").stdout.strip()
    again = subprocess.run(
        ["/bin/bash", "-c", line],
        capture_output=True,
        text=True,
        check=True,
        env={"KATUNA_TRIAL_DIR": str(Path.cwd())} | {"PATH": "/usr/bin:/bin"},
        cwd="/",
    )
    Path("model.bin").unlink()
    assert f"accuracy={observed[name]:.6f}" in again.stdout


def test_logs_show_control_characters_and_do_not_obey_them() -> None:
    one = katuna("logs", "toy/0")
    assert "\\x1b[31mred" in one.stdout
    assert "\x1b" not in one.stdout
    whole = katuna("logs", "toy").stdout
    assert [f"[{number}] hello" in whole for number in range(5)] == [True] * 5
    missing = katuna("logs", "toy/17")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "katuna trials toy" in missing.stderr


def test_export_writes_what_others_read(tmp_path: Path) -> None:
    rows = katuna("export").stdout.splitlines()
    assert len(rows) == 6
    assert len(json.loads(katuna("export", "--format", "json").stdout)) == 5
    target = tmp_path / "trials.parquet"
    assert katuna("export", "--format", "parquet", "--to", target).returncode == 0
    assert target.read_bytes()[:4] == b"PAR1"
    unwritable = katuna("export", "--format", "parquet", "--to", "/proc/nowhere/x.parquet")
    assert unwritable.returncode == 1
    assert "cannot be written" in unwritable.stderr


def test_report_is_one_page_without_a_script_of_the_trials(tmp_path: Path) -> None:
    done = katuna("report", "--to", tmp_path / "page.html")
    assert done.stdout.strip() == str(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script>alert(1)" not in page
    assert "accuracy" in page


def test_resume_of_a_finished_search_says_that_there_is_nothing_to_do() -> None:
    done = katuna("resume", "toy")
    assert done.returncode == 0
    assert "nothing to resume" in done.stdout
    assert katuna("stop", "toy").stdout == "toy is not running\n"


@pytest.mark.parametrize("verb", ["show", "trials", "best", "report", "export", "logs", "resume", "rm", "stop"])
def test_an_unknown_run_is_refused_with_the_way_to_the_known_ones(verb: str) -> None:
    done = katuna(verb, "nosuch")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no run 'nosuch'")
    assert "katuna ls" in done.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = subprocess.Popen([*KATUNA, "export"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141, "as SIGPIPE would have it"
    assert b"Traceback" not in errors


def test_output_that_cannot_be_written_is_one_message() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with full.open("w") as output:
        done = subprocess.run([*KATUNA, "ls"], stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: output: No space left on device\n")
    closed = subprocess.run(["/bin/sh", "-c", '"$@" >&-', "sh", *KATUNA, "ls"], capture_output=True, text=True, check=False)
    assert closed.returncode == 0, closed.stderr


def test_a_run_that_cannot_be_read_says_why_and_hides_no_other(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "runs"
    for name in ("good", "gone", "binary", "foreign", "edited"):
        shutil.copytree(finished / "toy", home / name)
    (home / "gone" / "experiment.yaml").unlink()
    (home / "binary" / "experiment.yaml").write_bytes(b"\xff\xfe")
    lines = (home / "foreign" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    body = lines[0].split(b', "crc"')[0].replace(b'"keep"', b'"kept"')
    (home / "foreign" / "journal.jsonl").write_bytes(b'%s, "crc": "%08x"}\n' % (body, zlib.crc32(body)) + b"".join(lines[1:]))
    edited = (home / "edited" / "experiment.yaml").read_text().replace("maxTrialCount: 5", "maxTrialCount: -5")
    (home / "edited" / "experiment.yaml").write_text(edited)
    monkeypatch.setenv("KATUNA_HOME", str(home))
    listed = katuna("ls")
    assert listed.returncode == 0, listed.stderr
    states = {line.split()[0]: line.split()[1] for line in listed.stdout.splitlines()[1:]}
    assert states == {
        "good": "Succeeded",
        "gone": "Unreadable",
        "binary": "Unreadable",
        "foreign": "Unreadable",
        "edited": "Unreadable",
    }
    for name, word in (
        ("gone", "No such file"),
        ("binary", "not UTF-8"),
        ("foreign", "another version"),
        ("edited", "maxTrialCount"),
    ):
        assert word in listed.stderr
        done = katuna("show", name)
        assert done.returncode == 2, name
        assert word in done.stderr
        assert "Traceback" not in done.stderr
    row = next(row for row in objects("ls") if row["name"] == "good")
    assert (row["finished"], row["maxTrialCount"], type(row["best"])) == (5, 5, float)


def test_an_empty_journal_is_named_by_every_verb_that_reads_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KATUNA_HOME", str(tmp_path / "runs"))
    shutil.copytree(finished / "toy", tmp_path / "runs" / "toy")
    (tmp_path / "runs" / "toy" / "journal.jsonl").write_bytes(b"")
    for words in (
        ["resume"],
        ["show"],
        ["trials"],
        ["best"],
        ["logs"],
        ["report"],
        ["export"],
        ["code"],
        ["resume", "--drop-after", "1"],
    ):
        done = katuna(words[0], "toy", *words[1:])
        assert done.returncode == 2, words
        assert "journal.jsonl is empty" in done.stderr
        assert "Traceback" not in done.stderr
    listed = katuna("ls")
    assert "Unreadable" in listed.stdout
    assert "is empty" in listed.stderr
    assert katuna("rm", "-y", "toy").returncode == 0


def test_an_empty_name_removes_nothing(finished: Path) -> None:
    done = katuna("rm", "-y", "")
    assert done.returncode == 2
    assert "empty" in done.stderr
    assert (finished / "toy").is_dir()


def test_resume_does_not_drop_lines_of_a_whole_journal(finished: Path) -> None:
    before = (finished / "toy" / "journal.jsonl").read_bytes()
    done = katuna("resume", "toy", "--drop-after", "3")
    assert done.returncode == 2
    assert "is whole" in done.stderr
    assert (finished / "toy" / "journal.jsonl").read_bytes() == before


def test_completion_knows_verbs_and_runs(finished: Path) -> None:
    environment = {"_KATUNA_COMPLETE": "bash_complete", "COMP_WORDS": "katuna show t", "COMP_CWORD": "2"}
    assert katuna(env=environment).stdout == "plain,toy\n"
    environment = {"_KATUNA_COMPLETE": "bash_complete", "COMP_WORDS": "katuna tr", "COMP_CWORD": "1"}
    assert katuna(env=environment).stdout == "plain,train\nplain,trials\n"
    assert "_KATUNA_COMPLETE=bash_complete" in katuna("completion", "bash").stdout
    environment = {"_KATUNA_COMPLETE": "bash_complete", "COMP_WORDS": "katuna logs toy/", "COMP_CWORD": "2"}
    trials = [f"plain,toy/{trial['metadata']['name']}" for trial in objects("trials", "toy")]
    assert katuna(env=environment).stdout.splitlines() == trials


def test_rm_removes_one_run(tmp_path: Path) -> None:
    home = {"KATUNA_HOME": str(tmp_path / "runs")}
    write_experiment(tmp_path, maxTrialCount=1, parallelTrialCount=1)
    for _ in range(2):
        assert katuna("tune", "experiment.yaml", cwd=tmp_path, env=home).returncode == 0
    assert katuna("rm", "toy-2", "toy-2", env=home).stdout == "removed toy-2\n"
    assert [entry.name for entry in (tmp_path / "runs").iterdir() if entry.name != ".code"] == ["toy"]


def test_rm_removes_nothing_without_a_yes(finished: Path) -> None:
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, b"n\n")
        done = subprocess.run([*KATUNA, "rm", "toy"], stdin=terminal, capture_output=True, text=True, check=False, timeout=60)
    finally:
        os.close(terminal)
        os.close(keyboard)
    assert (done.returncode, done.stderr) == (1, "error: nothing was removed\n")
    assert (finished / "toy").is_dir()


def test_a_working_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    script = 'mkdir gone && cd gone && rmdir ../gone && unset KATUNA_HOME && exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *KATUNA, "ls"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.startswith("error: the folder that you are in (cd to ")) == (1, True), done.stderr


def test_keep_best_leaves_models_of_the_best_alone(tmp_path: Path) -> None:
    program = (
        "import os, sys; open(os.environ['KATUNA_TRIAL_DIR'] + '/model.bin', 'w').write('x'); print(f'accuracy={sys.argv[1]}')"
    )
    write_experiment(tmp_path, program)
    done = katuna("tune", "experiment.yaml", "--keep", "best:2", cwd=tmp_path, env={"KATUNA_HOME": str(tmp_path / "runs")})
    assert done.returncode == 0, done.stderr
    kept = {path.parent.name for path in tmp_path.glob("runs/toy/trials/*/model.bin")}
    best_two = [line.split()[1] for line in done.stdout.split("best accuracy:\n")[1].splitlines()[:2]]
    assert kept == set(best_two)
    assert len(list(tmp_path.glob("runs/toy/trials/*/log"))) == 4


def test_every_verb_has_help_that_says_what_it_does() -> None:
    from katuna.cli.verbs import VERBS

    for verb in VERBS:
        done = katuna(verb, "--help")
        assert done.returncode == 0, verb
        assert done.stdout.startswith(f"Usage: python -m katuna {verb}") or done.stdout.startswith(f"Usage: katuna {verb}"), (
            done.stdout
        )
        assert len(done.stdout.splitlines()) >= 5


def test_an_interruption_while_it_still_imports_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    done = katuna("ls", env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_help_imports_no_heavy_library() -> None:
    heavy = ("torch", "optuna", "pandas", "numpy", "kubernetes", "kubeflow", "plotly", "rich", "yaml")
    for arguments in ((["--help"]), (["tune", "--help"]), (["--version"])):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "katuna", *arguments], capture_output=True, text=True, check=True
        )
        imported = {
            line.rpartition("|")[2].strip().partition(".")[0]
            for line in done.stderr.splitlines()
            if line.startswith("import time:")
        }
        assert "click" in imported, "the import table was read"
        assert not imported & set(heavy), arguments


def test_completion_imports_no_heavy_library() -> None:
    environment = {
        "_KATUNA_COMPLETE": "bash_complete",
        "COMP_WORDS": "katuna show t",
        "COMP_CWORD": "2",
        "PYTHONPROFILEIMPORTTIME": "1",
    }
    done = katuna(env=environment)
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "click" in imported
    assert not imported & {"torch", "optuna", "pandas", "numpy", "kubernetes", "kubeflow", "plotly", "rich"}
