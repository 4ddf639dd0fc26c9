"""A run as one HTML file that needs nothing else and asks the network for nothing; the only module that writes HTML."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable
from importlib.resources import files

from katuna.manifest.experiment import Experiment
from katuna.metric_line import number
from katuna.report.figures import Figure, figures
from katuna.report.katib_status import timestamp
from katuna.search.trials import Event, Search, Trial, TrialState
from katuna.text import duration, printable

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<header>
{header}
</header>
<main>
{main}
</main>
<footer><p>{footer}</p></footer>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def report_html(experiment: Experiment, search: Search, events: Iterable[Event]) -> str:
    """The page. `search` is the fold of `events`; a search that still runs is shown as far as it has come.

    Whatever trials and files say is escaped; should an escape ever be missed, the page's own policy lets no script run but the
    page's two, by their hashes, and nothing be fetched.
    """
    from plotly.offline import get_plotlyjs

    plotly, script = get_plotlyjs(), _resource("page.js")
    drawn = figures(experiment, search, events)
    return _PAGE.format(
        policy=_policy(plotly, script),
        title=f"{_text(experiment.name)} · katuna",
        css=_resource("page.css"),
        header=_header(experiment, search),
        main="\n".join([_best(experiment, search), *map(figure_section, range(len(drawn)), drawn), _trials(experiment, search)]),
        footer=_footer(search),
        plotly=plotly,
        script=script,
    )


def _resource(name: str) -> str:
    return files("katuna.report").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Styles stay open: plotly sets them on elements, and no style can fetch anything here."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _text(value: str) -> str:
    return html.escape(printable(value))


def _header(experiment: Experiment, search: Search) -> str:
    objective = experiment.objective
    finished = search.finished
    goal = "" if objective.goal is None else f", goal {objective.goal:g}"
    limit = "" if experiment.max_trials is None else f" of {experiment.max_trials}"
    facts = {
        "Objective": f"{objective.type.value} {objective.metric} ({objective.strategy}{goal})",
        "Algorithm": experiment.algorithm,
        "Trials finished": f"{finished}{limit}",
    }
    if experiment.early_stopping is not None:
        facts["Early stopping"] = experiment.early_stopping.algorithm
    if search.known:
        facts["Results known before"] = str(len(search.known))
    for state, word in _LESS_GOOD_ENDS.items():
        if search.counts[state]:
            facts[word] = str(search.counts[state])
    if search.opened is not None:
        facts["Started"] = timestamp(search.opened.at).replace("T", " ").replace("Z", " UTC")
        if search.ended is not None:
            facts["Took"] = duration(search.ended.at - search.opened.at)
    return f"<h1>{_text(experiment.name)}</h1>\n{_outcome(search)}\n{_facts(facts)}"


_LESS_GOOD_ENDS = {
    TrialState.FAILED: "Trials failed",
    TrialState.METRICS_UNAVAILABLE: "Trials without metrics",
    TrialState.KILLED: "Trials stopped",
    TrialState.EARLY_STOPPED: "Trials stopped early",
}


def _outcome(search: Search) -> str:
    if search.ended is None:
        return '<p><span class="outcome Running">Not ended</span> when this page was written.</p>'
    word = "Succeeded" if search.ended.succeeded else "Failed"
    return f'<p><span class="outcome {word}">{word}</span>: {_text(search.ended.message)}</p>'


def _facts(facts: dict[str, str]) -> str:
    items = "\n".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items())
    return f"<dl>\n{items}\n</dl>"


def _best(experiment: Experiment, search: Search) -> str:
    best = search.best
    if best is None:
        return "<section>\n<h2>Best trial</h2>\n<p>No trial has come to an objective value yet.</p>\n</section>"
    facts = {experiment.objective.metric: _objective_text(experiment, best), **best.assignments}
    name = f"<p class=caption>Trial {best.number}, {_text(best.name)}</p>"
    return f"<section>\n<h2>Best trial</h2>\n{name}\n{_facts(facts)}\n</section>"


def _objective_text(experiment: Experiment, trial: Trial) -> str:
    """As the trial printed it; "" for a trial that the search does not compare."""
    objective = experiment.objective
    return trial.summary(objective.metric).pick(objective.strategy) if trial.value(objective) is not None else ""


def figure_section(index: int, figure: Figure) -> str:
    """One plot with heading and caption; its JSON stands in a script element of its own, which no text in it can end."""
    title, caption = _text(figure.title), _text(figure.caption)
    if not figure.plot:
        return f"<section>\n<h2>{title}</h2>\n<p class=caption>{caption}</p>\n</section>"
    # In a script element only `</script` and `<!--` mean anything, and JSON needs no `<` of its own.
    plot = figure.plot.replace("<", "\\u003c")
    return (
        f"<section>\n<h2>{title}</h2>\n<figure>\n<figcaption class=caption>{caption}</figcaption>\n"
        f'<div class="plot" id="plot-{index}" role="img" aria-label="{title}. {caption}"></div>\n</figure>\n'
        f'<script type="application/json" id="plot-{index}-data">{plot}</script>\n</section>'
    )


def _trials(experiment: Experiment, search: Search) -> str:
    if not search.trials:
        return "<section>\n<h2>Trials</h2>\n<p>No trial has been started yet.</p>\n</section>"
    metric = experiment.objective.metric
    numeric = {parameter.name: parameter.is_numeric for parameter in experiment.parameters}
    columns = [("Trial", True), ("Name", False), ("State", False), (metric, True), *numeric.items()]
    columns += [("Duration", True), ("Reason", False)]
    heads = "".join(
        f'<th scope="col"{_NUMBER if is_number else ""}><button>{_text(name)}</button></th>' for name, is_number in columns
    )
    best = search.best
    rows = "\n".join(_row(experiment, numeric, trial, trial is best) for trial in search.trials.values())
    return (
        '<section class="trials">\n<h2>Trials</h2>\n<p class=caption>A click on a heading sorts by it.</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Trials">\n<table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>\n</section>"
    )


_NUMBER = ' class="number"'


def _row(experiment: Experiment, numeric: dict[str, bool], trial: Trial, best: bool) -> str:
    cells = [
        f"<td{_NUMBER}>{trial.number}</td>",
        f"<td>{_text(trial.name)}</td>",
        f'<td class="{trial.state.value}">{trial.state.value}</td>',
        _value_cell(_objective_text(experiment, trial), is_number=True),
        *(_value_cell(trial.assignments.get(name, ""), is_number=is_number) for name, is_number in numeric.items()),
        _duration_cell(trial),
        f'<td class="text">{_text(_why(trial))}</td>',
    ]
    mark = ' class="best"' if best else ""
    return f"<tr{mark}>{''.join(cells)}</tr>"


def _why(trial: Trial) -> str:
    """The reason, unless it only repeats the state, and what is known beyond it."""
    reason = "" if trial.reason == trial.state.value or trial.state is TrialState.EARLY_STOPPED else trial.reason
    return ": ".join(filter(None, (reason, trial.remark)))


def _value_cell(text: str, *, is_number: bool) -> str:
    """Numbers are cut to six digits for the eye; the whole text stays in the tooltip and sorts."""
    if not is_number:
        return f"<td>{_text(text)}</td>"
    value = number(text)
    shown = text if value is None or len(text) <= 9 else f"{value:.6g}"
    return f'<td{_NUMBER} data-value="{_text(text)}" title="{_text(text)}">{_text(shown)}</td>'


def _duration_cell(trial: Trial) -> str:
    seconds = trial.duration_s
    if seconds is None:
        return f"<td{_NUMBER}></td>"
    return f'<td{_NUMBER} data-value="{seconds:.3f}">{duration(seconds)}</td>'


def _footer(search: Search) -> str:
    versions = search.opened.versions if search.opened is not None else {}
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    return _text(f"Run with {made}." if made else "Made by katuna.")
