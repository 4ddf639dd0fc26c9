from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from random import Random

import pytest
from synthetic import make_run, tuning

from factories import a_life, make_experiment, make_objective, opened
from katuna.manifest.experiment import Parameter
from katuna.metric_line import Report
from katuna.report import figures as subject
from katuna.report.figures import Figure, figures, label, leading, learning_curves
from katuna.search.trials import Asked, Event, Exited, Opened, Reported, Resumed, Started, fold

TITLES = [
    "Optimisation history",
    "Parallel coordinates",
    "Parameter importance",
    "Learning curves: accuracy",
    "Learning curves: loss",
]


def plotted(drawn: Sequence[Figure]) -> dict[str, dict]:
    """The figures that have a plot, by title; none of them may hold NaN or infinity, which JSON does not know."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return {figure.title: json.loads(figure.plot, parse_constant=refuse) for figure in drawn if figure.plot}


def nth_value(parameter: Parameter, number: int) -> str:
    if math.isinf(parameter.size):
        return parameter.text(parameter.bounds[0] + number / 1e3)
    return parameter.on_grid(number % int(parameter.size))


def with_values(values: Sequence[str | None], parameters: tuple[Parameter, ...] | None = None):
    """A search whose trials ended with these objective values; None is a crash."""
    experiment = tuning(parameters) if parameters else tuning()
    events: list[Event] = [Opened(0, experiment.name, 1, "", {}, {})]
    for number, value in enumerate(values):
        assignments = {one.name: nth_value(one, number) for one in experiment.parameters}
        events += [Asked(number, number, f"t-{number}", assignments)]
        events += [Started(number, number, 1, {})]
        if value is not None:
            events += [Reported(number + 0.5, number, (Report("accuracy", value),))]
        events += [Exited(number + 0.9, number, 0 if value is not None else 1, "Completed")]
    return experiment, fold(events, experiment.objective), events


def test_a_usual_search_has_every_plot() -> None:
    plots = plotted(figures(*make_run(40)))
    assert list(plots) == TITLES
    history, best = plots["Optimisation history"]["data"][:2]
    assert len(history["x"]) == len(history["text"])
    assert best["y"] == sorted(best["y"])


def test_history_counts_trials_as_the_table_does_while_some_still_run() -> None:
    experiment, search, events = make_run(6, ended=False)
    events = [event for event in events if not (isinstance(event, Exited) and event.number == 2)]
    search = fold(events, experiment.objective)
    history = plotted(figures(experiment, search, events))["Optimisation history"]["data"][0]
    assert history["x"] == [0, 1, 3, 4, 5]
    assert history["text"] == [search.trials[number].name for number in history["x"]]


def test_nothing_is_drawn_without_trials() -> None:
    drawn = figures(*make_run(0, ended=False))
    assert [figure.title for figure in drawn] == TITLES
    assert plotted(drawn) == {}
    assert all(figure.caption for figure in drawn)


def test_one_trial_is_enough_for_all_but_importance() -> None:
    assert set(TITLES) - set(plotted(figures(*with_values(["0.5"])))) == {"Parameter importance", "Learning curves: loss"}


def test_a_search_that_only_failed_says_so() -> None:
    assert plotted(figures(*with_values([None] * 8))) == {}


def test_failures_before_the_first_success_leave_a_gap_and_no_infinity() -> None:
    best = plotted(figures(*with_values([None, None, "0.5", "0.4"])))["Optimisation history"]["data"][1]
    assert best["y"] == [None, None, 0.5, 0.5]


@pytest.mark.parametrize(
    ("values", "parameters", "why"),
    [
        (["0.5"] * 4, None, "at least 5 trials"),
        (["0.5"] * 20, None, "share one objective value"),
        (["0.9"] + ["0.5"] * 19, None, "share one objective value"),
        ([f"0.{n}" for n in range(10, 30)], (Parameter("width", "int", "16", "256", step="16"),), "Only one parameter"),
        (
            [f"0.{n}" for n in range(10, 30)],
            (Parameter("width", "int", "16", "256", step="16"), Parameter("optimizer", "categorical", choices=("sgd",))),
            "Only one parameter",
        ),
    ],
)
def test_importance_says_why_it_cannot_be_told(values: list[str], parameters: tuple[Parameter, ...] | None, why: str) -> None:
    experiment, search, events = with_values(values, parameters)
    (importance,) = [figure for figure in figures(experiment, search, events) if figure.title == "Parameter importance"]
    assert importance.plot == ""
    assert why in importance.caption


def test_importance_finds_the_parameter_that_mattered() -> None:
    bars = plotted(figures(*make_run(60)))["Parameter importance"]["data"][0]
    assert dict(zip(bars["y"], bars["x"], strict=True))["lr"] == max(bars["x"])
    assert len(bars["y"]) == 5


def test_hundreds_of_trials_take_seconds() -> None:
    run = make_run(400)
    figures(*make_run(10))  # imports
    began = time.process_time()
    plots = plotted(figures(*run))
    assert time.process_time() - began < 20
    assert len(plots["Parallel coordinates"]["data"]) > 300


def test_curves_start_anew_with_each_attempt() -> None:
    def report(number: int, value: str) -> Reported:
        return Reported(0, number, (Report("accuracy", value), Report("loss", "9")))

    events: list[Event] = [
        Started(0, 0, 1, {}),
        report(0, "0.1"),
        Started(0, 0, 2, {}),
        report(0, "0.2"),
        report(0, "nan"),
        report(0, "0.3"),
    ]
    events += [Started(0, 1, 1, {}), report(1, "0.5"), Resumed(0, (1,)), Started(0, 2, 1, {}), report(2, "inf")]
    assert learning_curves(events, "accuracy") == {0: [(1, 0.2), (3, 0.3)]}


def test_long_curves_are_thinned_and_keep_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_CURVE_POINTS", 100)
    run = make_run(10, epochs=101)
    drawn = [figure for figure in figures(*run) if figure.title == "Learning curves: loss"]
    lines = plotted(drawn)["Learning curves: loss"]["data"]
    assert sum(len(line["x"]) for line in lines) < 150
    longest = max(lines, key=lambda line: len(line["x"]))["x"]
    assert (longest[0], longest[-1]) == (1, 101)
    assert "th report" in drawn[0].caption


def test_the_best_curve_lies_on_top() -> None:
    experiment, search, events = make_run(12)
    last = plotted(figures(experiment, search, events))["Learning curves: accuracy"]["data"][-1]
    assert search.best is not None
    assert last["name"] == search.best.name
    assert last["line"]["color"] == subject.ACCENT


def test_what_plotly_would_read_as_markup_is_escaped() -> None:
    evil = '<a href="javascript:alert(1)">x</a>'
    parameters = (Parameter(evil, "double", "0", "1"), Parameter("kind", "categorical", choices=(evil, "<b>b</b>")))
    for figure in figures(*make_run(30, parameters=parameters, metric=f"acc{evil}")):
        plot = json.dumps(json.loads(figure.plot)) if figure.plot else ""
        assert figure.plot
        assert "<a" not in plot
        assert "<b>" not in plot


def test_labels() -> None:
    assert label("a<b & c") == "a&lt;b &amp; c"


def test_optuna_stays_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    figures(*make_run(8))
    figures(*make_run(0))
    assert capfd.readouterr() == ("", "")


def test_of_hundreds_of_parameters_and_metrics_the_leading_ones_are_drawn() -> None:
    """In seconds, and the page says how many are left out."""
    parameters = (
        *(Parameter(f"p{n}", "double", "0", "1") for n in range(300)),
        Parameter("kind", "categorical", choices=("a", "b")),
    )
    metrics = tuple(f"m{n}" for n in range(2000))
    experiment = make_experiment(parameters=parameters, objective=make_objective(additional=metrics))
    draws, events = Random(1), [opened()]
    for number in range(25):
        point = {each.name: repr(draws.random()) if each.is_numeric else draws.choice("ab") for each in parameters}
        value = float(point["p7"]) + (2 if point["kind"] == "a" else 0)
        *begin, end = a_life(number, point, value)
        events += [*begin, Reported(2.0, number, tuple(Report(name, "1") for name in metrics)), end]
    search = fold(events, experiment.objective)
    shown = [parameter.name for parameter in leading(experiment, search)]
    assert (len(shown), {"p7", "kind"} <= set(shown)) == (30, True)
    began = time.process_time()
    drawn = figures(experiment, search, events)
    assert time.process_time() - began < 30
    assert len(drawn) == 3 + 20 + 1
    assert all("Of 301 parameters the 30 that go most with the objective" in each.caption for each in drawn[1:3])
    assert "1981 more metrics" in drawn[-1].caption
