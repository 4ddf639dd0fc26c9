"""The run folder: every path in it, its name, and the lock that keeps it to one writer.

runs/digits-tpe/
  experiment.yaml   as given            defaulted.yaml   as run       journal.jsonl   the truth
  lock              one writer          report.html      when asked
  code/             lists of the files that its trials read, by digest; what they held lies in runs/.code
  trials/digits-tpe-7q2mxk4d/
    job.yaml        as rendered         log              stdout and stderr
    events/         TensorBoard         ...              what the trial leaves (KATUNA_TRIAL_DIR)

runs/digits/        of a job that runs without a search
  job.yaml          as given            as-run.yaml      with --nproc and --set
  journal.jsonl     the truth           beside/          other files given, but no Secret
  log               rank 0's output     logs/            the other containers', by pod
  checkpoints/  export/  events/        what the trainer leaves (KATUNA_TRIAL_DIR)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from katuna.errors import InputRefused, RunLocked, RunNotFound, StoreFailed
from katuna.runs.holder import LARGEST, Holder
from katuna.runs.journal import sync_folder
from katuna.trees import folders, open_plain, remove

CONTENTS = ".code"
"""Beside the runs: what the files of their code held."""
HALF = re.compile(r"\..+-[0-9a-f]{8}\.(new|removed)", re.DOTALL)
"""Beside the runs: one that is being made or removed."""
ABANDONED_S = 3600.0
JUST_MADE_S = 0.1
"""How long whoever makes a folder may take to lock it."""
KEPT_FILES = ("job.yaml", "log", "events", "metrics")
"""What `--keep best:N` leaves of a trial that is not among the best: enough to explain it."""


def runs_home() -> Path:
    """`KATUNA_HOME`, or `runs` below the working folder."""
    home = os.environ.get("KATUNA_HOME")
    return Path(home).expanduser().absolute() if home else Path.cwd() / "runs"


@dataclass(frozen=True)
class RunDir:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def handle(self) -> str:
        """The word that names this run on a command line: its name, or its path (quoted for a shell) where it lies outside of
        the home of runs."""
        return self.name if self.path.parent == runs_home() else shlex.quote(str(self.path))

    @property
    def experiment(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def job(self) -> Path:
        return self.path / "job.yaml"

    @property
    def as_run(self) -> Path:
        return self.path / "as-run.yaml"

    @property
    def is_training(self) -> bool:
        """Whether this is the run of a job without a search."""
        return self.job.is_file() or self.as_run.is_file()

    @property
    def sources(self) -> list[Path]:
        """The files that the run was started from, byte for byte: the Experiment's or job's, then those given beside it, in their order."""
        beside = self.path / "beside"
        return [self.job if self.is_training else self.experiment, *(sorted(beside.iterdir()) if beside.is_dir() else [])]

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def code(self, digest: str) -> Path:
        return self.path / "code" / f"{digest}.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    def trial(self, name: str) -> Path:
        """Of a training the run folder itself."""
        return self.path if self.is_training else self.path / "trials" / name

    def log(self, name: str) -> Path:
        return self.trial(name) / "log"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for one writer; the kernel lets go when the process dies.

        Raises RunLocked with the holder's pid, InputRefused for a folder that may not be written or whose lock is a link, StoreFailed for a
        disk that is full or broken.
        """
        try:
            fd = open_plain(self.lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EINVAL):
                raise InputRefused(f"{self.lock}: {error.strerror}; remove it, then try again") from None
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise StoreFailed.of(self.lock, error, self.name) from error
            raise InputRefused(f"{self.path} cannot be written: {error.strerror}; copy the run to where you may write") from error
        try:
            if not _take(fd):
                holder = Holder.of(os.pread(fd, LARGEST, 0))
                raise RunLocked(
                    f"run {self.name} is at work in another katuna process (pid {holder.pid or 'unknown'}); "
                    f"watch it with `katuna logs -f {self.handle}`, end it with `katuna stop {self.handle}`"
                )
            self._sign(fd)
            yield
        finally:
            os.close(fd)

    def _sign(self, lock: int) -> None:
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, Holder.me().text, 0)
        except OSError as error:
            raise StoreFailed.of(self.lock, error, self.name) from error

    def holder(self) -> int | None:
        """The pid of the katuna process that works on this run now, 0 where its lock does not say it, or None."""
        held = self.held()
        return None if held is None else held.pid

    def held(self) -> Holder | None:
        """What the lock says of the process that works on this run now, or None."""
        try:
            fd = open_plain(self.lock, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Holder.of(os.pread(fd, LARGEST, 0))
        finally:
            os.close(fd)
        return None

    def trim(self, name: str) -> None:
        """Removes the artefacts of a trial; its log, rendered job and TensorBoard events stay, and what cannot be removed.

        Of a trial's folder that has become a link, nothing."""
        if self.trial(name).is_symlink() or self.trial(name).parent.is_symlink():
            return
        with contextlib.suppress(OSError):
            for entry in self.trial(name).iterdir():
                if entry.name in KEPT_FILES or entry.name.startswith("."):
                    continue
                with contextlib.suppress(OSError):
                    remove(entry)

    def remove(self) -> None:
        """Removes the run; at once for whoever looks, then from the disk. Raises OSError, as for a link to a run."""
        gone = self.path.with_name(f".{self.name}-{secrets.token_hex(4)}.removed")
        with _at_work_in(self.path):
            self.path.rename(gone)
            remove(gone)


def _take(fd: int) -> bool:
    """An exclusive lock, or False. Tried for a moment: `holder` of another process may be looking, which takes microseconds."""
    for _ in range(10):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


@contextmanager
def _at_work_in(folder: Path) -> Iterator[bool]:
    """Keeps `clear_up` away from a folder that is being made or removed. False: another is at work in it. Raises OSError, as for a link."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        alone = True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:
            # A file system without such locks: then age has to tell.
            alone = os.fstat(fd).st_mtime < time.time() - ABANDONED_S
        yield alone
    finally:
        os.close(fd)


def clear_up(home: Path | None = None) -> None:
    """Removes what processes that died while they made or removed runs have left in the folder."""
    for entry in folders(home or runs_home()):
        if HALF.fullmatch(entry.name):
            with contextlib.suppress(OSError), _at_work_in(entry) as alone:
                if alone and entry.stat().st_mtime < time.time() - JUST_MADE_S:
                    remove(entry)


def create(name: str, files: Mapping[str, bytes], home: Path | None = None) -> RunDir:
    """A new run folder with `files` (name to content) on disk in it: `name`, or `name-2`, `name-3`, ... where that is taken.

    It appears under its name with everything in it or not at all. Raises InputRefused when it cannot be made.
    """
    home = home or runs_home()
    made = making = home / f".{name}-{secrets.token_hex(4)}.new"
    try:
        home.mkdir(parents=True, exist_ok=True)
        clear_up(home)
        making.mkdir()
        with _at_work_in(making):
            _fill(making, files)
            made = _take_name(making, home, name)
        sync_folder(home)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise InputRefused(
            f"no run folder can be made in {home}: {error.strerror}; make room, or set KATUNA_HOME to a folder that you may write to"
        ) from error
    return RunDir(made)


def _fill(making: Path, files: Mapping[str, bytes]) -> None:
    (making / ("logs" if "job.yaml" in files else "trials")).mkdir()
    for file_name, content in files.items():
        target = making / file_name
        target.parent.mkdir(exist_ok=True)
        with target.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(making)


def _take_name(making: Path, home: Path, name: str) -> Path:
    """Renames to the first free name; the kernel sees to it that no two processes get the same."""
    number = 1
    while True:
        path = home / (name if number == 1 else f"{name}-{number}")
        try:
            making.rename(path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            number += 1
        else:
            return path


def find(run: str | None, home: Path | None = None) -> RunDir:
    """The run of a name, a unique prefix or a path; without one, the run that was last written to. Raises RunNotFound."""
    home = home or runs_home()
    if run == "":
        raise RunNotFound("the name of a run is empty; `katuna ls` lists the runs")
    if run is None:
        known = all_runs(home)
        if not known:
            raise RunNotFound(f"no run in {home} yet; start one with `katuna tune FILE` or `katuna train FILE`")
        return known[-1]
    if "/" in run or Path(run).is_absolute():
        return _at_path(Path(run))
    exact = home / run
    if (exact / "journal.jsonl").is_file():
        return RunDir(exact)
    matches = [found for found in all_runs(home) if found.name.startswith(run)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RunNotFound(f"{run!r} could be any of: {', '.join(sorted(found.name for found in matches))}; give more of the name")
    if (Path(run) / "journal.jsonl").is_file():
        return _at_path(Path(run))
    raise RunNotFound(f"no run {run!r} in {home}; `katuna ls` lists what is there")


def _at_path(path: Path) -> RunDir:
    if not (path / "journal.jsonl").is_file():
        raise RunNotFound(f"{path} is no run folder: it has no journal.jsonl")
    return RunDir(path.absolute())


def all_runs(home: Path | None = None) -> list[RunDir]:
    """Every run in the folder, the one last written to at the end. Others may be removing runs meanwhile."""
    home = home or runs_home()
    found: list[tuple[int, str, RunDir]] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in home.iterdir():
            if not entry.name.startswith("."):
                with contextlib.suppress(OSError):
                    found.append(((entry / "journal.jsonl").stat().st_mtime_ns, entry.name, RunDir(entry)))
    return [run for _, _, run in sorted(found, key=lambda each: each[:2])]
