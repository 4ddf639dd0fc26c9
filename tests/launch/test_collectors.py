"""Every collector with real processes: what a trial leaves wherever its collector looks comes out as its reports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_jobs import ALauncher, a_launcher, a_request, run_one, the_end

from katuna.launch.local_options import LocalOptions
from katuna.launch.ports import free_port
from katuna.manifest.experiment import Collector
from katuna.metrics.collect import Collecting
from katuna.search.contracts import LaunchEvent, TrialRequest
from katuna.search.trials import Exited, Noted, Reported, Started

TRAINER = Path(__file__).with_name("collected_trainer.py")
KINDS = ("StdOut", "TEXT", "JSON", "TensorFlowEvent", "Push", "PrometheusMetric")
FILES = ("StdOut", "TEXT", "JSON", "TensorFlowEvent", "Push")
"""The collectors that miss nothing: what was written stays."""


class Setting:
    """A collector of one kind, and trials for it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.port = free_port()
        self.collector, self.place = {
            "StdOut": (Collector(), "-"),
            "TEXT": (Collector("File", path="/var/log/katib/metrics.log", format="TEXT"), "/var/log/katib/metrics.log"),
            "JSON": (Collector("File", path="/var/log/katib/metrics.json", format="JSON"), "/var/log/katib/metrics.json"),
            "TensorFlowEvent": (Collector("TensorFlowEvent", path="/var/log/katib/tfevent/"), "/var/log/katib/tfevent/"),
            "Push": (Collector("Push"), "-"),
            "PrometheusMetric": (Collector("PrometheusMetric", path="/metrics", port=self.port), str(self.port)),
        }[kind]
        self.launcher = a_launcher(folder, self.collector)

    def trial(self, number: int, *steps: str, **spec: object) -> TrialRequest:
        return a_request(number, "python", str(TRAINER), self.kind, self.place, *steps, **spec)


@pytest.fixture(params=KINDS)
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    made = Setting(request.param, tmp_path)
    yield made
    made.launcher.close(0)


def values(events: list[LaunchEvent], number: int = 0) -> list[float]:
    """The values reported, rounded to what a float32 keeps."""
    found = [event for event in events if isinstance(event, Reported) and event.number == number]
    return [round(float(report.value), 6) for event in found for report in event.reports if report.metric == "accuracy"]


def test_values_arrive_and_a_kill_in_the_middle_of_one_loses_only_that(setting: Setting) -> None:
    events = run_one(setting.launcher, setting.trial(0, "0.25", "0.5", "half", "die"))
    assert values(events) == [0.25, 0.5]
    assert the_end(events).code == 137
    assert the_end(events).nearest == ()


def test_trials_in_parallel_do_not_mix(setting: Setting) -> None:
    """With a port, one waits for the other."""
    for number in range(2):
        setting.launcher.start(setting.trial(number, f"0.{number + 1}", f"0.{number + 3}"))
    events: list[LaunchEvent] = []
    while sum(isinstance(event, Exited) for event in events) < 2:
        events += setting.launcher.poll(1.0)
    assert values(events, 0) == [0.1, 0.3]
    assert values(events, 1) == [0.2, 0.4]
    assert [event.code for event in events if isinstance(event, Exited)] == [0, 0]


def test_a_stopped_trials_metrics_are_kept_to_the_last(setting: Setting) -> None:
    setting.launcher.start(setting.trial(0, "0.25", "hang"))
    events: list[LaunchEvent] = []
    while not values(events):
        events += setting.launcher.poll(1.0)
    setting.launcher.stop(0, 30.0)
    while not isinstance(events[-1], Exited):
        events += setting.launcher.poll(1.0)
    assert values(events) == [0.25, 0.75]
    assert events[-1].reason == "Stopped"


def test_another_attempt_does_not_read_what_the_first_left(setting: Setting) -> None:
    events = run_one(
        setting.launcher, setting.trial(0, f"again:{setting.folder / 'mark'}", "0.25", "fail", "0.5", backoffLimit=1)
    )
    (second,) = [index for index, event in enumerate(events) if isinstance(event, Started) and event.attempt == 2]
    assert values(events[:second]) == [0.25]
    assert values(events[second:]) == [0.5]
    assert the_end(events).code == 0


