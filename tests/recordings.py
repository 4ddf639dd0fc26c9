"""The recordings of the real Katib and Training Operator, unpacked from tests/truth (its README says what they hold)."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from pathlib import Path

TRUTH = Path(__file__).parent / "truth"
UNPACKED = Path(__file__).parents[1] / ".pytest_cache" / "truth"


def unpacked(name: str) -> Path:
    """The folder of an archive's files, unpacked once for each content; workers of one test run may all ask at the same time."""
    archive = TRUTH / f"{name}.tar.xz"
    place = UNPACKED / hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    if not place.is_dir():
        UNPACKED.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=UNPACKED))
        with tarfile.open(archive) as file:
            file.extractall(fresh, filter="data")
        try:
            fresh.rename(place)
        except OSError:
            if not place.is_dir():
                raise
            shutil.rmtree(fresh)
    return place / name


KATIB_TRUTH = unpacked("katib-truth")
KATIB_RECORDED = unpacked("katib-recorded")
OPERATOR_TRUTH = unpacked("operator-truth")
