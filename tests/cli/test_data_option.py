"""`--data`: trials find the dataset, the journal knows which it was, and a resume wants the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from katuna.dataset import describe
from searches import journal_events, katuna, write_experiment

READS = "import os; print('accuracy=' + open(os.environ['KATUNA_DATA'] + '/values.txt').read())"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toys").mkdir()
    (tmp_path / "toys" / "values.txt").write_text("0.25")


def search(**changes: object) -> None:
    write_experiment(Path(), READS, maxTrialCount=1, parallelTrialCount=1, **changes)


def test_trials_find_the_dataset_and_the_journal_says_which_it_was(tmp_path: Path) -> None:
    search()
    done = katuna("tune", "experiment.yaml", "--data", "toys")
    assert done.returncode == 0, done.stderr
    events = journal_events(tmp_path / "runs" / "toy")
    reports = [report[:2] for event in events if event["event"] == "Reported" for report in event["reports"]]
    assert reports == [["accuracy", "0.25"]]
    local = events[0]["options"]["local"]
    assert (local["data"], local["dataDigest"]) == (str(tmp_path / "toys"), describe("toys").digest)
    line = katuna("best", "toy", "-o", "command").stdout
    assert f"KATUNA_DATA={tmp_path}/toys" in line


def test_a_dataset_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    search()
    done = katuna("tune", "experiment.yaml", "--data", "nowhere")
    assert done.returncode == 2
    assert f"{tmp_path}/nowhere: there is no such file or folder" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_resume_wants_the_same_dataset(tmp_path: Path) -> None:
    search(resumePolicy="LongRunning")
    assert katuna("tune", "experiment.yaml", "--data", "toys").returncode == 0
    before = describe("toys").digest
    (tmp_path / "toys" / "values.txt").write_text("0.75")
    journal = (tmp_path / "runs" / "toy" / "journal.jsonl").read_bytes()
    done = katuna("resume", "toy", "--max-trials", "2")
    assert done.returncode == 2
    assert before in done.stderr
    assert describe("toys").digest in done.stderr
    assert (tmp_path / "runs" / "toy" / "journal.jsonl").read_bytes() == journal
    (tmp_path / "toys" / "values.txt").write_text("0.25")
    assert katuna("resume", "toy", "--max-trials", "2").returncode == 0