def test_a_trial_that_begins_again_does_not_read_what_an_earlier_run_of_it_left(setting: Setting) -> None:
    assert values(run_one(setting.launcher, setting.trial(0, "0.25"))) == [0.25]
    setting.launcher.close()
    assert values(run_one(a_launcher(setting.folder, setting.collector), setting.trial(0, "0.5"))) == [0.5]


@pytest.mark.parametrize("kind", FILES)
def test_everything_is_told_before_the_end(kind: str, tmp_path: Path) -> None:
    """Though the trial is gone in an instant."""
    setting = Setting(kind, tmp_path)
    steps = [str(step / 1000) for step in range(1, 401)]
    events = run_one(setting.launcher, setting.trial(0, *steps))
    assert values(events) == [float(step) for step in steps]
    assert [type(event) for event in events].count(Exited) == 1
    setting.launcher.close()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("TEXT", "nothing was written to {0}/t0/metrics/metrics.log, which stands for /var/log/katib/metrics.log"),
        ("TensorFlowEvent", "no event file was written below {0}/t0/metrics, which stands for /var/log/katib/tfevent"),
        ("Push", "nothing was written to {0}/t0/metrics/pushed.jsonl, which stands for kubeflow.katib.report_metrics"),
        ("PrometheusMetric", "nothing answered at http://127.0.0.1:{1}/metrics"),
    ],
)
def test_a_trial_that_left_nothing_is_told_where_it_was_looked_for(kind: str, said: str, tmp_path: Path) -> None:
    setting = Setting(kind, tmp_path)
    end = the_end(run_one(setting.launcher, a_request(0, "true", setting.place)))
    assert end.nearest == (said.format(tmp_path, setting.port),)
    setting.launcher.close()


# Where the container's paths lie


def test_the_container_path_is_the_trials_own_wherever_it_stands(tmp_path: Path) -> None:
    collector = Collector("File", path="/var/log/katib/metrics.log", format="TEXT")
    launcher = a_launcher(tmp_path, collector)
    script = 'cd "$WHERE" && pwd && echo accuracy=1 > metrics.log && echo loss=2 >> /var/log/katib/metrics.log'
    container = {"env": [{"name": "WHERE", "value": "/var/log/katib"}], "workingDir": "/var/log/katib/"}
    events = run_one(launcher, a_request(0, "sh", "-c", script, container=container))
    reports = [report for event in events if isinstance(event, Reported) for report in event.reports]
    assert [(report.metric, report.value) for report in reports] == [("accuracy", "1"), ("loss", "2")]
    assert (tmp_path / "t0" / "log").read_text() == f"{tmp_path}/t0/metrics\n"
    assert not Path("/var/log/katib/metrics.log").exists()
    launcher.close()


def test_it_goes_before_the_maps_of_the_options(tmp_path: Path) -> None:
    collector = Collector("File", path="/out/metrics.log", format="TEXT")
    (tmp_path / "mine").mkdir()
    for source in ("/out", "/out/metrics.log"):
        launcher = a_launcher(tmp_path, collector, options=LocalOptions(maps=((source, str(tmp_path / "mine")),)))
        events = run_one(launcher, a_request(0, "sh", "-c", "echo accuracy=1 > /out/metrics.log"))
        assert values(events) == [1.0]
        assert list((tmp_path / "mine").iterdir()) == []
        launcher.close()


def test_a_file_at_the_root_has_no_folder_of_its_own() -> None:
    collecting = Collecting(("accuracy",), Collector("File", path="/metrics.log", format="TEXT"))
    assert collecting.places == {"/metrics.log": "metrics.log"}


