"""Where a trainer finds its dataset, and what it says when it does not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from katuna.runtime.data import dataset, digest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("KATUNA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text(f"x,y\n1,{name}\n")
    return tmp_path


def refusal(given: str, *files: str) -> str:
    with pytest.raises(SystemExit) as left:
        dataset(given, files=files)
    said = str(left.value.code)
    assert said.startswith("error: dataset ")
    assert "\n" not in said
    return said


def test_the_flag_then_the_variable_then_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dataset("") is None
    monkeypatch.setenv("KATUNA_DATA", str(folder))
    assert dataset("", files=("train.csv",)) == folder
    assert dataset("train.csv") == folder / "train.csv"


def test_everything_that_is_missing_is_said_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"{folder}/nowhere (of --data): there is no such file or folder" in refusal("nowhere")
    monkeypatch.setenv("KATUNA_DATA", str(folder))
    assert "(of $KATUNA_DATA): a.csv is not in it; b.csv is not in it" in refusal("", "a.csv", "train.csv", "b.csv")
    assert "it is a file; a folder with a.csv, b.csv is wanted" in refusal("train.csv", "a.csv", "b.csv")


def test_files_are_as_the_manifest_says(folder: Path) -> None:
    names = ("train.csv", "test.csv", "gone.csv")
    facts = {
        name: {"bytes": 6 + len(name) + 1, "sha256": hashlib.sha256(f"x,y\n1,{name}\n".encode()).hexdigest()} for name in names
    }
    (folder / "dataset.json").write_text(json.dumps({"name": "toy", "files": facts}))
    (folder / "test.csv").write_text("x,y\n2,test.csv\n")
    said = refusal(str(folder), "other.csv")
    for wrong in ("test.csv has another digest", "gone.csv is missing", "other.csv is not in it"):
        assert wrong in said
    assert "train.csv" not in said
    (folder / "dataset.json").write_text("{")
    assert "dataset.json cannot be read" in refusal(str(folder))


def test_a_digest_is_of_values_however_they_lie_in_memory() -> None:
    rows = torch.arange(6.0).reshape(2, 3)
    assert digest(b"x", rows) == digest(b"x", rows.t().contiguous().t())
    assert len({digest(b"x", rows), digest(b"y", rows), digest(b"x", rows + 1), digest(b"x", rows[:, :0]), digest(rows)}) == 5
