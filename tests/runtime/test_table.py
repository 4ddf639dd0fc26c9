"""katuna.runtime.table: what is read, what is refused, what training rows alone decide, and the numbers that come of a row."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from katuna.runtime import table
from katuna.runtime.table import Roles, divided, drawn, problems, read, text

TIMES = [1_700_000_000 + place / 2 for place in range(100)]
SHARES = {"val_share": 0.2, "test_share": 0.1, "seed": 0}


def frame(count: int = 40) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    size = draw.normal(size=count)
    return pd.DataFrame({"size": size, "colour": draw.choice(["red", "blue"], count), "price": 3 * size + 1})


# Reading


@pytest.mark.parametrize(("name", "write"), [("t.csv", "to_csv"), ("t.csv.gz", "to_csv"), ("t.parquet", "to_parquet")])
def test_a_file_or_a_folder_with_it_is_read(tmp_path: Path, name: str, write: str) -> None:
    getattr(frame(), write)(tmp_path / name, index=False)
    (tmp_path / "README.md").write_text("not a table")
    for place in (tmp_path / name, tmp_path):
        pd.testing.assert_frame_equal(read(place), frame(), check_dtype=False)


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(SystemExit, match=r"a\.csv: cannot be read: No columns to parse"):
        read(tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(SystemExit, match=r"b\.parquet: cannot be read: "):
        read(tmp_path / "b.parquet")
    for place in (tmp_path, tmp_path / "c.xlsx"):
        (tmp_path / "c.xlsx").touch()
        with pytest.raises(SystemExit, match=r"give a file that ends in \.parquet, \.csv, \.csv\.gz, or a folder with one"):
            read(place)


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: content[:20] + content[40:]])
def test_a_packed_file_that_is_broken_is_said(tmp_path: Path, damage: Any) -> None:
    frame(400).to_csv(tmp_path / "t.csv.gz", index=False)
    (tmp_path / "t.csv.gz").write_bytes(damage((tmp_path / "t.csv.gz").read_bytes()))
    with pytest.raises(SystemExit, match=r"^error: .*t\.csv\.gz: cannot be read: .+$"):
        read(tmp_path)


def test_rows_longer_than_their_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,2,3\n4,5,6\n")
    with pytest.raises(SystemExit, match=r"cannot be read: its rows have more fields than its first line has names; give each"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_two_columns_of_one_name_stay_so(tmp_path: Path, name: str) -> None:
    pd.DataFrame([[1, 0, 5, 0], [2, 1, 6, 1]], columns=["x", "y", "y.1", "y"]).to_csv(tmp_path / name, index=False)
    with pytest.raises(SystemExit, match=r"error: this table cannot be trained on:\n  - two columns are named 'y'$"):
        divided(read(tmp_path), Roles("y"), **SHARES)


def test_columns_without_a_name_are_not_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",,y\n1,2,0\n3,4,1\n")
    assert problems(read(tmp_path), Roles("y")) == []


# What columns hold


@pytest.mark.parametrize(
    ("value", "name"), [(1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "True"), ("1.0", "1.0"), (float("inf"), "inf")]
)
def test_a_value_has_one_name_whatever_type_the_column_took(value: object, name: str) -> None:
    assert text(value) == name


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"], "classification"),
        ([True, False], "classification"),
        ([0, 1, 2], "classification"),
        ([1.0, 2.0], "classification"),
        ([0.5, 1.0], "regression"),
        (list(range(21)), "regression"),
    ],
)
def test_the_task_follows_from_the_target(values: list[Any], task: str) -> None:
    column = pd.DataFrame({"y": values})
    assert Roles("y").task_in(column) == task
    assert Roles("y", task="regression").task_in(column) == "regression"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 9, 10], ("9", "10")),
        ([2.0, 10.0], ("2", "10")),
        ([True, False], ("False", "True")),
        (["b", "a"], ("a", "b")),
        ([1, "1", 0], ("0", "1")),
        (["1", 1, 0, True], ("0", "1", "True")),
    ],
)
def test_labels_of_any_type_are_texts_in_their_own_order(values: list[Any], labels: tuple[str, ...]) -> None:
    data = pd.DataFrame({"x": range(3 * len(values)), "y": values * 3})
    columns, (training, _, _) = divided(data, Roles("y"), val_share=0.3, test_share=0, seed=0)
    assert columns.labels == labels
    assert [columns.labels[goal] for goal in columns.goals(training)] == [text(value) for value in training["y"].tolist()]


def test_a_row_becomes_numbers_and_codes() -> None:
    data = pd.DataFrame({"n": [1.5, None, 3], "c": ["b", None, "a"], "(missing)": ["(missing)", "x", "x"], "y": [0.5, 1.5, 2.5]})
    columns, _ = divided(data, Roles("y"), val_share=0.3, test_share=0, seed=3)
    assert columns.numeric == ("n",)
    fresh = pd.DataFrame({"n": [None, 2], "c": ["never", None], "(missing)": [None, "x"], "more": [1, 2]})
    numbers, codes = columns.encode(fresh)
    assert numbers.dtype == np.float32
    assert np.array_equal(numbers, np.array([[np.nan], [2]], dtype=np.float32), equal_nan=True)
    c, gap = columns.categories["c"], columns.categories["(missing)"]
    assert c[-1] == "(missing)"
    assert codes.tolist() == [[-1, gap.index(gap[-1])], [c.index("(missing)"), gap.index("x")]]
    assert "(missing)" not in gap[-1:]
    fields = {field.name: field for field in columns.fields()}
    assert (fields["n"].missing, fields["c"].missing, fields["c"].categories) == ("nan", "(missing)", c)


def test_numbers_can_be_names() -> None:
    data = pd.DataFrame({"zip": [1.0, 2.0, None] * 4, "y": np.arange(12) / 2})
    columns, _ = divided(data, Roles("y", categorical=("zip",)), **SHARES)
    assert columns.numeric == ()
    assert columns.categories["zip"] == ("1", "2", "(missing)")


# Splits


def test_each_class_has_its_share_in_each_part() -> None:
    groups = np.array(["a"] * 100 + ["b"] * 50 + ["c"])
    parts = drawn(groups, 0.2, 0.1, seed=0)
    counts = {name: np.bincount(parts[groups == name], minlength=3).tolist() for name in "abc"}
    assert counts == {"a": [70, 20, 10], "b": [35, 10, 5], "c": [1, 0, 0]}
    assert np.array_equal(parts, drawn(groups, 0.2, 0.1, seed=0))
    assert not np.array_equal(parts, drawn(groups, 0.2, 0.1, seed=1))


def test_a_column_can_say_the_parts() -> None:
    data = frame().assign(part=["train", "val", "test", "train"] * 10)
    columns, parts = divided(data, Roles("price", split="part"), **SHARES)
    assert [set(part["part"]) for part in parts] == [{"train"}, {"val"}, {"test"}]
    assert "part" not in columns.categories


def test_only_training_rows_say_what_categories_there_are() -> None:
    data = frame().assign(part=["train"] * 30 + ["validation"] * 10)
    data.loc[30:, "colour"] = "green"
    columns, parts = divided(data, Roles("price", split="part"), **SHARES)
    assert columns.categories["colour"] == ("blue", "red", "(missing)")
    assert set(columns.encode(parts[1])[1].ravel()) == {-1}


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (["validation"] * 6, "0 of 6 rows are for training: at least 2 must be"),
        (["train"] * 6, "0 of 6 rows are for validation: at least 1 must be"),
        (["train"] * 3 + ["validation"] * 3, "no training row is of class 'b'"),
    ],
)
def test_a_split_that_cannot_be_trained_on_is_refused(parts: list[str], says: str) -> None:
    data = pd.DataFrame({"x": range(6), "y": ["a"] * 3 + ["b"] * 3, "part": parts})
    with pytest.raises(SystemExit, match=says):
        divided(data, Roles("y", split="part"), **SHARES)


# Problems


def test_all_problems_are_told_together() -> None:
    data = frame(60).assign(
        one=1,
        when=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        endless=[np.inf, *range(59)],
        mostly=[*map(str, range(59)), "n/k"],
        name=[f"house {number}" for number in range(60)],
        price=[None, *range(59)],
        part=["training"] * 59 + ["holdout"],
    )
    roles = Roles("price", "regression", categorical=("kolour",), drop=("sise",), split="part")
    with pytest.raises(SystemExit) as ended:
        divided(data, roles, **SHARES)
    first, *rest = str(ended.value.code).splitlines()
    assert first == "error: this table cannot be trained on:"
    assert [line.removeprefix("  - ") for line in rest] == [
        "--categorical kolour: there is no such column",
        "--drop sise: there is no such column; the columns are size, colour, price, one, when, endless, mostly, name, part",
        "column 'price' is the target, and 1 of its 60 values are missing: leave these rows out",
        "column 'one' is constant: leave it out with --drop",
        "column 'when' holds Timestamp: neither numbers nor texts; turn it into some, or leave it out with --drop",
        "column 'endless' has infinite values",
        "column 'mostly' has texts among its numbers: 'n/k' in row 59 (counted from 0) is one",
        "column 'name' has 60 different texts in 60 rows: leave it out with --drop",
        "column 'part' says 'holdout': it may say train, training, validation, valid, val, test",
    ]


@pytest.mark.parametrize(
    ("data", "roles", "says"),
    [
        ({"x": [], "y": []}, Roles("y"), "it has 0 rows: at least 2 must be for training, and 1 for validation"),
        ({"x": [1], "y": [2]}, Roles("y"), "it has 1 rows: at least 2 must be"),
        ({"x": [1, 2]}, Roles("y"), "--target y: there is no such column; the columns are x"),
        ({"x": [1, 2], "y": ["a", "a"]}, Roles("y"), "column 'y' is the target, and always the same: there is nothing to learn"),
        ({"x": [1, 2], "y": ["a", "b"]}, Roles("y", "regression"), "column 'y' is of str: regression needs numbers"),
        ({"x": [1, 2], "y": [1.5, np.inf]}, Roles("y"), "column 'y' has infinite values"),
        ({"x": [1, 2, 3], "y": [1.5, 1e39, 3]}, Roles("y"), "column 'y' has numbers beyond 3.4e38, the most that float32 holds"),
        ({"x": [1, 2, -1e39], "y": [1, 2, 3]}, Roles("y"), "column 'x' has numbers beyond 3.4e38, the most that float32 holds"),
        ({"x": TIMES, "y": ["a", "b"] * 50}, Roles("y"), "column 'x' has 100 different numbers, and 1 as float32: subtract"),
        ({"x": [None, *TIMES[1:]], "y": ["a", "b"] * 50}, Roles("y"), "column 'x' has 99 different numbers, and 1 as float32"),
        ({"x": range(100), "y": TIMES}, Roles("y"), "column 'y' has 100 different numbers, and 1 as float32: subtract"),
        (
            {"x": [10**17, 10**17 + 1], "y": ["a", "b"]},
            Roles("y"),
            "column 'x' has 2 different numbers, and 1 as float32: subtract",
        ),
        ({"x": [1e-50, 2e-50], "y": ["a", "b"]}, Roles("y"), "column 'x' has 2 different numbers, and 1 as float32: subtract"),
        ({"x": [10**30, 10**30 + 1], "y": ["a", "b"]}, Roles("y"), "column 'x' has whole numbers beyond 64 bits: divide them"),
        ({"x": [1, 2], "y": [10**30, 10**30 + 1]}, Roles("y"), "column 'y' has whole numbers beyond 64 bits: divide them"),
        ({"x": [1, 2], "y": [10**30, 1]}, Roles("y", "regression"), "column 'y' has whole numbers beyond 64 bits: divide them"),
        ({"x": [1, 2], "y": [1, "1"]}, Roles("y"), "column 'y' is the target, and always the same"),
        ({"x": [[1], [2]], "y": [1, 2]}, Roles("y"), "column 'x' holds list: neither"),
        ({"x": [1, 2], "y": [[1], [2]]}, Roles("y"), "column 'y' holds list: neither"),
        ({"y": [1, 2]}, Roles("y"), "there is no column to tell the target from"),
        ({"x": [1, 2], "y": [1, 2]}, Roles("y", drop=("y",)), "column 'y' is the target and cannot be something else too"),
    ],
)
def test_each_problem(data: dict[str, Any], roles: Roles, says: str) -> None:
    found = problems(pd.DataFrame(data), roles)
    assert len(found) == 1
    assert found[0].startswith(says)


def test_what_float32_merges_can_be_noise_or_names() -> None:
    tenths = pd.DataFrame({"x": [0.3, 0.1 + 0.2, 0.1 * 3 + 1e-16, 0.7, 0.8 - 0.1, 0.7 + 1e-16, None], "y": range(7)})
    assert problems(tenths, Roles("y")) == []
    flag = pd.DataFrame({"x": [1.5, None], "year": [1_700_000_000, 1_800_000_000], "y": [0, 1]})
    assert problems(flag, Roles("y")) == []
    ids = pd.DataFrame({"x": [10**17, 10**17 + 1, 10**17], "huge": [10**30, 1, 2], "y": [10**17, 10**17 + 1, 10**17]})
    assert problems(ids, Roles("y", "classification", categorical=("x", "huge"))) == []


def test_two_columns_of_one_name_are_refused() -> None:
    twice = pd.DataFrame([[1, 1, 2, 3], [4, 4, 5, 6]], columns=["x", "x", "x", "y"])
    assert problems(twice, Roles("y")) == ["two columns are named 'x'"]


def test_a_whole_table_has_no_problems() -> None:
    assert problems(frame(), Roles("price")) == []
    assert problems(frame().assign(name=list(map(str, range(20))) * 2), Roles("price")) == []


# Databases


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy

    url = f"sqlite:///{tmp_path}/houses.db"
    monkeypatch.setenv("HOUSES", url)
    engine = sqlalchemy.create_engine(url)
    frame().to_sql("houses", engine, index=False)
    engine.dispose()


@pytest.mark.usefixtures("database")
def test_a_query_is_a_table() -> None:
    found = table.queried("select size, price from houses where colour = 'red' and price % 7 < 50", "HOUSES")
    rows = frame()[frame()["colour"] == "red"][["size", "price"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, rows)


@pytest.mark.usefixtures("database")
def test_a_wrong_query_is_told_without_the_url(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        table.queried("select * from homes", "HOUSES")
    assert ended.value.code == "error: --query: no such table: homes"


@pytest.mark.parametrize(
    "url",
    ["postgresql+pg8000://me:hunter2@db/houses", "hunter2", "nosuch://me:hunter2@db/houses", "sqlite:////nowhere/hunter2.db"],
)
def test_a_url_is_never_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HOUSES", url)
    with pytest.raises(SystemExit) as ended:
        table.queried("select 1", "HOUSES")
    assert "hunter2" not in str(ended.value.code)
    assert str(ended.value.code).startswith(
        ("error: --url-env HOUSES: no database can be opened with its value (", "error: --query: ")
    )
    assert "hunter2" not in repr(ended.value.__cause__)


def test_an_unset_variable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOUSES", raising=False)
    with pytest.raises(SystemExit, match="--url-env HOUSES: this environment variable is empty or not set"):
        table.queried("select 1", "HOUSES")
