"""What all tests share: the tests folder on the path, and a home of their own for runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATUNA_HOME", str(tmp_path / "runs"))


@pytest.fixture(scope="session")
def katib_truth() -> list[dict[str, Any]]:
    """Entries of verdicts.json, each with the file's `text`."""
    from recordings import KATIB_TRUTH

    folder = KATIB_TRUTH
    entries: list[dict[str, Any]] = json.loads((folder / "verdicts.json").read_text())
    return [entry | {"text": (folder / entry["file"]).read_text()} for entry in entries]


@pytest.fixture(scope="session")
def operator_truth() -> list[dict[str, Any]]:
    """Entries of the Training Operator's truth.json, each with the file's `text`."""
    from recordings import OPERATOR_TRUTH

    folder = OPERATOR_TRUTH
    entries: list[dict[str, Any]] = json.loads((folder / "truth.json").read_text())
    return [entry | {"text": (folder / entry["file"]).read_text()} for entry in entries]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that take minutes begin first, so that no worker is left with one when the others are done."""
    items.sort(key=lambda item: "test_crash.py" not in item.nodeid)
