from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from synthetic import make_run, tuning

from katuna.manifest.experiment import Parameter
from katuna.metric_line import Report
from katuna.report.tables import FORMATS, export, to_dataframe
from katuna.search.trials import Asked, Event, Exited, Reported, Started, TrialState, fold


def exported(experiment, search, form: str) -> bytes:
    stream = io.BytesIO()
    export(experiment, search, form, stream)
    return stream.getvalue()


def one_trial(parameters: tuple[Parameter, ...], assignments: dict[str, str], message: str = ""):
    experiment = tuning(parameters)
    events: list[Event] = [Asked(100.0, 0, "t-0", assignments), Started(101.0, 0, 1, {})]
    events += [Reported(102.0, 0, (Report("accuracy", "0.5"), Report("accuracy", "0.25")))]
    events += [Exited(103.5, 0, 0 if not message else 3, "Completed" if not message else "Error", message)]
    return experiment, fold(events, experiment.objective)


def test_every_column_has_its_type_also_without_trials() -> None:
    types = {
        "number": "int64",
        "name": "str",
        "state": "str",
        "objective": "float64",
        "objective_type": "str",
        "objective_strategy": "str",
        "params.lr": "float64",
        "params.momentum": "float64",
        "params.width": "Int64",
        "params.batch": "Int64",
        "params.optimizer": "str",
        "metrics.accuracy": "float64",
        "metrics.loss": "float64",
        "created": "datetime64[us, UTC]",
        "started": "datetime64[us, UTC]",
        "ended": "datetime64[us, UTC]",
        "duration_s": "float64",
        "exit_code": "Int64",
        "reason": "str",
        "message": "str",
    }
    for trials in (0, 30):
        experiment, search, _ = make_run(trials)
        frame = to_dataframe(experiment, search)
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == types
        assert len(frame) == trials


def test_a_row_tells_what_the_trial_did() -> None:
    parameters = (Parameter("lr", "double", "0.1", "1"), Parameter("n", "int", "1", "9"))
    experiment, search = one_trial(parameters, {"lr": "0.30000000000000004", "n": "3"})
    row = to_dataframe(experiment, search).iloc[0]
    assert (row["params.lr"], row["params.n"], row["objective"]) == (0.30000000000000004, 3, 0.5)  # strategy max
    assert (row["duration_s"], row["exit_code"], row["state"]) == (2.5, 0, "Succeeded")
    assert math.isnan(row["metrics.loss"])
    assert row["ended"] == pd.Timestamp(103.5, unit="s", tz="UTC")


def test_a_failed_trial_keeps_what_it_reported_but_has_no_objective() -> None:
    experiment, search = one_trial((Parameter("n", "int", "1", "9"),), {"n": "3"}, message="exit code 3")
    row = to_dataframe(experiment, search).iloc[0]
    assert math.isnan(row["objective"])
    assert (row["metrics.accuracy"], row["exit_code"], row["message"]) == (0.5, 3, "exit code 3")


@pytest.mark.parametrize(
    ("parameter", "text", "dtype", "value"),
    [
        (Parameter("p", "discrete", choices=("1", "2")), "2", "Int64", 2),
        (Parameter("p", "discrete", choices=("0.5", "2")), "2", "float64", 2.0),
        (Parameter("p", "discrete", choices=("small", "2")), "2", "str", "2"),
        (Parameter("p", "categorical", choices=("1", "2")), "2", "str", "2"),
        (Parameter("p", "int", "0", "1" + 18 * "0"), "1" + 18 * "0", "Int64", 10**18),
        (Parameter("p", "int", "1e0", "1e3"), "41", "Int64", 41),
        (Parameter("p", "int", "0", "1" + 30 * "0"), "1" + 30 * "0", "float64", 1e30),
    ],
)
def test_parameter_types(parameter: Parameter, text: str, dtype: str, value: object) -> None:
    column = to_dataframe(*one_trial((parameter,), {"p": text}))["params.p"]
    assert str(column.dtype) == dtype
    assert column[0] == value


