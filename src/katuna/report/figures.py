"""The plots of a run: Optuna's own where it has one, learning curves of ours; which ones make sense for what was found."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from katuna.manifest.experiment import Experiment, Objective, ObjectiveType, Parameter
from katuna.metric_line import number
from katuna.search.trials import Event, Reported, Resumed, Search, Started, Trial
from katuna.text import printable

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go

MAX_CURVE_POINTS = 60_000
"""All learning curves of one metric together; beyond it every n-th report is drawn (a browser draws this many in a second)."""

MOST_PARAMETERS = 30
"""More than these are not drawn: a plot of hundreds of axes tells nobody anything, and importances take minutes."""

MOST_METRICS = 20
"""So many learning curves are drawn, those of the objective first."""

IMPORTANCE_TRIALS = 5
"""Below this many completed trials an importance is noise."""

_PED_ANOVA_QUANTILE = 0.1
"""Share of the best trials that Optuna's default evaluator sets against all trials."""

ACCENT, MUTED = "#d9480f", "#4c78a8"


@dataclass(frozen=True)
class Figure:
    """A plot ready for the page: plotly JSON, or, where there is nothing to draw, the sentence that says why (`plot` is "")."""

    title: str
    caption: str
    plot: str = ""


def figures(experiment: Experiment, search: Search, events: Iterable[Event]) -> list[Figure]:
    """The page's plots in their order. Never raises for a search that is too young, too uniform or all failed."""
    import optuna

    from katuna.search.space import study_of

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    metric = experiment.objective.metric
    shown = leading(experiment, search)
    if left := len(experiment.parameters) - len(shown):
        note = f" Of {len(experiment.parameters)} parameters the {len(shown)} that go most with the objective are drawn, {left} are not."
        experiment = replace(experiment, parameters=shown)
    else:
        note = ""
    study = study_of(_for_plotly(experiment), [_trial_for_plotly(trial, shown) for trial in search.trials.values()])
    parallel, importance = _parallel(study, metric), _importance(study, experiment)
    return [
        _history(study, metric),
        replace(parallel, caption=parallel.caption + note),
        replace(importance, caption=importance.caption + note),
        *_learning_curves(experiment, search, list(events)),
    ]


def label(text: str) -> str:
    """Text for plotly, which reads a subset of HTML in every label."""
    return html.escape(printable(text), quote=False)


def _for_plotly(experiment: Experiment) -> Experiment:
    objective = experiment.objective
    parameters = tuple(
        replace(parameter, name=label(parameter.name), choices=tuple(map(label, parameter.choices)))
        for parameter in experiment.parameters
    )
    safe = replace(objective, metric=label(objective.metric), strategies={label(objective.metric): objective.strategy})
    return replace(experiment, objective=safe, parameters=parameters)


def leading(experiment: Experiment, search: Search) -> tuple[Parameter, ...]:
    """The parameters that are drawn, in the file's order: all, or the MOST_PARAMETERS that explain most of the objective by
    themselves, by rank of a number and by group of a list."""
    import numpy as np

    parameters, objective = experiment.parameters, experiment.objective
    if len(parameters) <= MOST_PARAMETERS:
        return parameters
    valued = [(trial.assignments, value) for trial in search.trials.values() if (value := trial.value(objective)) is not None]
    order = np.argsort(np.argsort([value for _, value in valued], kind="stable"), kind="stable").astype(float)

    def share(parameter: Parameter) -> float:
        texts = [assignments.get(parameter.name, "") for assignments, _ in valued]
        if len(set(texts)) < 2:
            return 0.0
        if parameter.is_numeric:
            places = np.argsort(np.argsort([float(text or "nan") for text in texts], kind="stable"), kind="stable")
            return float(np.corrcoef(places, order)[0, 1] ** 2)
        groups = [order[[text == each for text in texts]] for each in set(texts)]
        return float(sum(len(group) * (group.mean() - order.mean()) ** 2 for group in groups) / (len(order) * order.var()))

    best = sorted(parameters, key=share, reverse=True)[:MOST_PARAMETERS]
    return tuple(parameter for parameter in parameters if parameter in best)


def _trial_for_plotly(trial: Trial, parameters: Sequence[Parameter]) -> Trial:
    assignments = {label(each.name): label(trial.assignments[each.name]) for each in parameters if each.name in trial.assignments}
    summaries = {label(name): summary for name, summary in trial.summaries.items()}
    return replace(trial, name=label(trial.name), assignments=assignments, summaries=summaries)


def _completed(study: optuna.study.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))  # type: ignore[no-any-return]


def _history(study: optuna.study.Study, metric: str) -> Figure:
    from optuna.visualization import plot_optimization_history

    title = "Optimisation history"
    if not _completed(study):
        return Figure(title, "No trial has come to an objective value yet.")
    figure = plot_optimization_history(study, target_name=label(metric))
    numbers = [trial.user_attrs["number"] for trial in study.trials]
    names = [trial.user_attrs["name"] for trial in study.trials]
    values, best = figure.data[0], figure.data[1]
    values.update(text=[names[index] for index in values.x], hovertemplate="%{text}<br>trial %{x}: %{y}<extra></extra>")
    values.marker.update(color=MUTED, size=8)
    best.update(
        name="best so far", line={"color": ACCENT, "width": 2, "shape": "hv"}, hovertemplate="best so far: %{y}<extra></extra>"
    )
    for trace in (values, best):
        trace.x = [numbers[index] for index in trace.x]
    figure.update_xaxes(title="Trial", tickformat="d")
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"})
    return Figure(title, "The objective value of each trial, and the best so far.", _json(figure))


