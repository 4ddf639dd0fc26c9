"""A folder that is complete or absent: it is written under another name, digested, fsynced and renamed last. A reader can check
that it is unchanged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


@contextmanager
def writing(folder: Path, kind: str) -> Iterator[Path]:
    """An empty folder beside `folder` to write files into; left without an error, it takes the place of `folder` with a manifest
    of all digests, and else nothing of it stays. `kind` names the format, e.g. `katuna-checkpoint/1`. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = folder.with_name(f".{folder.name}.new-{secrets.token_hex(4)}")
    try:
        making.mkdir()
        yield making
        for path in making.iterdir():  # some libraries write for the owner alone
            path.chmod(making.stat().st_mode & 0o666)
        files = {path.name: _fact(path) for path in sorted(making.iterdir())}
        (making / MANIFEST).write_text(_sealed({"format": kind, "files": files}))
        _sync(making / MANIFEST)
        _sync(making)
        _put(making, folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def problems(folder: Path, kind: str, needed: Sequence[str] = ()) -> list[str]:
    """What is wrong with a sealed folder, each in a few words; empty when every byte of every file is as it was written, the `needed`
    ones among them."""
    try:
        text = (folder / MANIFEST).read_bytes().decode("ascii")
        manifest = json.loads(text)
        whole = isinstance(manifest, dict) and manifest.pop("digest", None) is not None and _sealed(manifest) == text
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except OSError as error:
        return [f"{MANIFEST} cannot be read ({error.strerror})"]
    except ValueError:
        whole = False
    if not whole:
        return [f"{MANIFEST} is damaged"]
    form, files = manifest.get("format"), manifest.get("files")
    if form != kind:
        return [f"{MANIFEST} says {form}, which is not {kind}"]
    if not isinstance(files, dict) or not all(
        isinstance(fact, dict) and {*fact} == {"bytes", "sha256"} for fact in files.values()
    ):
        return [f"{MANIFEST} is not as katuna writes one"]
    found = [f"{MANIFEST} does not name {name}" for name in needed if name not in files]
    return found + [wrong for name, fact in files.items() if (wrong := _difference(folder / name, fact))]


def remove(folder: Path) -> None:
    """Removes a sealed folder; at once for whoever looks, then from the disk. What cannot be removed stays."""
    gone = folder.with_name(f".{folder.name}.gone")
    with contextlib.suppress(OSError):
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def clean(parent: Path, names: str) -> None:
    """Takes away what a killed process left half-written of folders whose names match `names`, a regular expression.

    A folder that was on its way out, but whose successor never arrived, comes back.
    """
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(parent.iterdir()):
            match = re.fullmatch(rf"\.({names})\.(new-[0-9a-f]{{8}}|old|gone)", entry.name)
            if match is None:
                continue
            target = parent / match[1]
            if entry.name.endswith(".old") and not target.exists():
                entry.rename(target)
            else:
                shutil.rmtree(entry, ignore_errors=True)


def _put(making: Path, folder: Path) -> None:
    """Renames `making` to `folder`. An older folder of that name is moved aside first, so one of the two is always there."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    making.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _fact(path: Path) -> dict[str, Any]:
    """Size and digest of a file that is on the disk by then."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _difference(path: Path, fact: dict[str, Any]) -> str:
    try:
        size = path.stat().st_size
        if size != fact["bytes"]:
            return f"{path.name} has {size} bytes, not {fact['bytes']}"
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == fact["sha256"]
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return "" if same else f"{path.name} is not what its digest says"


def _sealed(manifest: dict[str, Any]) -> str:
    """The one text that a manifest may have: with a digest of itself in it, so that no byte can be another."""
    digest = hashlib.sha256(_canonical(manifest).encode()).hexdigest()
    return _canonical({**manifest, "digest": digest})


def _canonical(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