def test_a_parameter_may_be_called_like_a_column() -> None:
    parameters = (Parameter("name", "categorical", choices=("a",)), Parameter("accuracy", "double", "0", "1"))
    frame = to_dataframe(*one_trial(parameters, {"name": "a", "accuracy": "0.125"}))
    assert (frame["name"][0], frame["params.name"][0]) == ("t-0", "a")
    assert (frame["params.accuracy"][0], frame["metrics.accuracy"][0]) == (0.125, 0.5)


def test_csv_holds_every_digit_and_every_trial() -> None:
    experiment, search, _ = make_run(30)
    rows = list(csv.DictReader(io.StringIO(exported(experiment, search, "csv").decode())))
    assert [row["name"] for row in rows] == [trial.name for trial in search.trials.values()]
    for row, trial in zip(rows, search.trials.values(), strict=True):
        assert float(row["params.lr"]) == float(trial.assignments["lr"])
        assert row["exit_code"] == str(trial.exit_code)


@pytest.mark.parametrize("payload", ["=HYPERLINK(1)", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "\n=1"])
def test_csv_texts_are_no_formulas(payload: str) -> None:
    parameters = (Parameter("kind", "categorical", choices=(payload, "-0.5")),)
    for kind, expected in ((payload, f"'{payload}"), ("-0.5", "-0.5")):
        experiment, search = one_trial(parameters, {"kind": kind}, message=payload)
        (row,) = csv.DictReader(io.StringIO(exported(experiment, search, "csv").decode(), newline=""))
        assert row["params.kind"] == expected
        assert row["message"] == f"'{payload}"


@pytest.mark.parametrize("message", ["one\rtwo", "one\r\ntwo", "one\ntwo"])
def test_csv_rows_stay_whole(message: str) -> None:
    experiment, search = one_trial((Parameter("n", "int", "1", "9"),), {"n": "1"}, message=message)
    (row,) = csv.DictReader(io.StringIO(exported(experiment, search, "csv").decode(), newline=""))
    assert row["message"] == "one\ntwo"


def test_json_is_a_list_of_records() -> None:
    experiment, search, _ = make_run(30, ended=False)
    search.apply(Asked(5e9, 30, "digits-tpe-waiting", search.trials[0].assignments))
    records = json.loads(exported(experiment, search, "json"))
    assert [record["number"] for record in records] == list(range(31))
    assert records[0]["params.lr"] == float(search.trials[0].assignments["lr"])
    assert records[0]["created"].endswith("+00:00")
    assert {records[30][name] for name in ("objective", "started", "ended", "duration_s", "exit_code")} == {None}


def test_parquet_brings_the_frame_back(tmp_path: Path) -> None:
    experiment, search, _ = make_run(20)
    export(experiment, search, "parquet", tmp_path / "trials.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trials.parquet"), to_dataframe(experiment, search))


def test_optuna_opens_its_export(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    experiment, search, _ = make_run(30)
    file = tmp_path / "study.log"
    export(experiment, search, "optuna", file)
    study = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(file))))
    assert search.best is not None
    assert (study.study_name, study.user_attrs["objective"]) == ("digits-tpe", "accuracy")
    assert study.best_value == search.best.value(experiment.objective)
    assert study.best_trial.user_attrs["name"] == search.best.name
    assert study.best_params["lr"] == float(search.best.assignments["lr"])
    succeeded = [trial for trial in search.trials.values() if trial.state is TrialState.SUCCEEDED]
    assert len(study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))) == len(succeeded) < len(study.trials) == 30
    assert capfd.readouterr() == ("", "")
    for line in file.read_text().splitlines():
        assert isinstance(json.loads(line), dict)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("trials", [0, 1])
def test_a_young_search_exports_too(form: str, trials: int) -> None:
    experiment, search, _ = make_run(trials, ended=False)
    assert exported(experiment, search, form)


@pytest.mark.parametrize("form", FORMATS)
def test_texts_that_no_encoding_holds(form: str) -> None:
    experiment, search = one_trial((Parameter("n", "int", "1", "9"),), {"n": "1"}, message="bad \ud800 byte\x00")
    assert exported(experiment, search, form)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    experiment, search, _ = make_run(1)
    with pytest.raises(FileNotFoundError):
        export(experiment, search, "csv", tmp_path / "absent" / "trials.csv")
