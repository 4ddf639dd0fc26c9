"""The PrometheusMetric collector: a trial's own page of metrics, fetched about every second for as long as it answers.

A metric is a sample's name, as in `loss`, or with all its labels as the page writes them, `loss{split="val"}`. Of several samples
of one name that differ in labels, the name alone means the one without labels; where all have some, none of them. A page shows the
latest values only, so a value is reported when it, or the sample's own timestamp, is another than at the time before.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import queue
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from katuna.metric_line import Report
from katuna.metrics.near import Sieve

HOST = "127.0.0.1"
INTERVAL_S = 1.0
SOON_S = 0.1
"""How long between two fetches before the first answer, and once the trial was told to end."""
TIMEOUT_S = 2.0
HURRY_S = 0.3
PAGE_BYTES = 4 << 20
_REDIRECTS = 3

_SAMPLE = re.compile(
    r"([A-Za-z_:][\w:]*+)"
    r"(?:\s*+\{([^{}\"]*+(?:\"(?:[^\"\\]|\\.)*+\"[^{}\"]*+)*+)\}\s*+|\s++)"
    r"([\w.+-]++)(?:\s++(-?\d{1,15}))?",
    re.ASCII,
)
_LABEL = re.compile(r"\s*+([A-Za-z_]\w*+)\s*+=\s*+\"((?:[^\"\\]|\\.)*+)\"\s*+(?:,|\Z)", re.ASCII)


@dataclass(frozen=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: str
    time_ms: int | None = None

    def __str__(self) -> str:
        labels = ",".join(f'{name}="{value}"' for name, value in self.labels.items())
        return f"{self.name}{{{labels}}}" if labels else self.name


class Scraper:
    """A `MetricSource` (metrics/collect.py) for what `http://127.0.0.1:PORT/PATH` shows. Fetches in a thread of its own."""

    def __init__(self, port: int, path: str, metrics: Sequence[str]) -> None:
        self._port = port
        self._path = path
        self._metrics = tuple(metrics)
        self._sieve = Sieve(metrics)
        self._last: dict[str, Sample] = {}
        self._pages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._answer = "nothing answered"
        self._interval_s = SOON_S
        self._wake, self._hurried, self._closed = threading.Event(), threading.Event(), False
        self._thread = threading.Thread(target=self._run, name=f"scrape-{port}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "no thread can be started to fetch metrics") from error
        self.at_end = True

    def read(self) -> list[Report]:
        reports = []
        with contextlib.suppress(queue.Empty):
            while True:
                reports += self._reports(list(parse_page(self._pages.get_nowait())))
        return reports

    def hurry(self) -> None:
        """Fetches once more now; waits HURRY_S at most."""
        self._hurried.clear()
        self._wake.set()
        self._hurried.wait(HURRY_S)

    def finish(self) -> list[Report]:
        self.close()
        return self.read()

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join(TIMEOUT_S)

    @property
    def nearest(self) -> tuple[str, ...]:
        return self._sieve.nearest if not self._answer else (f"{self._answer} at http://{HOST}:{self._port}{self._path}",)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._sieve.warnings

    # In the thread

    def _run(self) -> None:
        while True:
            hurried = self._wake.wait(self._interval_s)
            self._wake.clear()
            if self._closed:
                return
            page = self._fetch()
            if page is not None:
                self._pages.put(page)
                self._interval_s, self._answer = INTERVAL_S, ""
            if hurried:
                self._interval_s = SOON_S
                self._hurried.set()

    def _fetch(self) -> str | None:
        path = self._path
        for _ in range(_REDIRECTS):
            connection = http.client.HTTPConnection(HOST, self._port, timeout=TIMEOUT_S)
            try:
                connection.request("GET", path, headers={"Accept": "text/plain; version=0.0.4"})
                answer = connection.getresponse()
                if answer.status == http.HTTPStatus.OK:
                    return answer.read(PAGE_BYTES).decode("utf-8", "replace")
                moved = urlsplit(answer.getheader("Location") or "")
            except (OSError, ValueError, http.client.HTTPException):
                return None
            finally:
                connection.close()
            self._answer = f"status {answer.status}" if self._answer else ""
            if not moved.path:
                return None
            # Never to another server: where a page moves to, only its path counts.
            path = moved._replace(scheme="", netloc="", fragment="").geturl()
        return None

    # In the launcher

    def _reports(self, samples: Sequence[Sample]) -> list[Report]:
        found = []
        for metric in self._metrics:
            sample = _chosen(metric, samples)
            if sample is not None and sample != self._last.get(metric):
                self._last[metric] = sample
                found.append(Report(metric, sample.value, None if sample.time_ms is None else sample.time_ms * 1000))
        kept = self._sieve.sift(found)
        if self._sieve.is_looking:
            for sample in samples:
                self._sieve.note(str(sample), f"{sample} {sample.value}")
        return kept


def _chosen(metric: str, samples: Sequence[Sample]) -> Sample | None:
    """The sample that a metric's name means on this page."""
    if "{" in metric:
        asked = next(parse_page(f"{metric} 0\n"), None)
        return next((each for each in samples if asked and (each.name, each.labels) == (asked.name, asked.labels)), None)
    named = [sample for sample in samples if sample.name == metric]
    return next((sample for sample in named if not sample.labels), named[0] if len(named) == 1 else None)


def parse_page(page: str) -> Iterator[Sample]:
    """The samples of a page in Prometheus' text format; lines that are none are passed over, and so is half a last line."""
    for line in page.split("\n")[:-1]:
        match = _SAMPLE.fullmatch(line.strip())
        if match is None:
            continue
        labels = _labels(match[2] or "")
        if labels is not None:
            yield Sample(match[1], labels, match[3], int(match[4]) if match[4] else None)


def _labels(text: str) -> dict[str, str] | None:
    """None where the text is no list of labels."""
    labels, place = {}, 0
    while text[place:].strip():
        match = _LABEL.match(text, place)
        if match is None:
            return None
        labels[match[1]] = re.sub(r"\\(.)", lambda escape: {"n": "\n"}.get(escape[1], escape[1]), match[2])
        place = match.end()
    return labels
