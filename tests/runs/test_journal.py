from __future__ import annotations

import errno
import itertools
import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.store_contract import StoreContract
from factories import a_life, opened
from katuna.errors import InputRefused, JournalDamaged, StoreFailed
from katuna.metric_line import Report
from katuna.runs.journal import SYNC_AFTER_S, Journal, begin, drop_after, encode, read
from katuna.search.trials import Asked, Ended, Event, Exited, Opened, Reported, Started
from searches import katuna, write_experiment

EVENTS: list[Event] = [opened(), *a_life(0, {"lr": "0.1"}, 0.5), *a_life(1, {"lr": "0.2"}, None), Ended(9.0, True, "r", "é")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "digits" / "journal.jsonl"


@pytest.fixture
def written(path: Path) -> bytes:
    path.parent.mkdir()
    path.write_bytes(begin(EVENTS))
    return path.read_bytes()


@pytest.fixture
def older(path: Path, written: bytes) -> bytes:
    """As katuna wrote it before checksums were chained."""
    path.write_bytes(b"".join(map(encode, EVENTS)))
    return path.read_bytes()


class TestJournal(StoreContract):
    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path) -> Iterator[None]:
        self.journal = Journal(tmp_path / "journal.jsonl")
        yield
        self.journal.close()

    def make_store(self) -> Journal:
        return self.journal


def replayed(path: Path) -> list[Event]:
    return [event for event, _ in read(path)]


@pytest.mark.parametrize("journal_of", ["written", "older"])
def test_cut_anywhere_it_keeps_the_whole_lines_and_goes_on(path: Path, journal_of: str, request: pytest.FixtureRequest) -> None:
    written: bytes = request.getfixturevalue(journal_of)
    ends = [index + 1 for index, byte in enumerate(written) if byte == ord("\n")]
    for size in range(len(written) + 1):
        path.write_bytes(written[:size])
        whole = sum(end <= size or end == size + 1 for end in ends)
        if whole:
            assert replayed(path) == EVENTS[:whole], f"cut at {size}"
        else:
            with pytest.raises(InputRefused, match=r"is empty.*katuna rm digits"):
                replayed(path)
        journal = Journal(path)
        following = EVENTS[-1] if whole else EVENTS[0]
        journal.append(following)
        journal.close()
        assert replayed(path) == [*EVENTS[:whole], following], f"cut at {size}, then appended"


def test_a_flipped_byte_is_always_noticed_and_named_by_line(path: Path, written: bytes) -> None:
    chance = random.Random(5)
    for place in range(len(written)):
        damaged = bytearray(written)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        line = written[:place].count(b"\n") + 1
        with pytest.raises(JournalDamaged, match=rf"line {line}: ") as caught:
            replayed(path)
        assert caught.value.line == line
        assert path.read_bytes() == bytes(damaged)


def test_a_byte_changed_in_a_real_journal_is_noticed_and_named_by_line(tmp_path: Path) -> None:
    write_experiment(tmp_path, "for step in range(20): print(f'accuracy={step / 20}')", maxTrialCount=4, parallelTrialCount=4)
    assert katuna("tune", "experiment.yaml", cwd=tmp_path).returncode == 0
    path = tmp_path / "runs" / "toy" / "journal.jsonl"
    whole = path.read_bytes()
    events = replayed(path)
    chance = random.Random(20261123)
    for _ in range(500):
        place = chance.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= chance.randrange(1, 256)
        path.write_bytes(damaged)
        line = whole[:place].count(b"\n") + 1
        with pytest.raises(JournalDamaged, match=rf"line {line}: ") as caught:
            replayed(path)
        assert caught.value.line == line
        assert list(itertools.islice((event for event, _ in read(path)), line - 1)) == events[: line - 1]


def rearranged(lines: list[bytes]) -> Iterator[tuple[str, int, list[bytes]]]:
    """Each line swapped with each other, deleted and doubled; and the first line that is not where it was written."""
    for number in range(len(lines)):
        yield f"doubled {number + 1}", number + 2, [*lines[: number + 1], *lines[number:]]
        if number + 1 < len(lines):
            yield f"deleted {number + 1}", number + 1, [*lines[:number], *lines[number + 1 :]]
        for other in range(number + 1, len(lines)):
            swapped = [*lines]
            swapped[number], swapped[other] = lines[other], lines[number]
            yield f"swapped {number + 1} and {other + 1}", number + 1, swapped


