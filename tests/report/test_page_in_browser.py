"""The page where people see it: Debian's chromium, headless, without a network to speak to."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from synthetic import make_run

from katuna.manifest.experiment import Parameter
from katuna.report.page import report_html
from katuna.search.trials import Asked, Ended, Exited, fold

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--no-pings",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=20000",
    "--window-size=1280,2000",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@dataclass(frozen=True)
class Seen:
    dom: str
    console: list[str]
    requests: list[str]


def look(page: str, folder: Path, *flags: str) -> Seen:
    """What chromium makes of the page: the document after its scripts, the console, and every address asked for."""
    file, netlog = folder / "page.html", folder / "net.json"
    file.write_text(page, encoding="utf-8")
    assert CHROMIUM is not None
    argv = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={netlog}",
        *flags,
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    log = json.loads(netlog.read_text())
    # Chromium's own errands, which the flags do not all stop, come from no origin.
    asked = (event.get("params", {}) for event in log["events"])
    urls = {one["url"] for one in asked if one.get("initiator", "not an origin") != "not an origin"}
    return Seen(done.stdout, console, sorted(url for url in urls if not url.startswith("data:")))


def drawn(seen: Seen) -> int:
    return len(re.findall(r'<div class="[^"]*\bplot-container\b', seen.dom))


def test_every_plot_is_drawn_without_a_word_on_the_console_or_the_network(tmp_path: Path) -> None:
    seen = look(report_html(*make_run(40)), tmp_path)
    assert seen.console == []
    assert seen.requests == []
    assert drawn(seen) == 5


EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"


def test_a_payload_stays_a_text(tmp_path: Path) -> None:
    parameters = (Parameter(f"p{EVIL}", "double", "0", "1"), Parameter("kind", "categorical", choices=(EVIL, "plain")))
    experiment, _, events = make_run(12, parameters=parameters, metric=f"acc{EVIL}", ended=False)
    events += [
        Asked(1e9, 12, EVIL, {f"p{EVIL}": "0.5", "kind": EVIL}),
        Exited(1e9 + 1, 12, 1, EVIL, EVIL),
        Ended(2e9, False, EVIL, EVIL),
    ]
    seen = look(report_html(experiment, fold(events, experiment.objective), events), tmp_path)
    assert "<title>digits-tpe · katuna</title>" in seen.dom
    assert not re.search(r"<img[^>]*onerror", seen.dom)
    assert seen.console == []
    assert seen.requests == []
    assert drawn(seen) == 5


def test_the_policy_holds_should_an_escape_be_missed(tmp_path: Path) -> None:
    page = report_html(*make_run(3))
    intruder = "<script>document.title='owned'</script><img src='http://127.0.0.1:9/x.png'><link rel=stylesheet href='http://127.0.0.1:9/x.css'>"
    seen = look(page.replace("<main>", f"<main>{intruder}"), tmp_path)
    assert "<title>digits-tpe · katuna</title>" in seen.dom
    assert seen.requests == []
    assert len(seen.console) >= 3
    unguarded = look(re.sub(r"<meta http-equiv[^>]*>", "", page.replace("<main>", f"<main>{intruder}")), tmp_path)
    assert "<title>owned</title>" in unguarded.dom
    assert [url for url in unguarded.requests if url.startswith("http://127.0.0.1:9/")]


def test_a_click_on_a_heading_sorts_the_table_and_another_turns_it_round(tmp_path: Path) -> None:
    experiment, search, events = make_run(20)
    page = re.sub(r"<meta http-equiv[^>]*>", "", report_html(experiment, search, events))
    values = [trial.value(experiment.objective) for trial in search.trials.values()]
    ascending = sorted(value for value in values if value is not None)
    assert len(ascending) < len(values)
    click = """<script>
      for (const turn of ["first", "second"]) {
        document.querySelectorAll("th button")[3].click();
        document.body.dataset[turn] = [...document.querySelectorAll("tbody tr")].map((row) => row.cells[3].dataset.value).join(" ");
      }
    </script></body>"""
    seen = look(page.replace("</body>", click), tmp_path)
    for turn, expected in (("first", ascending), ("second", ascending[::-1])):
        (order,) = re.findall(rf'data-{turn}="([^"]*)"', seen.dom)
        shown = order.split(" ")
        assert [float(text) for text in shown[: len(expected)]] == expected
        assert shown[len(expected) :] == [""] * (len(values) - len(expected))
    assert 'aria-sort="descending"' in seen.dom


def test_a_page_without_trials_is_quiet_too(tmp_path: Path) -> None:
    seen = look(report_html(*make_run(0, ended=False)), tmp_path)
    assert (seen.console, seen.requests, drawn(seen)) == ([], [], 0)
    assert "No trial has been started yet." in seen.dom
