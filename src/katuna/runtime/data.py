"""Where a trainer's dataset lies: its own --data, else $KATUNA_DATA; a file, or a folder with a manifest. And what names its contents."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from torch import Tensor

from katuna.dataset import absolute, faults
from katuna.errors import InputRefused


def dataset(given: str, *, files: tuple[str, ...] = ()) -> Path | None:
    """The dataset's file or folder, absolute; None where neither flag nor variable names one.

    Raises SystemExit(1) with one message that lists everything missing: the path, or each of `files` in it, or files of its manifest
    that are not there or not as its digests say.
    """
    named = given or os.environ.get("KATUNA_DATA", "")
    if not named:
        return None
    place = absolute(named)
    try:
        wrong = faults(place)
    except InputRefused as error:
        raise SystemExit(f"error: {error}") from None
    if files and place.is_file():
        wrong.append(f"it is a file; a folder with {', '.join(files)} is wanted")
    elif place.is_dir():
        wrong += [f"{name} is not in it" for name in files if not (place / name).exists()]
    if wrong:
        source = "--data" if given else "$KATUNA_DATA"
        raise SystemExit(f"error: dataset {place} (of {source}): {'; '.join(wrong)}")
    return place


def digest(*parts: bytes | Tensor) -> str:
    """SHA-256 of what is trained on, by which `Checkpoints` know it again."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else part.cpu().contiguous().numpy().data)
    return found.hexdigest()
