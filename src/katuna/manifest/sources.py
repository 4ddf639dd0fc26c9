"""Sources of manifest text: files, folders of files, standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from katuna.errors import Finding, InputRefused
from katuna.manifest.yamltext import Source

STDIN = "-"
STDIN_NAME = "<stdin>"
SUFFIXES = (".yaml", ".yml")


def read_source(path: str | os.PathLike[str]) -> Source:
    """The file as text; `-` is standard input. Raises InputRefused for one that cannot be read."""
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        raise InputRefused(f"{_shown_name(path)}: {_reason(error)}") from error


def read_manifests(paths: Sequence[Path]) -> tuple[list[Source], list[Finding]]:
    """The files, each once even where two paths lead to it, and a finding for each path that cannot be read. A folder stands for all
    *.yaml and *.yml files below it, in order of their names."""
    sources: list[Source] = []
    unread: list[Finding] = []
    seen: set[str] = set()
    for path in paths:
        try:
            found = _files(path)
        except OSError as error:
            found = []
            unread.append(_not_readable(path, _reason(error)))
        for each in found:
            real = STDIN if str(each) == STDIN else os.path.realpath(each)
            if real in seen:
                continue
            seen.add(real)
            try:
                sources.append(_read(each))
            except (OSError, ValueError) as error:
                unread.append(_not_readable(each, _reason(error)))
    return sources, unread


def _files(path: Path) -> list[Path]:
    """Raises FileNotFoundError for a folder without manifests."""
    if not path.is_dir():
        return [path]
    found = sorted(each for suffix in SUFFIXES for each in path.rglob(f"*{suffix}") if each.is_file())
    if not found:
        wanted = " or ".join(f"*{suffix}" for suffix in SUFFIXES)
        raise FileNotFoundError(f"no {wanted} file is in this folder")
    return found


def _read(path: str | os.PathLike[str]) -> Source:
    data = sys.stdin.buffer.read() if str(path) == STDIN else Path(path).read_bytes()
    return Source(_shown_name(path), data.decode())


def _shown_name(path: str | os.PathLike[str]) -> str:
    return STDIN_NAME if str(path) == STDIN else str(path)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text (byte {error.start}); is it a manifest?"
    return getattr(error, "strerror", None) or str(error)


def _not_readable(path: Path, reason: str) -> Finding:
    return Finding(_shown_name(path), 0, 0, "", reason, hint="the other files are checked", code="not-readable")
