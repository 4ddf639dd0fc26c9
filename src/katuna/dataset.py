"""What a dataset is: a file, or a folder with or without a manifest of its files; and the digest that names its contents."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from katuna.errors import InputRefused

MANIFEST = "dataset.json"
"""`{"name": "digits", "files": {"train.csv": {"sha256": "...", "bytes": 1234}}}`: a path below the folder to what it holds."""


@dataclass(frozen=True)
class Fact:
    """Size and SHA-256 (hexadecimal) of a file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """`path` is absolute. `files` are what lies there, by name below the folder (or the one file's own), sorted; `digest` is of
    their names, sizes and contents: the same files are the same dataset, wherever they lie and whether a manifest is beside or not."""

    path: Path
    digest: str
    files: Mapping[str, Fact]
    name: str = ""


def describe(path: str | os.PathLike[str]) -> Dataset:
    """Reads the dataset, all of its bytes. Hidden files of a folder without a manifest are none of it; where there is a manifest, the
    files it names are the dataset, each as it says. Raises InputRefused with everything that is wrong: nothing there, files
    missing or altered, a manifest that cannot be read, a folder that is empty."""
    place = absolute(path)
    wrong = faults(place)
    if wrong:
        raise InputRefused(f"dataset {place}: {'; '.join(wrong)}")
    if place.is_file():
        return _of(place, {place.name: _fact(place)}, place.name)
    if (place / MANIFEST).exists():
        name, files = _read_manifest(place)
        return _of(place, files, name)
    files = {name: _fact(place / name) for name in _names_in(place)}
    if not files:
        raise InputRefused(f"dataset {place}: the folder has no files")
    return _of(place, files, place.name)


def faults(place: Path) -> list[str]:
    """The differences between a dataset and its own manifest: missing and changed files. Raises InputRefused for a manifest that cannot be understood."""
    if not place.is_dir():
        return (
            []
            if place.is_file()
            else [f"there is no such file or folder; name a file, or a folder ({MANIFEST} in it is optional)"]
        )
    if not (place / MANIFEST).exists():
        return []
    _, expected = _read_manifest(place)
    wrong = [text for name, fact in expected.items() if (text := _difference(place, name, fact))]
    return [f"not as its {MANIFEST} says", *wrong, "fetch these files again, or write the manifest anew"] if wrong else []


def absolute(path: str | os.PathLike[str]) -> Path:
    """Links stay: they are the user's names."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  # resolve() would follow links


def check_same(path: str | os.PathLike[str], digest: str) -> None:
    """Raises InputRefused when the dataset is another than it was, naming both digests. Without a `digest` there was none."""
    if not digest:
        return
    now = describe(path).digest
    if now != digest:
        raise InputRefused(
            f"dataset {path}: its contents have changed since the run was started: the digest was {digest} and is {now}; "
            "put the old files back, or start a new run"
        )


def _of(place: Path, files: Mapping[str, Fact], name: str) -> Dataset:
    """The one file of a dataset that is a file goes without its name: a copy under another is the same dataset."""
    listed = [["" if place.is_file() else each, fact.size_bytes, fact.sha256] for each, fact in sorted(files.items())]
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return Dataset(place, digest, dict(sorted(files.items())), name)


def _names_in(folder: Path) -> Iterator[str]:
    """Also behind links to folders, each folder once."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(
            each for each in folders if not each.startswith(".") and os.path.realpath(Path(parent, each)) not in seen
        )
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file():
                yield path.relative_to(folder).as_posix()


def _read_manifest(folder: Path) -> tuple[str, dict[str, Fact]]:
    """The dataset's name and its files. Raises InputRefused with everything that is wrong with the text."""
    try:
        text: Any = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise InputRefused(f"dataset {folder}: its {MANIFEST} cannot be read: {error}") from error
    files = text.get("files") if isinstance(text, dict) else None
    if not isinstance(files, dict) or not files:
        raise InputRefused(
            f"dataset {folder}: its {MANIFEST} has no `files`: an object of file names, each with sha256 and bytes"
        )
    wrong = [problem for name, fact in files.items() if (problem := _malformed(name, fact))]
    if wrong:
        raise InputRefused(f"dataset {folder}: its {MANIFEST} is not well formed: {'; '.join(wrong)}")
    return str(text.get("name", folder.name)), {name: Fact(fact["bytes"], fact["sha256"]) for name, fact in files.items()}


def _malformed(name: str, fact: Any) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return f"{name} lies outside of the folder"
    if (
        not isinstance(fact, dict)
        or not re.fullmatch("[0-9a-f]{64}", str(fact.get("sha256")))
        or type(fact.get("bytes")) is not int
    ):
        return f"{name} needs sha256 (64 hexadecimal digits) and bytes (a number)"
    return ""


def _difference(folder: Path, name: str, expected: Fact) -> str:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != expected.size_bytes:
        return f"{name} has {size} bytes and not {expected.size_bytes}"
    return "" if _fact(path) == expected else f"{name} has another digest"


def _fact(path: Path) -> Fact:
    """Raises InputRefused for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return Fact(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise InputRefused(f"dataset: {path} cannot be read: {error.strerror}") from error
