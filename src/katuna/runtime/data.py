"""Where a trainer's dataset lies: its own --data, else $KATUNA_DATA; a file, or a folder with a manifest."""

from __future__ import annotations

from pathlib import Path


def dataset(given: str, *, files: tuple[str, ...] = ()) -> Path | None:
    """The dataset's file or folder; None where neither flag nor variable names one.

    Raises SystemExit(1) with one message that lists everything missing: the path, or each of `files` in it, or files of its manifest
    that are not there or not as its digests say.
    """
    raise NotImplementedError
