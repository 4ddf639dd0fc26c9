"""`resume` with another budget, as an edit of the Experiment is on a cluster; and resumes of what other versions have written."""

from __future__ import annotations

import contextlib
import os
import signal
import zlib
from pathlib import Path

import pytest

import katuna
from katuna.cli import main
from katuna.errors import InputRefused
from katuna.metric_line import Report
from katuna.runs import conduct, journal
from katuna.search.trials import Asked, Exited, Reported, Started
from searches import await_line, journal_events, objects, spawn, write_experiment
from searches import katuna as command


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


JOURNAL = Path("runs/toy/journal.jsonl")


def conditions() -> list[tuple[str, str, str]]:
    return [(each["type"], each["status"], each["reason"]) for each in objects("show", "toy")["status"]["conditions"]]


@pytest.mark.parametrize("policy", ["LongRunning", "FromVolume"])
def test_a_search_that_has_ended_goes_on_with_more_trials(tmp_path: Path, policy: str) -> None:
    katuna.tune(write_experiment(tmp_path, resumePolicy=policy))
    done = command("resume", "toy", "--max-trials", "7", "--parallel", "1", "--max-failed", "3")
    assert done.returncode == 0, done.stderr
    assert "7 trials, 1 at a time" in done.stdout
    assert "resumed: 4 trials done before" in done.stdout
    assert "(7 succeeded)" in done.stdout
    edits = [event["counts"] for event in journal_events(Path("runs/toy")) if event["event"] == "Edited"]
    assert edits == [{"maxTrialCount": 7, "parallelTrialCount": 1, "maxFailedTrialCount": 3}]
    shown = objects("show", "toy")
    assert {name: shown["spec"][name] for name in edits[0]} == edits[0]
    assert ("Restarting", "True", "ExperimentRestarting") in conditions()
    assert conditions()[-1][::2] == ("Succeeded", "ExperimentMaxTrialsReached")
    assert "7/7" in command("ls").stdout
    assert "Edited     maxTrialCount 7" in command("show", "toy").stdout


REFUSED = {
    "never": ("Never", {"maxTrialCount": 9}, "resumePolicy"),
    "not more": ("LongRunning", {"maxTrialCount": 3}, "not more than the 4 trials"),
    "nothing": ("LongRunning", {"maxTrialCount": 0}, "maxTrialCount"),
    "more at a time than trials": ("LongRunning", {"maxTrialCount": 5, "parallelTrialCount": 6}, "parallelTrialCount"),
    "negative": ("FromVolume", {"maxTrialCount": 5, "maxFailedTrialCount": -1}, "maxFailedTrialCount"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_budget_that_katib_would_refuse_changes_nothing(tmp_path: Path, case: str) -> None:
    policy, counts, expected = REFUSED[case]
    katuna.tune(write_experiment(tmp_path, resumePolicy=policy))
    before = JOURNAL.read_bytes()
    with pytest.raises(InputRefused, match=expected):
        conduct.resume("toy", counts=counts)
    assert JOURNAL.read_bytes() == before


def test_the_same_budget_again_is_no_edit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    katuna.tune(write_experiment(tmp_path))
    before = JOURNAL.read_bytes()
    with pytest.raises(SystemExit) as left:
        main(["resume", "toy", "--max-trials", "4"])
    assert left.value.code == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert JOURNAL.read_bytes() == before


def test_an_interrupted_search_takes_a_new_budget_under_any_policy(tmp_path: Path) -> None:
    slow = "import time\nprint('accuracy=0.5', flush=True)\ntime.sleep(60)"
    path = write_experiment(tmp_path, slow)
    process = spawn("tune", "experiment.yaml")
    await_line(JOURNAL, '"Started"', times=2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    (tmp_path / "runs/toy/experiment.yaml").write_text(path.read_text().replace("sleep(60)", "sleep(0)"))
    before = JOURNAL.read_bytes()
    with pytest.raises(InputRefused, match="not more than the 2 trials"):
        conduct.resume("toy", counts={"maxTrialCount": 2, "parallelTrialCount": 1})
    assert JOURNAL.read_bytes() == before
    run = conduct.resume("toy", counts={"maxTrialCount": 3, "parallelTrialCount": 1})
    assert (run.search.finished, run.experiment.max_trials) == (3, 3)
    assert run.search.ended is not None


def test_a_new_budget_is_not_taken_when_the_trials_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('accuracy=0.5')")
    katuna.tune(write_experiment(tmp_path, command=["python", "train.py", "${trialParameters.lr}"], resumePolicy="LongRunning"))
    (tmp_path / "train.py").unlink()
    before = JOURNAL.read_bytes()
    with pytest.raises(InputRefused, match=r"train\.py"):
        conduct.resume("toy", counts={"maxTrialCount": 9}, code="new")
    assert JOURNAL.read_bytes() == before


def test_a_journal_from_before_the_options_of_a_search_goes_on(tmp_path: Path) -> None:
    katuna.tune(write_experiment(tmp_path, resumePolicy="LongRunning"))
    first = JOURNAL.read_bytes().splitlines(keepends=True)[0]
    rest = [event for event, _ in journal.read(JOURNAL)][1:]
    body = first.split(b', "crc"')[0]
    old = body[: body.index(b', "algorithm": null')] + b"}"
    assert old.count(b"{") == old.count(b"}") + 1, "the options end with keep, the event is open"
    JOURNAL.write_bytes(b'%s, "crc": "%08x"}\n' % (old, zlib.crc32(old)) + b"".join(map(journal.encode, rest)))
    assert conduct.resume("toy", counts={"maxTrialCount": 5}).search.finished == 5


def test_a_long_journal_is_read_once_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = conduct.plan([write_experiment(tmp_path, maxTrialCount=402, parallelTrialCount=1)])
    folder, _ = conduct.make_run(planned)
    with contextlib.closing(journal.Journal(folder.journal)) as store:
        for number, (name, point, _) in enumerate(conduct.first_trials(planned, 400)):
            report = Reported(1.0, number, (Report("accuracy", "0.5"),))
            for event in (
                Asked(1.0, number, name, point),
                Started(1.0, number, 1, {}),
                report,
                Exited(1.0, number, 0, "Completed"),
            ):
                store.append(event)
    decoded = 0
    decode = journal.decode

    def counting(line: bytes, before: int) -> object:
        nonlocal decoded
        decoded += 1
        return decode(line, before)

    monkeypatch.setattr(journal, "decode", counting)
    conduct.resume("toy")
    assert 1601 <= decoded < 1.1 * 1601
