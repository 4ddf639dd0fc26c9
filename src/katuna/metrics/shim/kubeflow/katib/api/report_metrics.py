"""The Katib SDK's `report_metrics`, for a trial that katuna runs: a line in a file of the trial's takes the database's place."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import Any


def report_metrics(metrics: dict[str, Any], db_manager_address: str = "", timeout: int = 0) -> None:  # noqa: ARG001
    """Reports values of this trial, now. May be called from any process and thread of it; the last two arguments are not needed.

    Raises ValueError where the SDK does (a value that `float` does not take, no KATIB_TRIAL_NAME), RuntimeError when nothing can
    be written.
    """
    if os.environ.get("KATIB_TRIAL_NAME") is None:
        raise ValueError("KATIB_TRIAL_NAME is not set: this process does not know which trial it belongs to")
    texts = {str(name): _text(name, value) for name, value in metrics.items()}
    line = json.dumps({"metrics": texts, "time_us": time.time_ns() // 1000}) + "\n"
    try:
        _append(os.environ["KATUNA_PUSH_FILE"], line.encode())
    except (KeyError, OSError) as error:
        raise RuntimeError(f"the metrics cannot be reported: {error!r}") from error


def _text(name: object, value: Any) -> str:
    """The value's own text where that is a number's, else what `float` makes of it (a tensor, a flag)."""
    try:
        number = float(value)
    except Exception:  # noqa: BLE001  whatever the value's own class raises
        raise ValueError(f"the value {value!r} of metric {name!r} is not a number, and `float` cannot make one of it") from None
    text = str(value)
    try:
        float(text)
    except ValueError:
        return repr(number)
    return text


def _append(path: str, line: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        while line:
            line = line[os.write(file, line) :]
    finally:
        os.close(file)
