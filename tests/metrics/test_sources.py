"""The reader of each collector keeps the promises of a MetricSource."""

from __future__ import annotations

import json
import runpy
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contracts.source_contract import MetricSourceContract
from katuna.manifest.experiment import Collector
from katuna.metrics.collect import PUSH_FILE, Collecting, MetricSource
from katuna.metrics.shim import FILE_VARIABLE, FOLDER


class OfACollector(MetricSourceContract):
    collector = Collector()

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "metrics"
        self.folder.mkdir()
        self.log = tmp_path / "log"
        self.log.write_text("accuracy=0.9 of the attempt before\n")

    def make_source(self) -> MetricSource:
        return Collecting(("accuracy", "loss"), self.collector).source(self.folder, self.log, self.log.stat().st_size)

    def append(self, text: str, path: Path | None = None) -> None:
        with (path or self.log).open("a") as file:
            file.write(text)


class TestStdOut(OfACollector):
    def write(self, metric: str, value: str) -> None:
        self.append(f"{metric}={value}\n")

    def write_half(self) -> None:
        self.append("accurac")


class TestAnyName(TestStdOut):
    collector = Collector("AnyName")
    any_name = True


class TestFileOfLines(OfACollector):
    collector = Collector("File", path="/var/log/katib/metrics.log", format="TEXT")

    def write(self, metric: str, value: str) -> None:
        self.append(f"{metric}={value}\n", self.folder / "metrics.log")

    def write_half(self) -> None:
        self.append("accurac", self.folder / "metrics.log")


class TestFileOfJson(OfACollector):
    collector = Collector("File", path="/var/log/katib/metrics.json", format="JSON")

    def write(self, metric: str, value: str) -> None:
        self.append(json.dumps({metric: value}) + "\n", self.folder / "metrics.json")

    def write_half(self) -> None:
        self.append('{"accuracy": "0.99"', self.folder / "metrics.json")


class TestPush(OfACollector):
    collector = Collector("Push")

    @pytest.fixture(autouse=True)
    def _environment(self, _folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(FILE_VARIABLE, str(self.folder / PUSH_FILE))
        monkeypatch.setenv("KATIB_TRIAL_NAME", "t0")
        self.report = runpy.run_path(str(FOLDER / "kubeflow/katib/api/report_metrics.py"))["report_metrics"]

    def write(self, metric: str, value: str) -> None:
        self.report({metric: value})

    def write_half(self) -> None:
        self.append('{"metrics": {"accuracy": "0.99', self.folder / PUSH_FILE)


class TestTensorFlowEvent(OfACollector):
    collector = Collector("TensorFlowEvent", path="/var/log/katib/tfevent")

    def record(self, metric: str, value: str) -> bytes:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        summary = Summary(value=[Summary.Value(tag=metric, simple_value=float(value))])
        record = Event(wall_time=1_700_000_000.0, step=1, summary=summary).SerializeToString()
        head = struct.pack("<Q", len(record))
        return head + struct.pack("<I", masked_crc32c(head)) + record + struct.pack("<I", masked_crc32c(record))

    def put(self, data: bytes) -> None:
        with (self.folder / "events.out.tfevents.1.here").open("ab") as file:
            file.write(data)

    def write(self, metric: str, value: str) -> None:
        self.put(self.record(metric, value))

    def write_half(self) -> None:
        self.put(self.record("accuracy", "0.99")[:-6])


class TestPrometheusMetric(OfACollector):
    keeps_all = False

    @pytest.fixture(autouse=True)
    def _page(self, _folder: None) -> Iterator[None]:
        shown: dict[str, str] = {}
        self.shown, self.cut = shown, 0

        class Page(BaseHTTPRequestHandler):
            def do_GET(page) -> None:  # noqa: N805
                text = "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in list(shown.items())).encode()
                page.send_response(200)
                page.send_header("Content-Length", str(len(text)))
                page.end_headers()
                page.wfile.write(text[: len(text) - self.cut])

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        self.collector = Collector("PrometheusMetric", path="/metrics", port=server.server_address[1])
        yield
        server.shutdown()
        server.server_close()
        thread.join()

    def write(self, metric: str, value: str) -> None:
        self.shown[metric] = value

    def write_half(self) -> None:
        """The page breaks off: its length says so."""
        self.cut = 3
        self.shown["accuracy"] = "0.99"