def _parallel(study: optuna.study.Study, metric: str) -> Figure:
    from optuna.visualization import plot_parallel_coordinate

    title = "Parallel coordinates"
    if not _completed(study):
        return Figure(title, "No trial has come to an objective value yet.")
    figure = plot_parallel_coordinate(study, target_name=label(metric))
    figure.update_annotations(font={"color": None, "size": 11}, bgcolor="rgba(255,255,255,0.75)")
    figure.update_traces(line_width=2, opacity=0.7, selector={"mode": "lines"})
    # Optuna gives the first label no room on its left.
    axes = len(figure.layout.xaxis.tickvals)
    figure.update_xaxes(range=(-0.08 * axes, axes - 1 + 0.04 * axes), showline=False)
    return Figure(
        title, f"One line a trial, from its {metric} through its parameters; the stronger its colour, the better.", _json(figure)
    )


def _importance(study: optuna.study.Study, experiment: Experiment) -> Figure:
    from optuna.visualization import plot_param_importances

    title = "Parameter importance"
    searched = [parameter.name for parameter in experiment.parameters if parameter.size > 1]
    obstacle = _importance_obstacle(searched, [trial.value for trial in _completed(study)], experiment.objective)
    if obstacle:
        return Figure(title, obstacle)
    figure = plot_param_importances(study, params=[label(name) for name in searched])
    figure.update_traces(marker_color=MUTED)
    figure.update_xaxes(title="Share of importance")
    figure.update_yaxes(title="", ticksuffix="  ")
    figure.update_layout(height=120 + 34 * len(searched))
    caption = "Which parameters set the best tenth of the trials apart from the rest (PED-ANOVA); a hint, not a proof."
    return Figure(title, caption, _json(figure))


def _importance_obstacle(searched: Sequence[str], values: Sequence[float], objective: Objective) -> str:
    """Why importances cannot be told, or ""; the conditions under which Optuna's evaluator warns and answers with equal shares."""
    if len(searched) < 2:
        return "Only one parameter takes different values, so there is nothing to compare."
    if len(values) < IMPORTANCE_TRIALS:
        return f"Importance needs at least {IMPORTANCE_TRIALS} trials with an objective value; there are {len(values)}."
    best_first = sorted(values, reverse=objective.type is ObjectiveType.MAXIMIZE)
    cutoff = best_first[math.ceil(_PED_ANOVA_QUANTILE * len(values)) - 1]
    if cutoff == best_first[-1]:
        return "Too many trials share one objective value: no parameter can be told to have made a difference."
    return ""


def _learning_curves(experiment: Experiment, search: Search, events: Sequence[Event]) -> list[Figure]:
    best = search.best
    found = []
    metrics = experiment.objective.metrics
    for metric in metrics[:MOST_METRICS]:
        curves = learning_curves(events, metric)
        title = f"Learning curves: {metric}"
        if curves:
            names = {number: search.trials[number].name for number in curves}
            caption = "One line a trial, value by value as reported; the best trial in orange."
            found.append(Figure(title, *_drawn_curves(curves, names, metric, best.number if best else None, caption)))
        else:
            found.append(Figure(title, f"No trial has reported {metric} yet."))
    if left := len(metrics[MOST_METRICS:]):
        found.append(
            Figure("More learning curves", f"{left} more metrics are not drawn; the journal and `katuna export` have them.")
        )
    return found


Curve = list[tuple[int, float]]
"""(report, value): reports count from 1, and those that are not numbers are left out."""


def learning_curves(events: Iterable[Event], metric: str) -> dict[int, Curve]:
    """Trial number to what its last attempt reported of a metric; trials that reported none are absent."""
    reports: dict[int, list[float | None]] = {}
    for event in events:
        match event:
            case Started():
                reports[event.number] = []
            case Resumed():
                for restarted in event.restarted:
                    reports[restarted] = []
            case Reported():
                values = [number(report.value) for report in event.reports if report.metric == metric]
                reports.setdefault(event.number, []).extend(values)
            case _:
                pass
    curves = {
        trial: [(index, value) for index, value in enumerate(values, start=1) if value is not None]
        for trial, values in sorted(reports.items())
    }
    return {trial: curve for trial, curve in curves.items() if curve}


def _drawn_curves(
    curves: dict[int, Curve], names: dict[int, str], metric: str, best: int | None, caption: str
) -> tuple[str, str]:
    """(caption, plot); the best trial is drawn last, on top."""
    import plotly.graph_objects as go

    stride = math.ceil(sum(map(len, curves.values())) / MAX_CURVE_POINTS)
    if stride > 1:
        caption += f" Every {stride}th report is drawn."
    figure = go.Figure()
    for trial in sorted(curves, key=lambda trial: trial == best):
        points = curves[trial] if stride == 1 else [*curves[trial][:-1:stride], curves[trial][-1]]
        figure.add_scatter(
            x=[report for report, _ in points],
            y=[value for _, value in points],
            name=label(names[trial]),
            mode="lines" if len(points) > 1 else "markers",
            line={"color": ACCENT if trial == best else MUTED, "width": 3 if trial == best else 1.5},
            opacity=1 if trial == best else 0.45,
            hovertemplate="%{fullData.name}<br>report %{x}: %{y}<extra></extra>",
        )
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(title="Report", tickformat="d")
    figure.update_yaxes(title=label(metric))
    return caption, _json(figure)


def _json(figure: go.Figure) -> str:
    """Plotly JSON in the page's one style. The page turns colours round in dark mode, so these are for light."""
    grid: dict[str, Any] = {"gridcolor": "rgba(90,100,115,0.18)", "zeroline": False, "automargin": True}
    figure.update_layout(
        template=None,
        title=None,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 56, "r": 24, "t": 32, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1f2933"},
        hoverlabel={"namelength": -1},
    )
    figure.update_xaxes(**grid)
    figure.update_yaxes(title_standoff=16, **grid)
    return str(figure.to_json())
