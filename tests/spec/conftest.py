"""Recordings of the real Katib and the real Training Operator."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recordings import KATIB_TRUTH, OPERATOR_TRUTH


@pytest.fixture(scope="session")
def katib_truth() -> list[dict[str, Any]]:
    """Entries of verdicts.json, each with the file's `text`."""
    folder = KATIB_TRUTH
    entries: list[dict[str, Any]] = json.loads((folder / "verdicts.json").read_text())
    return [entry | {"text": (folder / entry["file"]).read_text()} for entry in entries]


@pytest.fixture(scope="session")
def operator_truth() -> list[dict[str, Any]]:
    """Entries of the Training Operator's truth.json, each with the file's `text`."""
    folder = OPERATOR_TRUTH
    entries: list[dict[str, Any]] = json.loads((folder / "truth.json").read_text())
    return [entry | {"text": (folder / entry["file"]).read_text()} for entry in entries]
