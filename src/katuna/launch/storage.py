"""When a trial's machine has failed rather than the trial: the disk, or what processes need; and what the user is told then."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from katuna.errors import StoreFailed, is_shortage

PROBE_BYTES = 8192
FILES_EACH = 4
"""Descriptors of katuna's for a container that runs: its claim, its guard's socket and process, its log."""
FILES_SPARE = 16
"""Those for the run itself, the servers of warm starts, and what a start has open for a moment."""


def room_for(containers: int, leases: int) -> Iterator[tuple[str, str]]:
    """Why so many at a time cannot be followed, for want of descriptors, as (message, hint). The soft limit is raised where it has to
    be and the hard one lets it. How many processes a user may have cannot be told before: those of all his sessions count."""
    open_now = len(os.listdir("/dev/fd"))  # noqa: PTH208
    needed = open_now + FILES_SPARE + leases + FILES_EACH * containers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < needed:
        if resource.RLIM_INFINITY != hard < needed:
            yield (
                f"{containers} container{'' if containers == 1 else 's'} at a time may need {needed} open files, and the limit is {hard}",
                f"`ulimit -n {needed}` raises it where the system lets you; parallelTrialCount, or resume --parallel, says how many trials run",
            )
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextlib.contextmanager
def pausing(run: Path) -> Iterator[None]:
    """Raises StoreFailed for a shortage that is met anywhere in here; `run` is the run's folder."""
    try:
        yield
    except OSError as error:
        if is_shortage(error):
            raise store_failed(run, error) from error
        raise


def store_failed(folder: Path, error: OSError, because: str = "") -> StoreFailed:
    """What to raise for a shortage in a job's folder: a trial's, which lies in RUN/trials, or the run's own, which has the
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
        if is_shortage(error):
            return OSError(error.errno, error.strerror, str(folder))
    return None


def blame(folder: Path, who: str, end: str) -> None:
    """Raises StoreFailed for who failed, or left no result, in a folder where nothing can be written any more."""
    error = full(folder)
    if error is not None:
        raise store_failed(folder, error, f"{who} has most likely failed of it: {end or 'it left no result'}")
