"""How a table becomes what a network takes: read from a file or a database, checked as a whole, each row as numbers and codes."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from katuna.runtime.exported import Field

Array = np.ndarray[Any, Any]
PARTS = {"train": 0, "training": 0, "validation": 1, "valid": 1, "val": 1, "test": 2}
"""What a split column may say, and the number of the part."""

NEVER_CLASSES = 20
"""More whole numbers than these are a quantity."""


@dataclass(frozen=True)
class Roles:
    """What a user says of the columns. `task` is classification, regression or auto; `categorical` are numbers that are names; `split`
    is the column that says the part of each row, or empty."""

    target: str
    task: str = "auto"
    categorical: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    split: str = ""

    def features(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.drop(columns=[self.target, self.split, *self.drop], errors="ignore")

    def task_in(self, frame: pd.DataFrame) -> str:
        """Under auto: texts, booleans and few whole numbers are classes."""
        if self.task != "auto":
            return self.task
        column = frame[self.target]
        if huge(column):
            return "regression"
        values = column.dropna().unique()
        few = len(values) <= NEVER_CLASSES and all(float(value).is_integer() for value in values) if is_number(column) else True
        return "classification" if few else "regression"


@dataclass(frozen=True)
class Columns:
    """What training rows say of the columns. `categories` of a column: texts, of which the last one stands for a missing value;
    `labels` are empty for regression."""

    target: str
    numeric: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...]

    @property
    def task(self) -> str:
        return "classification" if self.labels else "regression"

    def encode(self, frame: pd.DataFrame) -> tuple[Array, Array]:
        """float32 numbers (rows, numeric) with NaN, and int64 codes (rows, categorical) with -1 for a text that is not known."""
        numbers = frame[list(self.numeric)].to_numpy(dtype=np.float32, na_value=np.nan, copy=True)
        codes = np.empty((len(frame), len(self.categories)), dtype=np.int64)
        for place, (name, known) in enumerate(self.categories.items()):
            codes[:, place] = pd.Index(known, dtype=object).get_indexer(texts(frame[name]).fillna(known[-1]))
        return numbers, codes

    def goals(self, frame: pd.DataFrame) -> Array:
        """The target: int64 indices of `labels`, or float32 values."""
        if self.labels:
            return np.array(pd.Index(self.labels, dtype=object).get_indexer(texts(frame[self.target])), dtype=np.int64)
        return np.array(frame[self.target], dtype=np.float32)

    def fields(self) -> tuple[Field, ...]:
        """The columns as an export's schema has them."""
        numbers = [Field(name, "float", missing="nan") for name in self.numeric]
        return (*numbers, *(Field(name, "int64", categories=known, missing=known[-1]) for name, known in self.categories.items()))


def divided(
    frame: pd.DataFrame, roles: Roles, *, val_share: float, test_share: float, seed: int
) -> tuple[Columns, list[pd.DataFrame]]:
    """Rows for training, validation and test, and the columns as the first of these have them. The split column says which, or
    they are drawn, of each class its share.

    Exits with 1 and one message that lists everything that keeps the table from being trained on.
    """
    refuse(problems(frame, roles))
    task = roles.task_in(frame)
    groups = texts(frame[roles.target]) if task == "classification" else pd.Series("", index=frame.index)
    said = frame[roles.split].map(PARTS).to_numpy() if roles.split else None
    parts = drawn(groups.to_numpy(), val_share, test_share, seed) if said is None else said
    refuse(problems_of_parts(groups, parts))
    return columns_of(frame[parts == 0], roles, task), [frame[parts == part] for part in range(3)]


def columns_of(frame: pd.DataFrame, roles: Roles, task: str) -> Columns:
    features = roles.features(frame)
    numeric = [name for name in features if is_number(features[name]) and name not in roles.categorical]
    categories = {}
    for name in features.columns.drop(numeric):
        known = sorted(texts(features[name]).dropna().unique())
        missing = "(missing)"
        while missing in known:
            missing = f"({missing})"
        categories[name] = (*known, missing)
    labels = frame[roles.target].tolist() if task == "classification" else []
    ordered = sorted(labels, key=lambda value: (isinstance(value, str), value))
    # A database may hold 1 and '1' in one column: these are one label.
    return Columns(roles.target, tuple(numeric), categories, tuple(dict.fromkeys(map(text, ordered))))


def drawn(groups: Array, val_share: float, test_share: float, seed: int) -> Array:
    """The part of each row; a group of several has one in validation at least, and one in training."""
    parts, draw = np.zeros(len(groups), dtype=int), np.random.default_rng(seed)
    for group in sorted(set(groups)):
        members = draw.permutation(np.flatnonzero(groups == group))
        held = min(max(1, round(len(members) * val_share)), len(members) - 1)
        tested = min(round(len(members) * test_share), len(members) - 1 - held)
        parts[members[:held]], parts[members[held : held + tested]] = 1, 2
    return parts