def test_whole_lines_of_a_real_journal_moved_deleted_or_doubled_are_refused_with_the_line(tmp_path: Path) -> None:
    write_experiment(tmp_path, "for step in range(3): print(f'accuracy={step / 20}')", maxTrialCount=4, parallelTrialCount=2)
    assert katuna("tune", "experiment.yaml", cwd=tmp_path).returncode == 0
    path = tmp_path / "runs" / "toy" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) > 12
    for what, line, other in rearranged(lines):
        path.write_bytes(b"".join(other))
        with pytest.raises(JournalDamaged, match=rf"line {line}: ") as caught:
            replayed(path)
        assert caught.value.line == line, what
        if line > 1:
            path.write_bytes(b"".join(other))
            drop_after(path, line - 1)
            assert path.read_bytes() == b"".join(lines[: line - 1]), what


@pytest.mark.parametrize("journal_of", ["written", "older"])
def test_a_journal_goes_on_as_it_was_begun(path: Path, journal_of: str, request: pytest.FixtureRequest) -> None:
    whole: bytes = request.getfixturevalue(journal_of)
    lines = whole.splitlines(keepends=True)
    for kept in range(len(lines)):
        path.write_bytes(b"".join(lines[:kept]))
        for event in EVENTS[kept:]:
            journal = Journal(path)
            journal.append(event)
            journal.close()
        assert path.read_bytes() == (whole if kept else begin(EVENTS))


def test_what_a_later_version_wrote_is_called_that_and_not_damaged(path: Path, written: bytes) -> None:
    whole = written.splitlines(keepends=True)
    sealed = [line[: line.index(b', "crc"')] for line in whole]
    for line, body in (
        (1, sealed[0].replace(b'"format": 2', b'"format": 3')),
        (2, sealed[1].replace(b'"Asked"', b'"Wondered"')),
        (3, sealed[2] + b', "node": "a"'),
    ):
        before = int(whole[line - 2][-11:-3], 16) if line > 1 else 0
        later = b'%s, "crc": "%08x"}\n' % (body, zlib.crc32(body, before))
        path.write_bytes(b"".join([*whole[: line - 1], later, *whole[line:]]))
        for look in (replayed, lambda path: drop_after(path, 1)):
            with pytest.raises(InputRefused, match=rf"line {line}: written by a later katuna; upgrade to read it") as caught:
                look(path)
            assert not isinstance(caught.value, JournalDamaged)
            assert "--drop-after" not in str(caught.value)


def test_a_journal_of_a_job_of_the_first_version_is_refused_by_name(path: Path) -> None:
    path.parent.mkdir()
    body = b'{"event": "JobOpened", "at": 1.0, "job": "toy", "file_sha256": "", "versions": {}, "options": {}, "format": 2'
    path.write_bytes(body + b', "crc": "%08x"}\n' % zlib.crc32(body))
    with pytest.raises(InputRefused, match=r"katuna 0\.1\.0 ran.*`katuna train .*/job\.yaml` starts it anew"):
        replayed(path)


def test_drop_after_keeps_the_good_lines_and_the_damaged_file(path: Path, written: bytes) -> None:
    lines = written.splitlines(keepends=True)
    damaged = b"".join([*lines[:3], lines[3].replace(b"0", b"1", 1), *lines[4:]])
    path.write_bytes(damaged)
    with pytest.raises(JournalDamaged, match="--drop-after 3"):
        replayed(path)
    with pytest.raises(JournalDamaged):
        drop_after(path, 5)
    assert path.read_bytes() == damaged
    aside = drop_after(path, 3)
    assert aside.read_bytes() == damaged
    assert replayed(path) == EVENTS[:3]


