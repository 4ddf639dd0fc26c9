from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katuna.metrics.follow import READ_BYTES, Follower


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.log"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_file_may_come_late_and_not_at_all(path: Path) -> None:
    file = Follower(path)
    assert (file.read(), file.at_end, file.found) == (b"", True, False)
    append(path, b"one\n")
    assert (file.read(), file.at_end, file.found) == (b"one\n", True, True)
    assert file.read() == b""
    file.close()


def test_even_its_folder_may_come_late(tmp_path: Path) -> None:
    file = Follower(tmp_path / "later" / "log")
    assert file.read() == b""
    (tmp_path / "later").mkdir()
    append(tmp_path / "later" / "log", b"one\n")
    assert file.read() == b"one\n"
    file.close()


def test_a_little_at_a_time(path: Path) -> None:
    append(path, b"x" * (READ_BYTES + 5))
    file = Follower(path)
    assert (len(file.read()), file.at_end) == (READ_BYTES, False)
    assert (len(file.read()), file.at_end) == (5, True)
    file.close()


def test_a_renamed_file_is_read_to_its_end_before_the_new_one(path: Path) -> None:
    append(path, b"one\n")
    file = Follower(path)
    assert file.read() == b"one\n"
    append(path, b"two")
    path.rename(path.with_suffix(".1"))
    path.touch()
    append(path.with_suffix(".1"), b" and a half\n")
    assert file.read() == b"two and a half\n"
    assert file.read() == b""
    append(path, b"three\n")
    assert file.read() == b"\nthree\n"
    file.close()


def test_a_file_cut_off_begins_again(path: Path) -> None:
    append(path, b"one\ntwo\n")
    file = Follower(path)
    assert file.read() == b"one\ntwo\n"
    os.truncate(path, 0)
    assert file.read() == b"", "an empty file may still become what it was"
    append(path, b"new\n")
    assert file.read() == b"\nnew\n"
    append(path, b"more\n")
    assert file.read() == b"more\n"
    file.close()


def test_a_file_written_anew_and_longer_begins_again(path: Path) -> None:
    append(path, b"one\n")
    file = Follower(path)
    assert file.read() == b"one\n"
    path.write_bytes(b"1st\n2nd\n3rd\n")
    assert file.read() == b"\n1st\n2nd\n3rd\n"
    file.close()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_written_anew_with_each_epoch_gives_each_line_once(path: Path, in_place: bool) -> None:
    file, found = Follower(path), b""
    for epoch in range(1, 6):
        text = b"".join(b"epoch=%d loss=0.5\n" % each for each in range(epoch))
        if in_place:
            path.write_bytes(text)
        else:
            path.with_suffix(".new").write_bytes(text)
            path.with_suffix(".new").replace(path)
        found += file.read()
    assert found == text
    file.close()


def test_a_deleted_file_is_read_to_its_end_and_may_come_again(path: Path) -> None:
    append(path, b"one\n")
    file = Follower(path)
    assert file.read() == b"one\n"
    with path.open("ab", buffering=0) as held:
        path.unlink()
        held.write(b"two\n")
        assert file.read() == b"two\n"
    append(path, b"three\n")
    assert file.read() == b"\nthree\n"
    file.close()


def test_begins_where_it_is_told(path: Path) -> None:
    append(path, b"before\n")
    file = Follower(path, start=7)
    assert file.read() == b""
    append(path, b"after\n")
    assert file.read() == b"after\n"
    path.write_bytes(b"anew\n")
    assert file.read() == b"\nanew\n"
    file.close()


def test_a_link_is_followed_only_where_that_is_asked_for(path: Path) -> None:
    append(path.with_name("real"), b"one\n")
    path.symlink_to("real")
    assert Follower(path).read() == b""
    file = Follower(path, follow=True)
    assert file.read() == b"one\n"
    file.close()


def test_what_a_link_leads_to_is_a_file_or_nothing(path: Path) -> None:
    """A device would never end."""
    path.symlink_to("/dev/zero")
    for follow in (False, True):
        file = Follower(path, follow=follow)
        assert (file.read(), file.at_end, file.found) == (b"", True, False)


def test_a_link_in_the_place_of_a_file_changes_nothing_of_what_was_open(path: Path) -> None:
    append(path, b"one\n")
    file = Follower(path)
    assert file.read() == b"one\n"
    with path.open("ab", buffering=0) as held:
        path.unlink()
        path.symlink_to(__file__)
        held.write(b"two\n")
    assert file.read() == b"two\n"
    assert (file.read(), file.at_end) == (b"", True)
    file.close()


def test_holes_are_passed_over_at_once(path: Path) -> None:
    """A terabyte that takes up no disk."""
    append(path, b"one\n")
    os.truncate(path, 1 << 40)
    append(path, b"\ntwo\n")
    os.truncate(path, 1 << 41)
    file, found, rounds = Follower(path), b"", 0
    while not file.at_end:
        found, rounds = found + file.read(), rounds + 1
        assert rounds < 20
    assert found.replace(b"\0", b"") == b"one\n\ntwo\n"
    append(path, b"three\n")
    assert file.read().strip(b"\0") == b"three\n"
    path.write_bytes(b"anew\n")
    assert file.read() == b"\nanew\n"
    file.close()


@pytest.mark.parametrize("same", [True, False])
def test_a_long_text_in_the_place_of_another_is_compared_a_little_at_a_time(
    path: Path, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("katuna.metrics.follow.READ_BYTES", 100)
    monkeypatch.setattr("katuna.metrics.follow.COMPARED_BYTES", 1000)
    text = b"".join(b"line %d\n" % number for number in range(1000))
    append(path, text)
    file, found = Follower(path), b""
    while not file.at_end:
        found += file.read()
    other = text if same else text.replace(b"999", b"***")
    path.with_suffix(".new").write_bytes(other + b"more\n")
    path.with_suffix(".new").replace(path)
    assert (file.read(), file.at_end) == (b"", False)
    rounds = 1
    while not file.at_end:
        found, rounds = found + file.read(), rounds + 1
    assert found == text + (b"" if same else b"\n" + other) + b"more\n"
    assert rounds >= len(text) // 1000
    file.close()


def test_what_is_no_file_is_empty(path: Path) -> None:
    """A pipe would make whoever opens it wait for its writer."""
    os.mkfifo(path)
    file = Follower(path)
    assert file.read() == b""
    path.unlink()
    path.mkdir()
    assert file.read() == b""
    path.rmdir()
    append(path, b"one\n")
    assert file.read() == b"one\n"
    file.close()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["write", "write", "rotate", "delete", "read"]), max_size=25))
def test_nothing_is_lost_or_doubled_when_looked_at_between_changes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    path = tmp_path_factory.mktemp("f") / "log"
    file, found, written = Follower(path), b"", []
    for number, step in enumerate(steps):
        if step == "write":
            written.append(b"line %d" % number)
            append(path, written[-1] + b"\n")
        elif step == "read":
            found += file.read()
        elif path.exists():
            found += file.read()
            path.rename(path.with_suffix(f".{number}")) if step == "rotate" else path.unlink()
    found += file.read() + file.read()
    assert [line for line in found.split(b"\n") if line] == written
    file.close()
