"""A trial for every collector: `collected_trainer.py KIND PLACE STEP...` reports `accuracy` values, and does what else it is told.

A STEP is a value, or one of: `half` (of a line that would say 0.99), `hang` (until SIGTERM), `die` (SIGKILL itself), `fail` (exit 3),
`seen` (wait until the scraper must have been here), `again:FILE` (the first time, make FILE and go on; then skip to behind the next
`fail`). On SIGTERM it reports 0.75 and ends.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

Write = Callable[[str, bool], None]


def lines_to(path: str, form: Callable[[str], str]) -> Write:
    def write(value: str, half: bool) -> None:
        text = form(value) + "\n"
        with Path(path).open("ab", buffering=0) as file:
            file.write(text.encode()[: len(text) // 2 if half else None])

    return write


def events_to(folder: str) -> Write:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    Path(folder, "train").mkdir(parents=True, exist_ok=True)

    def write(value: str, half: bool) -> None:
        summary = Summary(value=[Summary.Value(tag="accuracy", simple_value=float(value))])
        record = Event(wall_time=time.time(), step=1, summary=summary).SerializeToString()
        head = struct.pack("<Q", len(record))
        data = head + struct.pack("<I", masked_crc32c(head)) + record + struct.pack("<I", masked_crc32c(record))
        with Path(folder, "train", "events.out.tfevents.1.here").open("ab", buffering=0) as file:
            file.write(data[: len(data) // 2 if half else None])

    return write


def page_at(port: str) -> Write:
    page = ["", b""]

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page[1])

        def log_message(self, *_: object) -> None:
            pass

    threading.Thread(target=HTTPServer(("127.0.0.1", int(port)), Page).serve_forever, daemon=True).start()

    def write(value: str, half: bool) -> None:
        text = f"# TYPE accuracy gauge\naccuracy {value}\n".encode()
        page[1] = text[:-2] if half else text

    return write


def pushed(_: str) -> Write:
    from kubeflow.katib import report_metrics

    def write(value: str, half: bool) -> None:
        if half:
            with Path(os.environ["KATUNA_PUSH_FILE"]).open("ab", buffering=0) as file:
                file.write(b'{"metrics": {"accuracy": "0.9')
        else:
            report_metrics(metrics={"accuracy": value})

    return write


WRITERS: dict[str, Callable[[str], Write]] = {
    "StdOut": lambda _: lines_to("/dev/stdout", lambda value: f"accuracy={value}"),
    "TEXT": lambda path: lines_to(path, lambda value: f"accuracy={value}"),
    "JSON": lambda path: lines_to(path, lambda value: json.dumps({"accuracy": float(value)})),
    "TensorFlowEvent": events_to,
    "Push": pushed,
    "PrometheusMetric": page_at,
}


def main() -> None:
    kind, place, *steps = sys.argv[1:]
    write = WRITERS[kind](place)

    def seen() -> None:
        if kind == "PrometheusMetric":
            time.sleep(1.3)

    def asked_to_end(*_: object) -> None:
        write("0.75", False)
        seen()
        os._exit(143)

    signal.signal(signal.SIGTERM, asked_to_end)
    while steps:
        step = steps.pop(0)
        if step == "half":
            write("0.99", True)
        elif step == "hang":
            while True:
                time.sleep(60)
        elif step == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif step == "fail":
            sys.exit(3)
        elif step.startswith("again:"):
            mark = Path(step.removeprefix("again:"))
            if mark.exists():
                del steps[: steps.index("fail") + 1]
            mark.touch()
        else:
            write(step, False)
            seen()


if __name__ == "__main__":
    main()
