"""When a trial's disk has failed rather than the trial: which errors say so, and what the user is told then."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from katuna.errors import StoreFailed

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.ESTALE)
"""No trial is to blame for these: once there is room, the same trial may well run."""
PROBE_BYTES = 8192


def is_of_the_disk(error: OSError) -> bool:
    return error.errno in OF_THE_DISK


def store_failed(folder: Path, error: OSError, because: str = "") -> StoreFailed:
    """What to raise for an error of the disk in a job's folder: a trial's, which lies in RUN/trials, or the run's own, which has the
    journal. `because` tells how it was noticed."""
    is_trial = folder.parent.name == "trials" and not (folder / "journal.jsonl").exists()
    run = folder.parent.parent if is_trial else folder
    return StoreFailed.of(error.filename or folder, error, run.name, because)


def full(folder: Path) -> OSError | None:
    """The disk's error when the folder cannot take a small file now. The file has no name, or loses it at once."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            # Random, for a file system that makes nothing of zeros.
            probe.write(os.urandom(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        if is_of_the_disk(error):
            return OSError(error.errno, error.strerror, str(folder))
    return None


def blame(folder: Path, who: str, end: str) -> None:
    """Raises StoreFailed for who failed, or left no result, in a folder where nothing can be written any more."""
    error = full(folder)
    if error is not None:
        raise store_failed(folder, error, f"{who} has most likely failed of it: {end or 'it left no result'}")