# What columns hold


def text(value: object) -> str:
    """What a category or a label is called: 1.0 is 1, because a column of integers with gaps is one of floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def texts(column: pd.Series) -> pd.Series:
    """Each value's text; missing ones stay missing."""
    values = zip(column.tolist(), column.isna(), strict=True)
    return pd.Series([None if missing else text(value) for value, missing in values], index=column.index, dtype=object)


def is_number(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column)) and not is_bool(column)


def is_bool(column: pd.Series) -> bool:
    return bool(pd.api.types.is_bool_dtype(column))


# What is wrong with them


def refuse(problems: Sequence[str]) -> None:
    if problems:
        sys.exit("error: this table cannot be trained on:" + "".join(f"\n  - {each}" for each in problems))


def problems(frame: pd.DataFrame, roles: Roles) -> list[str]:
    """Everything that keeps the table from being trained on."""
    if len(frame) < 2:
        return [f"it has {len(frame)} rows: at least 2 must be for training, and 1 for validation"]
    twice = frame.columns.duplicated()
    found = [f"two columns are named {name!r}" for name in frame.columns[twice].unique()]
    frame = frame.loc[:, ~twice]
    asked = {"target": [roles.target], "categorical": roles.categorical, "drop": roles.drop, "split-column": [roles.split]}
    absent = [
        f"--{flag} {name}: there is no such column"
        for flag, names in asked.items()
        for name in names
        if name and name not in frame
    ]
    if absent:
        found += [*absent[:-1], f"{absent[-1]}; the columns are {', '.join(map(str, frame.columns))}"]
    if roles.target in (*roles.drop, roles.split):
        found.append(f"column {roles.target!r} is the target and cannot be something else too")
    if roles.target in frame:
        found += problems_of_target(frame[roles.target], roles)
    features = roles.features(frame)
    for name in features:
        found += problems_of_feature(features[name], is_category=name in roles.categorical)
    if roles.split in frame:
        wrong = sorted({str(value) for value in frame[roles.split].unique()} - set(PARTS))
        known = ", ".join(PARTS)
        found += [f"column {roles.split!r} says {', '.join(map(repr, wrong[:5]))}: it may say {known}"] if wrong else []
    if not len(features.columns):
        found.append("there is no column to tell the target from")
    return found


def problems_of_target(column: pd.Series, roles: Roles) -> list[str]:
    name, missing = f"column {column.name!r}", int(column.isna().sum())
    found = [f"{name} holds {kind}: neither numbers nor texts"] if (kind := strange(column)) else []
    if missing:
        found.append(f"{name} is the target, and {missing} of its {len(column)} values are missing: leave these rows out")
    if not found and texts(column).nunique() < 2:
        found.append(f"{name} is the target, and always the same: there is nothing to learn")
    if roles.task == "regression" and not is_number(column) and not huge(column):
        found.append(f"{name} is of {column.dtype}: regression needs numbers")
    if not kind and roles.task_in(column.to_frame()) == "regression" and (loss := lost(column)):
        found.append(f"{name} {loss}")
    return found


def problems_of_feature(column: pd.Series, *, is_category: bool) -> list[str]:
    name = f"column {column.name!r}"
    if kind := strange(column):
        return [f"{name} holds {kind}: neither numbers nor texts; turn it into some, or leave it out with --drop"]
    if column.nunique(dropna=False) < 2:
        return [f"{name} is constant: leave it out with --drop"]
    loss = "" if is_category else lost(column)
    if is_number(column) or loss:
        return [f"{name} {loss}"] if loss else []
    values = column.dropna()
    odd = values[pd.to_numeric(values, errors="coerce").isna()]
    if 0 < len(odd) < len(values) / 2 and not is_category:
        return [f"{name} has texts among its numbers: {text(odd.iloc[0])!r} in row {odd.index[0]} (counted from 0) is one"]
    if values.nunique() > max(20, len(column) / 2):
        return [f"{name} has {values.nunique()} different texts in {len(column)} rows: leave it out with --drop"]
    return []


def problems_of_parts(groups: pd.Series, parts: Array) -> list[str]:
    """What keeps a split from being used: parts without rows, and classes that training would not see."""
    found = []
    for part, name, least in ((0, "training", 2), (1, "validation", 1)):
        if (count := int((parts == part).sum())) < least:
            found.append(f"{count} of {len(parts)} rows are for {name}: at least {least} must be")
    unseen = sorted(set(groups) - set(groups[parts == 0]))
    if unseen and not found:
        found.append(f"no training row is of class {', '.join(map(repr, unseen[:5]))}")
    return found


