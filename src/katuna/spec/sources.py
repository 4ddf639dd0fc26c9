"""Where manifest text comes from: files, folders of them, standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from katuna.errors import InputRefused
from katuna.spec.yamltext import Source

STDIN = "-"
STDIN_NAME = "<stdin>"
SUFFIXES = (".yaml", ".yml")


def read_source(path: str | os.PathLike[str]) -> Source:
    """The file as text; `-` is standard input. Raises InputRefused for one that cannot be read."""
    name = STDIN_NAME if str(path) == STDIN else str(path)
    try:
        data = sys.stdin.buffer.read() if name == STDIN_NAME else Path(path).read_bytes()
        return Source(name, data.decode())
    except UnicodeDecodeError as error:
        raise InputRefused(f"{name}: not UTF-8 text (byte {error.start}); is it a manifest?") from error
    except (OSError, ValueError) as error:
        raise InputRefused(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def manifests(paths: Sequence[Path]) -> Iterator[Path]:
    """The paths, each once, with a folder's *.yaml and *.yml files in its place, those of its folders too, in order of their names.

    Raises InputRefused for a folder without any.
    """
    seen: set[Path] = set()
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(each for suffix in SUFFIXES for each in path.rglob(f"*{suffix}") if each.is_file())
            if not found:
                raise InputRefused(f"{path}: no {' or '.join(f'*{suffix}' for suffix in SUFFIXES)} file is in this folder")
        for each in found:
            if each not in seen:
                seen.add(each)
                yield each
