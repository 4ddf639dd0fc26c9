from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import prometheus_client as prometheus
import pytest
from prometheus_client import parser

from katuna.metric_line import Report
from katuna.metrics import scrape
from katuna.metrics.scrape import Sample, Scraper, parse_page

PATIENCE_S = 30.0


class Server(ThreadingHTTPServer):
    """Serves `page` at /metrics and at what /moved leads to."""

    page = b""
    location = "/metrics"
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(307)
            self.send_header("Location", self.server.location)
            self.end_headers()
        elif self.path == "/metrics":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.page)))
            self.end_headers()
            self.wfile.write(self.server.page)
            self.server.asked += 1
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def scraped(server: Server, *pages: bytes, metrics: tuple[str, ...] = ("loss", "acc"), path: str = "/metrics") -> list[Report]:
    """The reports of a scraper that sees each of the pages."""
    source, found = Scraper(server.server_address[1], path, metrics), []
    for page in pages:
        server.page, server.asked = page, 0
        give_up = time.monotonic() + PATIENCE_S
        # What is answered second was asked for after the page had changed.
        while server.asked < 2 and time.monotonic() < give_up:
            source.hurry()
        found += source.read()
    found += source.finish()
    source.close()
    return found


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("loss 0.5", Sample("loss", {}, "0.5")),
        ("loss\t0.5 1700000000123", Sample("loss", {}, "0.5", 1700000000123)),
        ("  loss{} 1e-3  ", Sample("loss", {}, "1e-3")),
        ('loss{split="val",fold="1"} +Inf', Sample("loss", {"split": "val", "fold": "1"}, "+Inf")),
        ('loss { a = "1" , b = "2", } 3', Sample("loss", {"a": "1", "b": "2"}, "3")),
        (
            r'm{path="C:\\x",say="\"hi\"",n="a\nb",x="}#{"} 1',
            Sample("m", {"path": "C:\\x", "say": '"hi"', "n": "a\nb", "x": "}#{"}, "1"),
        ),
        ("a:b_c9 1", Sample("a:b_c9", {}, "1")),
        ("# HELP loss 0.5", None),
        ("# TYPE loss gauge", None),
        ("", None),
        ("loss", None),
        ("loss=0.5", None),
        ("loss.5", None),
        ("9loss 1", None),
        ('loss{a="1} 2', None),
        ("loss{a=1} 2", None),
        ("loss 0.5 12 13", None),
        ("loss 0.5 soon", None),
    ],
)
def test_the_text_format(line: str, sample: Sample | None) -> None:
    assert list(parse_page(f"{line}\n")) == ([sample] if sample else [])


def test_agrees_with_prometheus_own_parser() -> None:
    registry = prometheus.CollectorRegistry()
    prometheus.Gauge("loss", "Of the last\nepoch", registry=registry).set(0.125)
    gauge = prometheus.Gauge("acc", 'With "labels"', ["split", "path"], registry=registry)
    gauge.labels("val", 'a\\b"c"\nd{}').set(0.5)
    gauge.labels("", "ñ").set(float("nan"))
    prometheus.Histogram("seconds", "", registry=registry).observe(0.3)
    page = prometheus.generate_latest(registry).decode()
    theirs = [
        (each.name, each.labels, repr(each.value))
        for family in parser.text_string_to_metric_families(page)
        for each in family.samples
    ]
    assert [(each.name, each.labels, repr(float(each.value))) for each in parse_page(page)] == theirs
    assert len(theirs) > 10


def test_half_a_last_line_is_not_read() -> None:
    assert list(parse_page("loss 0.5\nacc 0.9")) == [Sample("loss", {}, "0.5")]


@pytest.mark.parametrize(
    "text", ["loss{" + 'a="1",' * 5000, 'loss{a="' + "\\" * 20_001, "a" * 100_000, "loss" + " " * 100_000 + "x y z"]
)
def test_no_line_takes_long(text: str) -> None:
    before = time.process_time()
    list(parse_page(text + "\n"))
    assert time.process_time() - before < 2.0


def test_values_are_reported_when_they_change(server: Server) -> None:
    pages = [b"loss 0.5\nacc 0.1\n", b"loss 0.5\nacc 0.2\n", b"loss 0.25\nacc 0.2\n", b"loss 0.25\nacc NaN\n"]
    assert [(report.metric, report.value) for report in scraped(server, *pages)] == [
        ("loss", "0.5"),
        ("acc", "0.1"),
        ("acc", "0.2"),
        ("loss", "0.25"),
        ("acc", "NaN"),
    ]


def test_a_sample_of_another_time_is_another(server: Server) -> None:
    found = scraped(server, b"loss 0.5 1700000000001\n", b"loss 0.5 1700000000002\n")
    assert [(report.value, report.time_us) for report in found] == [("0.5", 1700000000001000), ("0.5", 1700000000002000)]


def test_which_labels_a_name_means(server: Server) -> None:
    page = b'loss{split="train"} 1\nloss 2\nacc{split="val"} 3\nf1{k="1"} 4\nf1{k="2"} 5\n'
    metrics = ("loss", "acc", "f1", 'f1{k="2"}', 'loss{split="val"}')
    found = scraped(server, page, metrics=metrics)
    assert [(report.metric, report.value) for report in found] == [("loss", "2"), ("acc", "3"), ('f1{k="2"}', "5")]


def test_a_page_that_moved_is_followed_on_the_same_server(server: Server) -> None:
    assert [report.value for report in scraped(server, b"loss 1\n", path="/moved")] == ["1"]
    server.location = "http://198.51.100.1:9/metrics"
    assert [report.value for report in scraped(server, b"loss 2\n", path="/moved")] == ["2"]


def said(source: Scraper) -> tuple[str, ...]:
    """What it says once it has looked."""
    source.hurry()
    assert source.read() + source.finish() == []
    return source.nearest


def test_says_what_it_saw(server: Server) -> None:
    port = server.server_address[1]
    server.page = b'los{split="val"} 0.5\nepoch 3\n'
    assert set(said(Scraper(port, "/metrics", ("loss",)))) == {'los{split="val"} 0.5', "epoch 3"}
    assert said(Scraper(port, "/nowhere", ("loss",))) == (f"status 404 at http://127.0.0.1:{port}/nowhere",)
    server.location = "/moved"
    assert said(Scraper(port, "/moved", ("loss",))) == (f"status 307 at http://127.0.0.1:{port}/moved",)


def test_several_samples_of_the_name_are_shown(server: Server) -> None:
    server.page = b'loss{k="1"} 4\nloss{k="2"} 5\n'
    assert set(said(Scraper(server.server_address[1], "/metrics", ("loss",)))) == {'loss{k="1"} 4', 'loss{k="2"} 5'}


def test_a_server_that_says_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = Scraper(silent.getsockname()[1], "/metrics", ("loss",))
        before = time.monotonic()
        assert source.read() == []
        source.hurry()
        assert source.finish() == []
        assert time.monotonic() - before < 5.0
        assert source.nearest[0].startswith("nothing answered at")


def test_a_server_that_speaks_no_http_is_no_page() -> None:
    with socket.create_server(("127.0.0.1", 0)) as rude:
        source = Scraper(rude.getsockname()[1], "/metrics", ("loss",))
        connection, _ = rude.accept()
        connection.sendall(b"loss 0.5\n")
        connection.close()
        assert source.finish() == []
