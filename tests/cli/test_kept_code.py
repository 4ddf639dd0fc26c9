"""The code that a run keeps, as a user meets it: `katuna code`, `show`, `resume --code`, `rm`."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from katuna.runs import collect, conduct, journal
from katuna.runs.rundir import RunDir
from katuna.search.trials import Opened
from searches import KATUNA, await_line, experiment_yaml, journal_events, katuna, objects, spawn
from toy_jobs import write_job

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")

TRAIN = "import sys\nfrom part import BONUS\nprint(f'accuracy={float(sys.argv[1]) + BONUS}')\n"
COMMAND = ["python", "train.py", "${trialParameters.lr}"]
ONE: dict[str, Any] = {"maxTrialCount": 1, "parallelTrialCount": 1, "resumePolicy": "LongRunning"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)
    Path("part.py").write_text("BONUS = 0\n")


def search() -> Path:
    Path("experiment.yaml").write_text(experiment_yaml(command=COMMAND, **ONE))
    done = katuna("tune", "experiment.yaml", "--cold")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stderr == ""
    return Path("runs/toy")


def git(*words: str) -> str:
    argv = ["git", "-c", "user.name=n", "-c", "user.email=n@example.com", *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def values() -> list[float]:
    """Of the trials, without the whole part that BONUS adds."""
    return [float(trial["status"]["observation"]["metrics"][0]["latest"]) // 1 for trial in objects("trials", "toy")]


def code_line(verb: str = "toy") -> str:
    return next(
        (line.removeprefix("Code").strip() for line in katuna("show", verb).stdout.splitlines() if line[:5] == "Code "), ""
    )


@needs_git
def test_the_code_is_named_listed_and_printed() -> None:
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    Path("train.py").write_text(TRAIN + "# edited\n")
    search()
    commit, shown = git("rev-parse", "HEAD"), objects("code", "toy")
    assert code_line() == f"{shown['digest'][:12]}  commit {commit[:7]} (dirty)"
    assert (shown["commit"], shown["dirty"]) == (commit, True)
    assert [root["path"] for root in shown["roots"]] == [str(Path.cwd())]
    assert [file["path"] for file in shown["roots"][0]["files"]] == ["experiment.yaml", "part.py", "train.py"]
    listed = katuna("code").stdout
    assert f"Digest     {shown['digest']}\nCommit     {commit} (dirty)\n" in listed
    assert "   10  part.py\n" in listed
    assert f"{Path.cwd()}  3 files, " in listed
    Path("train.py").write_text("")
    for name in ("train.py", "./train.py", str(Path.cwd() / "train.py")):
        assert katuna("code", "toy", name).stdout == TRAIN + "# edited\n"


def test_what_has_been_edited_since_is_a_unified_diff() -> None:
    search()
    assert katuna("code", "--diff").stdout == "no file differs\n"
    Path("part.py").write_text("BONUS = 1")
    Path("train.py").unlink()
    Path("more.py").write_text("x = 1\n")
    Path("experiment.yaml").chmod(0o755)
    done = katuna("code", "toy", "--diff")
    assert done.returncode == 0
    lines = [
        *("mode of experiment.yaml: 644, now 755", "--- /dev/null", "+++ today/more.py", "@@ -0,0 +1 @@", "+x = 1"),
        *("--- kept/part.py", "+++ today/part.py", "@@ -1 +1 @@", "-BONUS = 0", "+BONUS = 1", "\\ No newline at end of file"),
        *("--- kept/train.py", "+++ /dev/null", "@@ -1,3 +0,0 @@", *(f"-{line}" for line in TRAIN.splitlines())),
    ]
    assert done.stdout.splitlines() == lines
    assert katuna("code", "toy", "part.py", "--diff").stdout.splitlines() == lines[5:11]
    assert katuna("code", "toy", "experiment.yaml", "--diff").stdout.splitlines() == lines[:1]


def test_a_resume_goes_on_with_the_code_as_it_was() -> None:
    run = search()
    digest = objects("code", "toy")["digest"]
    Path("part.py").write_text("BONUS = 5\n")
    done = katuna("resume", "toy", "--max-trials", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert values() == [0, 0]
    assert objects("code", "toy")["digest"] == digest
    assert [path.name for path in (run / "code").iterdir()] == [f"{digest}.json"]


def test_a_resume_may_take_the_code_as_it_is_now_and_says_what_differs() -> None:
    run = search()
    before = objects("code", "toy")["digest"]
    Path("part.py").write_text("BONUS = 5\n")
    Path("more.py").write_text("")
    done = katuna("resume", "toy", "--max-trials", "2", "--code", "new")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "code: 2 files differ from what the run had\n  added    more.py\n  changed  part.py\n"
    assert values() == [0, 5]
    after = objects("code", "toy")["digest"]
    assert after != before
    assert {path.stem for path in (run / "code").iterdir()} == {before, after}
    (edit,) = (event for event in journal_events(run) if event["event"] == "Edited")
    assert (edit["counts"], edit["code"]) == ({"maxTrialCount": 2}, after)
    done = katuna("resume", "toy", "--max-trials", "3", "--code", "new")
    assert (done.returncode, done.stderr) == (0, "code: no file differs; the run goes on with what it had\n")
    assert "code" not in [event for event in journal_events(run) if event["event"] == "Edited"][1]
    assert values() == [0, 5, 5]


def test_many_files_that_differ_are_counted() -> None:
    search()
    for number in range(25):
        Path(f"new{number:02d}.py").write_text("")
    done = katuna("resume", "toy", "--max-trials", "2", "--code", "new")
    assert done.stderr.splitlines()[0] == "code: 25 files differ from what the run had"
    assert done.stderr.splitlines()[-2:] == ["  added    new19.py", "  and 5 more"]


def test_a_search_that_has_ended_takes_no_code() -> None:
    run = search()
    before = (run / "journal.jsonl").read_bytes()
    Path("part.py").write_text("BONUS = 5\n")
    done = katuna("resume", "toy", "--code", "new")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to resume" in done.stdout
    assert (run / "journal.jsonl").read_bytes() == before


def test_code_alone_may_be_new_for_a_search_that_was_interrupted(tmp_path: Path) -> None:
    Path("experiment.yaml").write_text(experiment_yaml(command=COMMAND, **ONE))
    folder, _ = conduct.make_run(conduct.plan(["experiment.yaml"]))
    Path("part.py").write_text("BONUS = 5\n")
    assert katuna("resume", "toy", "--code", "new").returncode == 0
    assert [event["event"] for event in journal_events(folder.path)][:3] == ["Opened", "Edited", "Resumed"]
    assert journal_events(folder.path)[1]["counts"] == {}
    assert values() == [5]
    assert "Edited" not in katuna("show", "toy").stdout


def test_damaged_code_is_refused_with_what_helps() -> None:
    run = search()
    file = next(each for each in objects("code", "toy")["roots"][0]["files"] if each["path"] == "part.py")
    kept = Path("runs/.code") / file["sha256"]
    kept.write_text("BONUS = 6\n")
    journalled = (run / "journal.jsonl").read_bytes()
    for words in (("code", "toy", "part.py"), ("resume", "toy", "--max-trials", "2")):
        assert "katuna resume toy --code new" in is_refused_after(*words)
    assert katuna("resume", "toy", "--max-trials", "2", "--code", "new").returncode == 0
    assert (run / "journal.jsonl").read_bytes().startswith(journalled)
    assert values() == [0, 0]
    digest = objects("code", "toy")["digest"]
    RunDir(run).code(digest).unlink()
    assert code_line().startswith(f"{digest[:12]}  damaged: ")
    assert "--code new" in is_refused_after("resume", "toy", "--max-trials", "3")
    done = katuna("resume", "toy", "--max-trials", "3", "--code", "new")
    assert (done.returncode, done.stderr) == (0, "code: 3 files are kept from now on\n")
    assert code_line().startswith(digest[:12])


def is_refused_after(*words: str) -> str:
    """The message of what is refused of a run that is there."""
    done = katuna(*words)
    assert (done.returncode, done.stdout.count("trial")) == (2, 0), (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_too_much_for_code_is_said_and_the_run_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from katuna.cli import main

    Path("notes").mkdir()
    for number in range(8):
        Path(f"notes/{number}.txt").write_text("x")
    monkeypatch.setattr(collect, "MOST_FILES", 5)
    Path("experiment.yaml").write_text(experiment_yaml(command=COMMAND, **ONE))
    with pytest.raises(SystemExit) as left:
        main(["tune", "experiment.yaml"])
    assert left.value.code == 0
    why = f"{Path.cwd()}: more than 5 text files"
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"the code of this run is not kept, so edits reach trials that start later: {why}")
    assert f"in {Path.cwd()}/notes; name that in a .gitignore" in line
    opened = journal_events(Path("runs/toy"))[0]
    assert "code" not in opened
    assert opened["no_code"].startswith(why)
    assert code_line().startswith(f"not kept: {why}")
    done = katuna("code", "toy")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: toy keeps no code: {why}")
    before = Path("runs/toy/journal.jsonl").read_bytes()
    with pytest.raises(SystemExit) as left:
        main(["resume", "toy", "--max-trials", "2", "--code", "new"])
    assert left.value.code == 2
    assert "more than 5 text files" in capfd.readouterr().err
    assert Path("runs/toy/journal.jsonl").read_bytes() == before
    Path(".gitignore").write_text("notes\n")
    done = katuna("resume", "toy", "--max-trials", "2", "--code", "new")
    assert (done.returncode, done.stderr) == (0, "code: 4 files are kept from now on\n")
    assert "not kept" not in code_line()


def test_a_run_of_an_older_katuna_has_no_line_and_goes_on() -> None:
    run = search()
    opened, *others = (event for event, _ in journal.read(run / "journal.jsonl"))
    assert isinstance(opened, Opened)
    old = Opened(opened.at, opened.experiment, opened.seed, opened.digest, opened.versions, opened.options)
    (run / "journal.jsonl").write_bytes(b"".join(map(journal.encode, [old, *others])))
    shutil.rmtree(run / "code")
    assert code_line() == ""
    assert "made by a katuna that kept none" in katuna("code", "toy").stderr
    Path("part.py").write_text("BONUS = 5\n")
    done = katuna("resume", "toy", "--max-trials", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert values() == [0, 5], "such a run reads what is there"


def test_a_file_without_a_run_a_name_that_is_none_and_options_that_clash() -> None:
    search()
    assert "`katuna code RUN train.py`" in is_refused_after("code", "train.py")
    assert "`katuna code RUN" not in is_refused_after("code", "nothing")
    assert "did you mean train.py?" in is_refused_after("code", "toy", "trian.py")
    assert "`katuna code toy` lists them" in is_refused_after("code", "toy", "../../etc/passwd")
    for words in (("toy", "train.py"), ("toy", "--diff")):
        assert "leave out FILE and --diff" in is_refused_after("code", *words, "-o", "json")


def test_the_last_run_takes_what_was_kept_with_it() -> None:
    search()
    search()
    kept = {path.name for path in Path("runs/.code").iterdir()}
    assert len(kept) == 4
    assert katuna("rm", "toy", "-y").returncode == 0
    assert {path.name for path in Path("runs/.code").iterdir()} == kept
    assert katuna("code", "toy-2", "train.py").stdout == TRAIN
    assert katuna("rm", "toy-2", "-y").returncode == 0
    assert [path.name for path in Path("runs/.code").iterdir()] == ["lock"]


def test_what_was_kept_steers_no_terminal() -> None:
    evil = "x = 1 # \x1b[2J\u202e\r\n"
    Path("evil.py").write_bytes(evil.encode())
    Path("bad\x1b[2J.py").write_text("")
    search()
    assert "\x1b" not in katuna("code").stdout
    assert katuna("code", "toy", "evil.py").stdout.encode() == evil.replace("\r\n", "\n").encode()
    Path("evil.py").write_text("")
    for words in (["toy", "evil.py"], ["toy", "--diff"]):
        ours, theirs = pty.openpty()
        done = subprocess.run([*KATUNA, "code", *words], stdout=theirs, stdin=subprocess.DEVNULL, check=False)
        os.close(theirs)
        shown = os.read(ours, 65536)
        os.close(ours)
        assert done.returncode == 0
        assert b"x = 1 # \\x1b[2J\\u202e\\r\r\n" in shown
        assert b"\x1b" not in shown


def test_a_job_keeps_its_code_and_goes_on_with_it_or_with_todays(tmp_path: Path) -> None:
    program = "import sys, time; sys.path.insert(0, '.'); import part; print('bonus', part.BONUS, flush=True); time.sleep({})"
    write_job(tmp_path, program.format(60))
    process = spawn("train", "job.yaml")
    run = tmp_path / "runs" / "toy"
    await_line(run / "log", "bonus 0")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    digest = journal_events(run)[0]["code"]
    assert code_line() == digest[:12]
    assert katuna("code", "toy", "part.py").stdout == "BONUS = 0\n"
    Path("part.py").write_text("BONUS = 5\n")
    for which, bonus, said in (("kept", 0, ""), ("new", 5, "code: 1 file differs from what the run had\n  changed  part.py\n")):
        process = spawn("resume", "toy", "--code", which)
        await_line(run / "log", f"bonus {bonus}", times=2 - bonus // 5)
        process.send_signal(signal.SIGINT)
        assert said in process.communicate(timeout=30)[1]
    kinds = [event["event"] for event in journal_events(run) if event["event"] in ("Resumed", "Edited")]
    assert kinds == ["Resumed", "Edited", "Resumed"]
    (edited,) = (event for event in journal_events(run) if event["event"] == "Edited")
    assert edited["code"] == objects("code", "toy")["digest"] != digest


def test_no_secret_manifest_is_kept(tmp_path: Path) -> None:
    write_job(tmp_path, "print('x=1')", env={})
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"TOKEN": "very-secret"}}
    Path("keys").mkdir()
    Path("keys/values.txt").write_text(json.dumps(secret))
    Path("more.yaml").write_text("kind: ConfigMap\n---\nkind: Secret\nstringData: {TOKEN: very-secret}\n")
    from katuna.launch.local_options import LocalOptions
    from katuna.runs.plan import RunOptions, plan_job

    planned = plan_job(["job.yaml", "keys/values.txt"], RunOptions(LocalOptions(cwd=str(tmp_path))))
    run, _ = conduct.make_run(planned)
    assert (run.path / "code").is_dir()
    kept = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert not [path for path in kept if b"very-secret" in path.read_bytes()]


def test_a_smoke_test_leaves_nothing_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = tmp_path / "temporary"
    places.mkdir()
    Path("experiment.yaml").write_text(experiment_yaml(command=COMMAND))
    done = katuna("smoke", "experiment.yaml", env={"TMPDIR": str(places)})
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert list(places.rglob("*.json")) == []
    assert not list(places.glob("katuna-smoke-*"))
    assert not Path("runs").exists()
