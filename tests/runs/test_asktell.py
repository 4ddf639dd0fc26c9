"""katuna.Search: the same points as `tune`, nothing launched, mistakes named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import katuna
from factories import LR, OPTIMIZER, WIDTH, make_experiment
from katuna.errors import InputRefused, SearchExhausted, SpecRefused, TellFirst
from katuna.manifest.experiment import Parameter
from katuna.runs.asktell import typed
from katuna.runs.plan import RunOptions
from katuna.search.trials import TrialState
from searches import write_experiment

ROOT = Path(__file__).parents[2]

COARSE = (Parameter("width", "int", "1", "2"), OPTIMIZER)


@pytest.mark.parametrize("algorithm", ["random", "tpe", "sobol", "gp"])
def test_the_points_are_those_of_a_sequential_search(tmp_path: Path, algorithm: str) -> None:
    path = write_experiment(tmp_path, maxTrialCount=7, parallelTrialCount=1)
    run = katuna.tune(path, options=RunOptions(algorithm=algorithm), seed=11)
    search = katuna.Search(path, algorithm=algorithm, seed=11)
    for trial in run.trials:
        point = search.ask()
        assert (point.number, point.name, point.assignments) == (trial.number, trial.name, trial.assignments)
        value = trial.value(run.experiment.objective)
        assert value is not None
        search.tell(point, value)
    assert search.best is not None
    assert run.best is not None
    assert search.best.assignments == run.best.assignments


def test_nothing_is_written_or_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_experiment(tmp_path, command=["no-such-command", "${trialParameters.lr}"])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    search = katuna.Search(path)
    search.tell(search.ask(), 0.5)
    assert list(Path().iterdir()) == []
    assert not (tmp_path / "runs").exists()


def test_values_are_typed_and_texts_katibs() -> None:
    point = katuna.Search(make_experiment(), seed=1).ask()
    lr, width, optimizer = point.values.values()
    assert (type(lr), type(width), optimizer) == (float, int, point.assignments["optimizer"])
    assert (repr(lr), str(width)) == (point.assignments["lr"], point.assignments["width"])
    mixed = Parameter("mixed", "discrete", choices=("16", "-2", "1e-3", "auto"))
    assert [typed(mixed, text) for text in mixed.choices] == [16, -2, 0.001, "auto"]


def test_telling() -> None:
    search = katuna.Search(make_experiment(), seed=1)
    first, second, third, fourth = (search.ask() for _ in range(4))
    search.tell(second.number, 0.4)
    search.tell(first, {"accuracy": 0.6, "loss": 1.0})
    search.tell(third, failed=True)
    search.tell(fourth, float("nan"))
    assert [trial.state for trial in search.trials] == [
        *(TrialState.SUCCEEDED, TrialState.SUCCEEDED, TrialState.FAILED, TrialState.METRICS_UNAVAILABLE),
    ]
    assert search.best is not None
    assert search.best.number == first.number
    assert search.best.summary("loss").latest == "1.0"


def test_mistakes_are_named_and_change_nothing() -> None:
    search = katuna.Search(make_experiment(), seed=1)
    point = search.ask()
    with pytest.raises(InputRefused, match="nobody has asked for trial 7; open trials: 0"):
        search.tell(7, 0.5)
    with pytest.raises(InputRefused, match="no value for accuracy, the objective; metrics given: loss"):
        search.tell(point, {"loss": 0.5})
    for wrong in ({}, {"value": 0.5, "failed": True}):
        with pytest.raises(InputRefused, match="a value or failed=True, one of the two"):
            search.tell(point, **wrong)
    search.tell(point, 0.5)
    with pytest.raises(InputRefused, match=r"trial 0 has been told already \(Succeeded\)"):
        search.tell(point, 0.9)
    assert search.best is not None
    assert search.best.value(search.experiment.objective) == 0.5


@pytest.mark.parametrize("value", ["abc", "0.5", True, {"accuracy": None}, {"accuracy": 0.5, "loss": "low"}, [0.5], b"1"])
def test_what_is_no_number_is_refused_and_changes_nothing(value: Any) -> None:
    search = katuna.Search(make_experiment(), seed=1)
    point = search.ask()
    with pytest.raises(InputRefused, match="give a number"):
        search.tell(point, value)
    search.tell(point, 0.5)


@pytest.mark.parametrize("value", ["x", None, True])
def test_a_known_result_is_a_number_too(value: Any) -> None:
    with pytest.raises(InputRefused, match="learn: accuracy cannot be"):
        katuna.Search(make_experiment(), seed=1).learn({"lr": "0.01", "width": 16, "optimizer": "adam"}, value)


@pytest.mark.parametrize(
    "options", [{"seed": seed} for seed in ("x", 1.5, -1, True)] + [{"settings": {"n": None}}, {"algorithm": 3}]
)
def test_options_of_another_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputRefused):
        katuna.Search(make_experiment(), **options)


@pytest.mark.parametrize("experiment", [123, None])
def test_what_is_no_experiment_is_refused(experiment: Any) -> None:
    with pytest.raises(InputRefused, match="no file of an Experiment"):
        katuna.Search(experiment)


def test_a_point_of_another_search_is_refused() -> None:
    one, other = (katuna.Search(make_experiment(), seed=seed) for seed in (1, 2))
    mine, foreign = one.ask(), other.ask()
    with pytest.raises(InputRefused, match=f"{foreign.name} is a point of another search; trial 0 of this one is {mine.name}"):
        one.tell(foreign, 0.5)
    one.tell(mine, 0.5)
    for wrong in ("0", None, True, [0]):
        with pytest.raises(InputRefused, match="is no trial"):
            one.tell(wrong, 0.5)  # type: ignore[arg-type]


def test_learning() -> None:
    def points(known: bool) -> list[dict[str, str]]:
        search = katuna.Search(make_experiment(), algorithm="tpe", seed=5)
        if known:
            for place in range(12):
                search.learn({"lr": 1e-4 * (1 + place), "width": 16, "optimizer": "adam"}, 1 - place / 12)
        found = []
        for _ in range(4):
            point = search.ask()
            search.tell(point, 0.5)
            found.append(dict(point.assignments))
        return found

    assert points(known=True) != points(known=False)
    assert points(known=True) == points(known=True)
    search = katuna.Search(make_experiment(), seed=1)
    good = {"lr": "0.01", "width": 16, "optimizer": "adam"}
    for wrong, expected in (
        ({"lr": 1}, "lr cannot be '1'"),
        ({"width": 9}, "width cannot be '9'"),
        ({"lrr": 1}, "did you mean lr"),
    ):
        with pytest.raises(InputRefused, match=expected):
            search.learn({**good, **wrong}, 0.5)
    with pytest.raises(InputRefused, match="no value for width"):
        search.learn({"lr": 0.01, "optimizer": "adam"}, 0.5)
    with pytest.raises(InputRefused, match="no finite number"):
        search.learn(good, float("nan"))
    search.learn(good, 0.5)
    assert search.best is None
    search.ask()
    with pytest.raises(InputRefused, match="only before the first ask"):
        search.learn(good, 0.5)


def test_an_exhausted_space_says_so() -> None:
    search = katuna.Search(make_experiment(parameters=COARSE, algorithm="grid"), seed=1)
    points = [tuple(search.ask().assignments.values()) for _ in range(4)]
    assert len(set(points)) == 4
    for _ in range(2):
        with pytest.raises(SearchExhausted, match=r"every point of the space was asked for \(4 points\)"):
            search.ask()
    search.tell(3, 0.5)


def test_an_algorithm_that_has_to_wait_says_for_what() -> None:
    settings = {"resource_name": "width", "r_l": "9", "eta": "3"}
    space = (LR, Parameter("width", "int", "1", "9"))
    search = katuna.Search(make_experiment(parameters=space, algorithm="hyperband", settings=settings, parallel_trials=9), seed=1)
    opened = [search.ask() for _ in range(9)]
    with pytest.raises(TellFirst, match="hyperband needs results before its next point: tell 0, 1, 2") as caught:
        search.ask()
    assert caught.value.numbers == tuple(range(9))
    for point in opened:
        search.tell(point, point.values["lr"])
    best = max(opened, key=lambda point: point.values["lr"])
    following = [search.ask() for _ in range(3)]
    assert best.values["lr"] in [point.values["lr"] for point in following]


def test_bad_input_is_refused_as_tune_does(tmp_path: Path) -> None:
    with pytest.raises(SpecRefused):
        katuna.Search(write_experiment(tmp_path, maxTrialCount="many"))
    with pytest.raises(InputRefused, match="did you mean tpe"):
        katuna.Search(make_experiment(parameters=(LR, WIDTH)), algorithm="tppe")


def test_the_documentation_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "asktell.md").read_text(), re.DOTALL)
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{'lr': ")
    assert "needs results before its next point" in done.stdout


def test_importing_katuna_stays_cheap() -> None:
    code = "import sys, katuna; assert not [name for name in sys.modules if name.startswith('katuna.')]; katuna.Search"
    subprocess.run([sys.executable, "-c", code], check=True)