def test_a_whole_journal_has_nothing_to_drop(path: Path, written: bytes) -> None:
    with pytest.raises(InputRefused, match="is whole"):
        drop_after(path, 3)
    assert path.read_bytes() == written
    assert [entry.name for entry in path.parent.iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize(
    ("lines", "line"),
    [([1, 0], 1), ([0, 1, 1], 3), ([0, 0], 2), ([0, 5], 2), ([0, 2], 2)],
    ids=["no beginning", "asked twice", "opened twice", "asked out of turn", "started but never asked"],
)
def test_whole_lines_in_the_wrong_place_are_damage(path: Path, older: bytes, lines: list[int], line: int) -> None:
    whole = older.splitlines(keepends=True)
    path.write_bytes(b"".join(whole[index] for index in lines))
    with pytest.raises(JournalDamaged, match=f"line {line}: "):
        replayed(path)


def test_a_disk_that_fails_late_is_a_store_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As network disks do: the write goes well, and fsync or close reports what became of it."""
    path.parent.mkdir()
    journal = Journal(path)
    journal.append(opened())

    def full(fd: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreFailed, match=r"Disk quota exceeded.*katuna resume digits"):
        journal.append(EVENTS[1])
    assert replayed(path) == EVENTS[:1], "what could not be kept is not there either"
    with pytest.raises(StoreFailed, match="Disk quota"):
        journal.close()
    journal.close()


def test_decisions_are_on_disk_at_once_and_what_trials_tell_with_the_next_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    now, synced = [100.0], []
    real = os.fsync
    monkeypatch.setattr("os.fsync", lambda fd: (synced.append(os.fstat(fd).st_size), real(fd)))
    journal = Journal(path, monotonic=lambda: now[0])
    asked, started, reported, exited = a_life(0, {"lr": "0.1"}, 0.5)
    for event, kind, on_disk in (
        (opened(), Opened, True),
        (asked, Asked, True),
        (started, Started, False),
        (reported, Reported, False),
        (exited, Exited, False),
        (a_life(1, {"lr": "0.2"}, None)[0], Asked, True),
    ):
        journal.append(event)
        assert isinstance(event, kind)
        assert (synced[-1] == path.stat().st_size) is on_disk, event
    journal.close()


def test_what_trials_tell_waits_for_the_disk_half_a_second_at_most(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    now, synced = [100.0], []
    real = os.fsync
    monkeypatch.setattr("os.fsync", lambda fd: (synced.append(now[0]), real(fd)))
    journal = Journal(path, monotonic=lambda: now[0])
    journal.append(opened())
    assert len(synced) == 1
    journal.append(Reported(1.0, 0, (Report("loss", "1"),)))
    journal.sync()
    assert len(synced) == 1, "a value waits"
    now[0] += SYNC_AFTER_S
    journal.sync()
    journal.sync()
    assert len(synced) == 2, "once, when due"
    journal.append(Reported(2.0, 0, (Report("loss", "1"),)))
    journal.sync(after_s=0)
    assert len(synced) == 3, "or when asked for"
    journal.close()


def test_opening_reads_no_whole_journal(path: Path, older: bytes) -> None:
    """A run of days is read by whoever goes on with it, once."""
    path.write_bytes(b"x" * 1000 + b"\n" + older)
    journal = Journal(path)
    journal.append(EVENTS[-1])
    journal.close()
    assert path.read_bytes().endswith(encode(EVENTS[-1]) * 2)
    with pytest.raises(JournalDamaged, match="line 1: "):
        replayed(path)


FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
from factories import a_life, opened
from katuna.errors import StoreFailed
from katuna.runs.journal import Journal, read
from katuna.search.trials import Ended
path = Path(sys.argv[1])
journal = Journal(path)
journal.append(opened())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
kept = 1
try:
    for number in range(100):
        for event in a_life(number, {"lr": "0.1"}, 0.5):
            journal.append(event)
            kept += 1
except StoreFailed as error:
    print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.append(Ended(9.0, True, "r", "m"))
    assert len(list(read(path))) == kept + 1
    sys.exit(7)
"""


def test_a_full_disk_costs_no_recorded_event_and_says_how_to_go_on(path: Path) -> None:
    """The kernel refuses to let the file grow, in the middle of a line, as a full disk does."""
    path.parent.mkdir()
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": tests},
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "cannot be written" in done.stdout
    assert "katuna resume digits" in done.stdout
