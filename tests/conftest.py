"""What all tests share: the tests folder on the path, and a home of their own for runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATUNA_HOME", str(tmp_path / "runs"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that take minutes begin first, so that no worker is left with one when the others are done."""
    items.sort(key=lambda item: "test_crash.py" not in item.nodeid)