@pytest.mark.parametrize("kind", ["TEXT", "JSON", "TensorFlowEvent"])
def test_a_path_that_the_trainer_is_not_told_is_refused(kind: str, tmp_path: Path) -> None:
    """It would write to the same file as the trials beside it."""
    setting = Setting(kind, tmp_path)
    (finding,) = setting.launcher.preflight([a_request(0, "true")])
    assert "/var/log/katib" in finding.message
    assert "occurs nowhere in the job's command, env or workingDir" in finding.message
    assert "as an argument or in env" in finding.hint
    env = [{"name": "METRICS", "value": f"--to={setting.place}"}]
    assert setting.launcher.preflight([a_request(0, "true", container={"env": env})]) == []
    assert setting.launcher.preflight([a_request(0, "sh", "-c", f"train > '{setting.place}'")]) == []
    assert list(tmp_path.iterdir()) == []


def test_events_cannot_lie_in_the_root(tmp_path: Path) -> None:
    (finding,) = a_launcher(tmp_path, Collector("TensorFlowEvent", path="/")).preflight([a_request(0, "ls", "/")])
    assert finding.message == "the trial's metrics cannot lie in / itself"


# Ports


def test_another_process_at_the_port_is_not_taken_for_the_trial(tmp_path: Path) -> None:
    setting = Setting("PrometheusMetric", tmp_path)
    with socket.create_server(("127.0.0.1", setting.port)):
        end = the_end(run_one(setting.launcher, setting.trial(0, "0.5")))
        assert (end.code, end.reason) == (None, "StartError")
        assert f"another process has port {setting.port}" in end.message
        (finding,) = setting.launcher.preflight([setting.trial(0, "0.5")])
        assert finding.message == end.message
    assert setting.launcher.preflight([setting.trial(0, "0.5")]) == []
    assert values(run_one(setting.launcher, setting.trial(0, "0.5"))) == [0.5]
    setting.launcher.close()


def test_searches_of_two_processes_share_a_port_one_after_the_other(tmp_path: Path) -> None:
    """Two launchers are as good as two processes: a lease is a name that one socket can have."""
    setting = Setting("PrometheusMetric", tmp_path)
    other: ALauncher = a_launcher(tmp_path / "other", setting.collector)
    setting.launcher.start(setting.trial(0, "0.5", "hang"))
    while not any(isinstance(event, Reported) for event in setting.launcher.poll(1.0)):
        pass
    other.start(setting.trial(1, "0.25"))
    (noted,) = other.poll(0.3)
    assert isinstance(noted, Noted)
    assert f"port {setting.collector.port}" in noted.text
    setting.launcher.close(0)
    events: list[LaunchEvent] = []
    while not (events and isinstance(events[-1], Exited)):
        events += other.poll(1.0)
    assert values(events, 1) == [0.25]
    other.close()


def test_a_page_is_fetched_once_more_before_its_trial_is_told_to_end(tmp_path: Path) -> None:
    """The trial goes at once then, and the next fetch would come a second later."""
    setting = Setting("PrometheusMetric", tmp_path)
    script = f"""
import http.server, itertools
count = itertools.count()
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'accuracy %d\\n' % next(count))
http.server.HTTPServer(('127.0.0.1', {setting.port}), Page).serve_forever()
"""
    setting.launcher.start(a_request(0, "python", "-S", "-c", script))
    events: list[LaunchEvent] = []
    while not values(events):
        events += setting.launcher.poll(1.0)
    before = len(values(events))
    setting.launcher.stop(0, 30.0)
    while not isinstance(events[-1], Exited):
        events += setting.launcher.poll(1.0)
    assert len(values(events)) > before
    setting.launcher.close()


def test_metrics_that_are_served_are_refused_in_a_network_of_its_own(tmp_path: Path) -> None:
    setting = Setting("PrometheusMetric", tmp_path)
    options = LocalOptions(private_network=True)
    launcher = a_launcher(tmp_path, setting.collector, options=options)
    (finding,) = launcher.preflight([a_request(0, "true")])
    assert finding.message.startswith(f"--private-network: the metrics that a trial serves at port {setting.port} cannot be read")
    launcher.close()
