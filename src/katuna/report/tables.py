"""A run as rows and columns, and as files for other programs: csv, json, parquet, an Optuna storage. Only here is pandas imported."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from katuna.manifest.experiment import Experiment, Parameter
from katuna.metric_line import number
from katuna.search.trials import Search, Trial

if TYPE_CHECKING:
    import pandas as pd


def to_dataframe(experiment: Experiment, search: Search) -> pd.DataFrame:
    """One row a trial, in the order of asking; the columns and their types are the same for an empty search.

    number          int64, from 0
    name, state     str; the state in Katib's words (`Succeeded`, `MetricsUnavailable`, ...)
    objective       float64; the value that the search compares, missing for a trial that came to none
    objective_type, objective_strategy    str; the same in each row: minimize or maximize, and which of a trial's reports is the
                    value (min, max or latest). `--warm-start` looks at them
    params.NAME     a parameter: float64 (double), Int64 (int), str (categorical), and for a discrete one the narrowest of the
                    three that all its values fit in
    metrics.NAME    float64; a metric by its strategy (min, max or latest), also of failed and running trials
    created, started, ended    datetime64 in UTC
    duration_s      float64; from started to ended
    exit_code       Int64
    reason, message str

    The two prefixes keep a parameter called `name` and a metric called as a parameter apart from the rest.
    """
    import pandas as pd

    rows = list(search.trials.values())
    columns: dict[str, Any] = {
        "number": pd.array([trial.number for trial in rows], dtype="int64"),
        "name": _texts([trial.name for trial in rows]),
        "state": _texts([trial.state.value for trial in rows]),
        "objective": _floats([trial.value(experiment.objective) for trial in rows]),
        "objective_type": _texts([experiment.objective.type.value] * len(rows)),
        "objective_strategy": _texts([experiment.objective.strategy] * len(rows)),
    }
    for parameter in experiment.parameters:
        columns[f"params.{parameter.name}"] = _parameter(parameter, [trial.assignments.get(parameter.name) for trial in rows])
    for metric in experiment.objective.metrics:
        strategy = experiment.objective.strategies.get(metric, experiment.objective.strategy)
        columns[f"metrics.{metric}"] = _floats([number(trial.summary(metric).pick(strategy)) for trial in rows])
    columns["created"] = _times([trial.created_at for trial in rows])
    columns["started"] = _times([trial.started_at for trial in rows])
    columns["ended"] = _times([trial.ended_at for trial in rows])
    columns["duration_s"] = _floats([_duration_s(trial) for trial in rows])
    columns["exit_code"] = pd.array([trial.exit_code for trial in rows], dtype="Int64")
    columns["reason"] = _texts([trial.reason for trial in rows])
    columns["message"] = _texts([trial.remark for trial in rows])
    return pd.DataFrame(columns)


def _texts(values: Sequence[str | None]) -> Any:
    """Unpaired surrogates, which neither Arrow nor UTF-8 can hold, become `?`."""
    import pandas as pd

    return pd.array([None if text is None else text.encode(errors="replace").decode() for text in values], dtype="str")


def _floats(values: list[float | None]) -> Any:
    import numpy as np

    return np.array([np.nan if value is None else value for value in values], dtype="float64")


def _times(seconds: list[float | None]) -> Any:
    import pandas as pd

    return pd.to_datetime(pd.Series(seconds, dtype="float64"), unit="s", utc=True).dt.as_unit("us")


def _duration_s(trial: Trial) -> float | None:
    """To the microsecond: seconds since the epoch hold no more."""
    return None if trial.duration_s is None else round(trial.duration_s, 6)


def _parameter(parameter: Parameter, texts: list[str | None]) -> Any:
    import pandas as pd

    kind = _dtype(parameter)
    if kind == "str":
        return _texts(texts)
    if kind == "float64":
        return _floats([None if text is None else float(text) for text in texts])
    return pd.array([None if text is None else int(text) for text in texts], dtype="Int64")


def _dtype(parameter: Parameter) -> str:
    if parameter.type == "double":
        return "float64"
    if parameter.type == "categorical":
        return "str"
    if parameter.type == "int":
        return "Int64" if all(-(2**63) <= bound < 2**63 for bound in parameter.bounds) else "float64"
    if all(_is_int64(text) for text in parameter.choices):
        return "Int64"
    return "float64" if all(number(text) is not None for text in parameter.choices) else "str"


def _is_int64(text: str) -> bool:
    """Whether `int` reads the text, and into 64 bits."""
    return text.removeprefix("-").isdecimal() and -(2**63) <= int(text) < 2**63


def export(experiment: Experiment, search: Search, format: str, target: Path | BinaryIO) -> None:  # noqa: A002
    """Writes the trials to a file or a binary stream. `format` is one of FORMATS.

    csv      UTF-8 with a heading; times in ISO 8601. A text cell that begins with `=`, `+`, `-`, `@`, a tab or a line
             end, and is not a number, gets an apostrophe before it: spreadsheets would otherwise run it as a formula. Line
             ends within a cell become line feeds.
    json     a list of objects, one a trial; missing values are null, times ISO 8601
    parquet  the data frame with its types
    optuna   an Optuna journal file (JSON lines) with one study, named as the Experiment, of the trials that have ended.
             `optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend("study.log")))` opens it, and so does
             `optuna-dashboard study.log`. Optuna's SQLite storage takes 30 times as long for the same.

    Raises OSError when the file cannot be written.
    """
    content = FORMATS[format](experiment, search)
    if isinstance(target, Path):
        target.write_bytes(content)
    else:
        target.write(content)


def _csv(experiment: Experiment, search: Search) -> bytes:
    frame = _with_time_texts(to_dataframe(experiment, search))
    for column in frame.columns[frame.dtypes == "str"]:
        frame[column] = frame[column].map(_inert, na_action="ignore")
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text.encode()


def _inert(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{lines}" if lines.startswith(_FORMULA) and number(lines) is None else lines


_FORMULA = ("=", "+", "-", "@", "\t", "\n")


def _json(experiment: Experiment, search: Search) -> bytes:
    # Not DataFrame.to_json: it cuts floats to 15 digits.
    frame = _with_time_texts(to_dataframe(experiment, search)).astype(object)
    records = frame.where(frame.notna(), None).to_dict("records")
    return f"{json.dumps(records, indent=2, allow_nan=False)}\n".encode()


def _with_time_texts(frame: pd.DataFrame) -> pd.DataFrame:
    for column in frame.columns[[dtype.kind == "M" for dtype in frame.dtypes]]:
        frame[column] = frame[column].map(lambda time: time.isoformat(timespec="microseconds"), na_action="ignore").astype("str")
    return frame


def _parquet(experiment: Experiment, search: Search) -> bytes:
    buffer = io.BytesIO()
    to_dataframe(experiment, search).to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


def _optuna(experiment: Experiment, search: Search) -> bytes:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from katuna.search.space import study_of

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = study_of(experiment, search.trials.values())
    with tempfile.TemporaryDirectory(prefix="katuna-") as folder:
        file = Path(folder, "study.log")
        storage = JournalStorage(JournalFileBackend(str(file)))
        copy = optuna.create_study(study_name=experiment.name, storage=storage, direction=study.direction)
        copy.set_user_attr("objective", experiment.objective.metric)
        copy.add_trials(study.trials)
        return file.read_bytes()


FORMATS: dict[str, Callable[[Experiment, Search], bytes]] = {
    "csv": _csv,
    "parquet": _parquet,
    "json": _json,
    "optuna": _optuna,
}
"""Format name to its writer; the names are those of the command line."""