def strange(column: pd.Series) -> str:
    """The type of the first value that is neither a number nor a text; empty where there is none."""
    if is_number(column) or is_bool(column):
        return "complex numbers" if pd.api.types.is_complex_dtype(column) else ""
    return next(
        (type(value).__name__ for value in column.dropna().tolist() if not isinstance(value, str | bool | int | float)), ""
    )


def huge(column: pd.Series) -> bool:
    """Whether there are integers that pandas has no type for, and leaves as objects."""
    return column.dtype == object and any(isinstance(value, int) and abs(value) >= 2**63 for value in column.tolist())


def lost(column: pd.Series) -> str:
    """What the float32 that a network takes does not hold of numbers; empty where it holds enough, and of texts."""
    if not is_number(column):
        return "has whole numbers beyond 64 bits: divide them by a power of ten" if huge(column) else ""
    values = column.dropna().to_numpy(dtype=np.float64)
    if np.isinf(values).any():
        return "has infinite values"
    if (abs(values) > np.finfo(np.float32).max).any():
        return "has numbers beyond 3.4e38, the most that float32 holds: divide them by a power of ten"
    there, kept = distinct(column.dropna()), len(np.unique(values.astype(np.float32)))
    if kept < there / 2 or kept == 1 < there:
        return f"has {there} different numbers, and {kept} as float32: subtract an offset (their smallest, say), or rescale them"
    return ""


def distinct(column: pd.Series) -> int:
    """How many numbers there are. Floats count by their first 40 bits: what differs after these is an error of rounding."""
    if pd.api.types.is_integer_dtype(column):
        return int(column.nunique())
    mantissa, exponent = np.frexp(column.to_numpy(dtype=np.float64))
    return len(np.unique(np.ldexp(np.round(mantissa * 2**40), exponent)))


# Where they come from


def read(place: Path) -> pd.DataFrame:
    """A CSV or Parquet file, or the only one in a folder. Exits with 1 and a one-line message when there is no such file or it
    cannot be read."""
    readers = {".parquet": pd.read_parquet, ".csv": of_csv, ".csv.gz": of_csv}
    found = [place] if place.is_file() else sorted(each for each in place.iterdir() if each.name.endswith(tuple(readers)))
    reader = next((reader for end, reader in readers.items() if len(found) == 1 and found[0].name.endswith(end)), None)
    if reader is None:
        sys.exit(f"error: {place}: give a file that ends in {', '.join(readers)}, or a folder with one of them")
    try:
        frame: pd.DataFrame = reader(found[0])
        frame.columns = frame.columns.map(str)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        sys.exit(f"error: {found[0]}: cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}")
    return frame


def of_csv(place: Path) -> pd.DataFrame:
    """Two columns of one name keep it, for `problems` to see: pandas would call a second target y y.1, and it would be a feature."""
    frame: pd.DataFrame = pd.read_csv(place)
    if not frame.index.equals(pd.RangeIndex(len(frame))):  # pandas would name the columns from the right
        raise ValueError("its rows have more fields than its first line has names; give each column a name")
    names = pd.read_csv(place, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    if names[names != ""].duplicated().any() and len(names) == len(frame.columns):
        frame.columns = pd.Index(names)
    return frame


def queried(query: str, url_env: str) -> pd.DataFrame:
    """The rows of an SQL query to the database whose SQLAlchemy URL is in the environment variable `url_env`.

    The URL may hold a password: neither is ever shown. Exits with 1 and one line when something is wrong.
    """
    import sqlalchemy
    from sqlalchemy import exc

    if not (url := os.environ.get(url_env, "")):
        sys.exit(f"error: --url-env {url_env}: this environment variable is empty or not set; it holds the database's URL")
    try:
        engine = sqlalchemy.create_engine(url)
    except (exc.SQLAlchemyError, ImportError, ValueError) as error:
        sys.exit(f"error: --url-env {url_env}: no database can be opened with its value ({type(error).__name__})")
    try:
        with engine.connect() as connection:
            return pd.read_sql_query(query, connection)
    except (exc.SQLAlchemyError, pd.errors.DatabaseError) as error:
        cause = error.__cause__ if isinstance(error, pd.errors.DatabaseError) else error
        said = str(getattr(cause, "orig", None) or type(cause).__name__).splitlines()[0]
        for secret in (url, engine.url.password):
            said = said.replace(str(secret), "***") if secret else said
        sys.exit(f"error: --query: {said}")
    finally:
        engine.dispose()
