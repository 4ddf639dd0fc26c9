"""The page as text: what stands where, and that nothing gets out of its place. How it looks and runs: test_page_in_browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

import pytest
from synthetic import PARAMETERS, make_run, tuning

from katuna.manifest.experiment import EarlyStopping, Parameter
from katuna.metric_line import Report
from katuna.report.figures import Figure
from katuna.report.page import figure_section, report_html
from katuna.search.budget import edited
from katuna.search.trials import (
    EARLY_STOPPED,
    Asked,
    Edited,
    Ended,
    Event,
    Exited,
    Known,
    Opened,
    Reported,
    Started,
    Stopping,
    fold,
)

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Outline(HTMLParser):
    """Elements, texts outside of script and style, and whether every element is closed in its order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif self._open and self._open[-1] != "style" and data.strip():
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def test_the_page_tells_of_early_stopping_known_results_and_an_edited_budget() -> None:
    experiment = tuning(early_stopping=EarlyStopping("median"))
    point = {parameter.name: parameter.text(1.0) if parameter.is_numeric else parameter.choices[0] for parameter in PARAMETERS}
    events: list[Event] = [
        Opened(0.0, experiment.name, 7, "", {}, {}),
        Known(0.0, point, 0.5, "another"),
        Asked(1.0, 0, "digits-tpe-0", point),
        Started(2.0, 0, 1, {}),
        Reported(3.0, 0, (Report("accuracy", "0.25"),)),
        Stopping(4.0, 0, EARLY_STOPPED),
        Exited(5.0, 0, 143, "Error", "stopped"),
        Edited(6.0, {"maxTrialCount": 77}),
    ]
    search = fold(events, experiment.objective)
    text = Outline(report_html(edited(experiment, search), search, events)).text.splitlines()
    facts = dict(itertools.pairwise(text))
    assert facts["Early stopping"] == "median"
    assert facts["Results known before"] == "1"
    assert facts["Trials stopped early"] == "1"
    assert facts["Trials finished"] == "1 of 77"
    assert "EarlyStopped" in text
    assert "0.25" in text
    assert not [line for line in text if "TrialEarlyStopped" in line], "the state says it"


def test_the_page_tells_the_outcome_the_best_trial_and_every_trial() -> None:
    experiment, search, events = make_run(40)
    page = Outline(report_html(experiment, search, events))
    assert search.best is not None
    for expected in ("digits-tpe", "Succeeded", "max trial count has reached", "40 of 40", search.best.name):
        assert expected in page.text
    for trial in search.trials.values():
        assert trial.name in page.texts
    assert len(page.all("tr")) == 41
    assert "exit code 1; last line: RuntimeError" in page.text
    assert "acuracy=0.97" in page.text


def test_a_reader_by_ear_finds_the_way() -> None:
    page = Outline(report_html(*make_run(12)))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
    plots = [attributes for attributes in page.all("div") if attributes.get("class") == "plot"]
    assert len(plots) == 5
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    assert all(heading["scope"] == "col" for heading in page.all("th"))


def test_nothing_is_fetched() -> None:
    page = Outline(report_html(*make_run(12)))
    for tag, attributes in page.elements:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & set(attributes), tag
    assert not page.all("link")
    assert not page.all("iframe")


def test_the_policy_names_the_scripts_that_stand_in_the_page() -> None:
    page = Outline(report_html(*make_run(12)))
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert "unsafe-eval" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    present = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts}
    assert allowed < present
    assert len(allowed) == 2


EVIL = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<!--<script>",
    "' onmouseover='alert(1)",
    "{name} {0} %(x)s ${x}",
]


@pytest.mark.parametrize("evil", EVIL)
def test_no_plot_ends_its_script_element(evil: str) -> None:
    page = Outline(figure_section(0, Figure("title", "caption", json.dumps({"data": evil}))))
    assert [json.loads(script) for script in page.scripts] == [{"data": evil}]
    assert [tag for tag, _ in page.elements].count("script") == 1


@pytest.mark.parametrize("evil", EVIL)
def test_what_trials_and_files_say_stays_text(evil: str) -> None:
    parameters = (Parameter(f"p{evil}", "double", "0", "1"), Parameter("kind", "categorical", choices=(evil, "plain")))
    experiment = tuning(parameters, metric=f"acc{evil}")
    harmless, search, events = make_run(12, parameters=parameters, metric=f"acc{evil}")
    usual = Outline(
        report_html(
            *make_run(12, parameters=(Parameter("p", "double", "0", "1"), Parameter("kind", "categorical", choices=("a", "b"))))
        )
    )
    events = [
        *events,
        Asked(1e9, 12, f"name{evil}", {f"p{evil}": "0.5", "kind": evil}),
        Exited(1e9 + 1, 12, 1, f"Why{evil}", evil),
    ]
    events.append(Ended(2e9, False, "ExperimentFailed", f"because {evil}"))
    page = Outline(report_html(experiment, fold(events, experiment.objective), events))
    for tag in ("script", "img", "a", "b"):
        assert len(page.all(tag)) == len(usual.all(tag)), tag
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    for expected in (f"acc{evil}", f"p{evil}", f"name{evil}", f"Why{evil}: {evil}", f"because {evil}"):
        assert expected in page.text
    assert harmless.objective == experiment.objective
    assert search.trials


def test_control_characters_do_not_reach_the_page() -> None:
    experiment, _, events = make_run(3)
    events += [Asked(1e9, 3, "x", events[1].assignments), Exited(1e9, 3, 1, "Error", "\x1b[31m red \x00 \ud800 \u202e back")]  # type: ignore[union-attr]
    page = report_html(experiment, fold(events, experiment.objective), events)
    assert not set(page) & set("\x1b\x00\u202e")
    page.encode()


@pytest.mark.parametrize(("trials", "ended"), [(0, False), (0, True), (1, False), (1, True)])
def test_young_searches_have_a_page(trials: int, ended: bool) -> None:
    page = Outline(report_html(*make_run(trials, ended=ended)))
    assert ("Succeeded" if ended else "Not ended") in page.text
    assert ("No trial has been started yet." in page.text) == (trials == 0)


def test_a_running_trial_has_no_duration_and_no_objective_yet() -> None:
    experiment, _, events = make_run(2, ended=False)
    events += [Asked(1e9, 2, "still-running", events[1].assignments), Started(1e9, 2, 1, {})]  # type: ignore[union-attr]
    page = report_html(experiment, fold(events, experiment.objective), events)
    (row,) = [line for line in page.splitlines() if "still-running" in line]
    assert '<td class="Running">Running</td><td class="number" data-value="" title=""></td>' in row
    assert '<td class="number"></td><td class="text"></td>' in row


def test_an_empty_journal_has_a_page() -> None:
    experiment = tuning()
    nothing: list[Event] = []
    assert "Not ended" in Outline(report_html(experiment, fold(nothing, experiment.objective), nothing)).text
    assert "<title>digits-tpe" in report_html(experiment, fold([Opened(0, "x", 1, "", {}, {})], experiment.objective), nothing)
