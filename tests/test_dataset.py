"""Datasets: what names their contents, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katuna.dataset import check_same, describe
from katuna.errors import InputRefused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "toy"
    (place / "images").mkdir(parents=True)
    (place / "labels.csv").write_text("a,1\n")
    (place / "images" / "a.png").write_bytes(b"\x89PNG")
    return place


def manifest(folder: Path, *names: str) -> None:
    facts = {}
    for name in names:
        content = (folder / name).read_bytes()
        facts[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "dataset.json").write_text(json.dumps({"name": "toys", "files": facts}))


def test_a_file_is_a_dataset_wherever_it_lies_and_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.csv").write_text("a,b\n")
    (tmp_path / "two.csv").write_text("a,b\n")
    monkeypatch.chdir(tmp_path)
    one = describe("one.csv")
    assert one.path == tmp_path / "one.csv"
    assert list(one.files) == ["one.csv"]
    assert one.digest == describe("two.csv").digest
    (tmp_path / "two.csv").write_text("a,c\n")
    assert one.digest != describe("two.csv").digest


def test_a_folders_digest_is_of_its_files_and_not_of_its_place(folder: Path, tmp_path: Path) -> None:
    found = describe(folder)
    assert list(found.files) == ["images/a.png", "labels.csv"]
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    os.utime(copy / "labels.csv", (1, 1))
    (copy / ".hidden").write_text("x")
    (copy / "empty").mkdir()
    assert describe(copy).digest == found.digest
    manifest(copy, "labels.csv", "images/a.png")
    with_manifest = describe(copy)
    assert (with_manifest.digest, with_manifest.name) == (found.digest, "toys")
    check_same(copy, found.digest)


def test_any_change_of_a_folder_is_another_digest(folder: Path) -> None:
    seen = [describe(folder).digest]
    for change in (
        lambda: (folder / "labels.csv").write_text("a,2\n"),
        lambda: (folder / "labels.csv").rename(folder / "other.csv"),
        lambda: (folder / "more.csv").write_text(""),
        (folder / "images" / "a.png").unlink,
    ):
        change()
        seen.append(describe(folder).digest)
    assert len(set(seen)) == len(seen)
    with pytest.raises(InputRefused, match=f"the digest was {seen[0]} and is {seen[-1]}"):
        check_same(folder, seen[0])
    check_same(folder, "")


def test_links_are_followed_and_loops_end(folder: Path, tmp_path: Path) -> None:
    before = describe(folder).digest
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").write_bytes(b"b")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    linked = describe(folder)
    assert list(linked.files) == ["images/a.png", "labels.csv", "more/b.png"]
    (tmp_path / "elsewhere" / "b.png").write_bytes(b"c")
    assert len({before, linked.digest, describe(folder).digest}) == 3


def test_all_that_is_wrong_is_said_at_once(folder: Path, tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        (folder / name).write_text("1234")
    manifest(folder, "labels.csv", "images/a.png", "one.csv", "two.csv")
    (folder / "labels.csv").unlink()
    (folder / "one.csv").write_text("12345")
    (folder / "two.csv").write_text("1235")
    with pytest.raises(InputRefused) as caught:
        describe(folder)
    said = str(caught.value)
    for wrong in (str(folder), "labels.csv is missing", "one.csv has 5 bytes and not 4", "two.csv has another digest"):
        assert wrong in said
    assert "a.png" not in said
    with pytest.raises(InputRefused, match="there is no such file or folder"):
        describe(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match="has no files"):
        describe(tmp_path / "empty")


GOOD = {"sha256": "0" * 64, "bytes": 1}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{", "cannot be read"),
        ("\udcff", "cannot be read"),
        ("[]", "has no `files`"),
        ('{"files": {}}', "has no `files`"),
        (json.dumps({"files": {"../x": GOOD, "/etc/passwd": GOOD}}), "../x lies outside of the folder; /etc/passwd lies outside"),
        (
            json.dumps({"files": {"a": {**GOOD, "bytes": True}, "b": {**GOOD, "sha256": "0"}, "c": "d"}}),
            "a needs sha256 .*; b needs .*; c needs",
        ),
    ],
)
def test_a_manifest_that_is_none_is_refused(folder: Path, text: str, wrong: str) -> None:
    (folder / "dataset.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputRefused, match=wrong):
        describe(folder)


@given(st.binary(max_size=200))
def test_whatever_a_manifest_holds_it_is_refused_in_one_message(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    place = tmp_path_factory.mktemp("any")
    (place / "dataset.json").write_bytes(content)
    with pytest.raises(InputRefused):
        describe(place)
