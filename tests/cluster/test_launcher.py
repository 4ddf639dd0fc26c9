"""The launcher of a cluster keeps a Launcher's promises, here beside an API server of scripts; tests/cluster/test_real.py has a real one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_api import FakeApi

from contracts.launcher_contract import Behaviour, LauncherContract
from katuna.clock import SystemClock
from katuna.cluster.launcher import ClusterLauncher
from katuna.errors import ClusterRefused, ClusterUnreachable
from katuna.metrics.collect import Collecting
from katuna.runs.measured import Measured
from katuna.search.contracts import Clock, Launcher, LaunchEvent, TrialRequest
from katuna.search.trials import Exited, Noted, Reported, Trial


def a_request(number: int, policy: str = "OnFailure") -> TrialRequest:
    container = {"name": "main", "image": "lab/image", "command": ["train"]}
    spec = {"template": {"spec": {"restartPolicy": policy, "containers": [container]}}}
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"t{number}"}, "spec": spec}
    return TrialRequest(number, f"t{number}", manifest)


class Cluster:
    """An API server, and launchers of one run on it whose logs lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.behaviours: dict[int, Behaviour] = {}
        self.api = FakeApi(lambda name: self.behaviours[int(name[1:])])
        self.launchers: list[Measured] = []

    def launcher(self) -> Measured:
        clock = SystemClock()
        jobs = ClusterLauncher(
            self.api,  # type: ignore[arg-type]
            "run-1",
            "main",
            lambda job, trial, replica, container: self.folder / trial / "log",
            clock,
            kind="Job",
        )
        collecting = Collecting(("accuracy", "loss"))
        made = Measured(
            jobs,
            lambda name, output: collecting.source(self.folder / name, output.log, output.start),
            lambda name: self.folder / name,
            clock,
            "accuracy",
        )
        self.launchers.append(made)
        return made

    def request(self, number: int, behaviour: Behaviour) -> TrialRequest:
        self.behaviours[number] = behaviour
        return a_request(number)

    def close(self) -> None:
        for launcher in self.launchers:
            launcher.close(0)
        self.api.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


class TestClusterLauncher(LauncherContract):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def make_launcher(self) -> Launcher:
        return self.cluster.launcher()

    def make_clock(self) -> Clock:
        return SystemClock()

    def request(self, number: int, behaviour: Behaviour) -> TrialRequest:
        return self.cluster.request(number, behaviour)


def until(launcher: Launcher, kind: type, text: str = "") -> list[LaunchEvent]:
    events: list[LaunchEvent] = []
    give_up = time.monotonic() + 30
    while not any(isinstance(event, kind) and text in str(event) for event in events):
        assert time.monotonic() < give_up, events
        events += launcher.poll(0.2)
    return events


def values(events: list[LaunchEvent]) -> list[str]:
    return [report.value for event in events if isinstance(event, Reported) for report in event.reports]


def test_a_driver_that_died_finds_its_trial_running(cluster: Cluster) -> None:
    first = cluster.launcher()
    first.start(cluster.request(0, Behaviour(("0.1", "0.2"), hangs=True)))
    until(first, Reported, "0.2")
    second = cluster.launcher()
    trial = Trial(0, "t0", {}, 0.0)
    assert second.attach(trial)
    events = until(second, Reported, "0.2")
    assert values(events) == ["0.1", "0.2"], "the attempt is told from its beginning"
    assert [call for call in cluster.api.calls if call[0] == "create"] == [("create", "Job")]
    second.stop(0, 5.0)
    assert [event.code for event in until(second, Exited) if isinstance(event, Exited)] == [143]


def test_a_job_of_another_run_under_the_name_is_not_taken_for_ours(cluster: Cluster) -> None:
    cluster.behaviours[0] = Behaviour(hangs=True)
    cluster.api.create("Job", {**a_request(0).manifest})
    launcher = cluster.launcher()
    assert not launcher.attach(Trial(0, "t0", {}, 0.0))
    launcher.start(cluster.request(0, Behaviour(hangs=True)))
    (end,) = until(launcher, Exited)
    assert isinstance(end, Exited)
    assert (end.code, end.reason) == (None, "StartError")
    assert "already exists" in end.message


def test_a_create_whose_answer_is_lost_makes_one_job(cluster: Cluster) -> None:
    create = cluster.api.create

    def lost(kind: str, manifest: dict[str, object], *, dry_run: bool = False) -> dict[str, object]:
        create(kind, manifest, dry_run=dry_run)
        cluster.api.create = create  # type: ignore[method-assign]
        raise ClusterUnreachable("the connection was reset")

    cluster.api.create = lost  # type: ignore[method-assign]
    launcher = cluster.launcher()
    launcher.start(cluster.request(0, Behaviour(("0.5",))))
    events = until(launcher, Exited)
    assert values(events) == ["0.5"]
    assert [event.code for event in events if isinstance(event, Exited)] == [0]


def test_an_outage_is_told_once_and_loses_nothing(cluster: Cluster) -> None:
    launcher = cluster.launcher()
    launcher.start(cluster.request(0, Behaviour(tuple(f"0.{n}" for n in range(1, 10)), pause_s=0.2)))
    events = until(launcher, Reported, "0.1")
    down = time.monotonic() + 1.0

    def refuse(method: str, kind: str) -> None:
        del method, kind
        if time.monotonic() < down:
            raise ClusterUnreachable("the server does not answer")

    cluster.api.refuse = refuse
    cluster.api.break_off()
    events += until(launcher, Exited)
    assert values(events) == [f"0.{n}" for n in range(1, 10)]
    said = [event.text for event in events if isinstance(event, Noted)]
    assert said == [
        "the server does not answer; the job goes on there, and katuna asks again",
        "the API server answers again",
    ]


def test_a_watch_that_is_too_old_begins_with_a_list_again(cluster: Cluster) -> None:
    launcher = cluster.launcher()
    launcher.start(cluster.request(0, Behaviour(("0.5",), pause_s=0.5)))
    launcher.poll(0.2)
    gone = {"Pod", "Job"}

    def refuse(method: str, kind: str) -> None:
        if method == "watch" and kind in gone:
            gone.discard(kind)
            raise ClusterRefused(410, "Expired", "too old resource version")

    cluster.api.refuse = refuse
    cluster.api.break_off()
    assert values(until(launcher, Exited)) == ["0.5"]
    assert not gone


def test_a_refusal_of_the_api_server_ends_the_trial_in_its_words(cluster: Cluster) -> None:
    def refuse(method: str, kind: str) -> None:
        if (method, kind) == ("create", "Job"):
            raise ClusterRefused(403, "Forbidden", "exceeded quota: count/jobs.batch=1")

    cluster.api.refuse = refuse
    launcher = cluster.launcher()
    launcher.start(cluster.request(0, Behaviour()))
    (end,) = until(launcher, Exited)
    assert isinstance(end, Exited)
    assert (end.code, end.reason, end.message) == (None, "StartError", "exceeded quota: count/jobs.batch=1")


def test_a_warning_about_the_job_is_told(cluster: Cluster) -> None:
    launcher = cluster.launcher()
    launcher.start(cluster.request(0, Behaviour(hangs=True)))
    launcher.poll(0.5)
    job = cluster.api.get("Job", "t0")
    assert job is not None
    cluster.api.warn(job, "FailedCreate", "pods are forbidden: violates PodSecurity")
    (told,) = [event for event in until(launcher, Noted) if isinstance(event, Noted)]
    assert told.text == "Job t0: FailedCreate: pods are forbidden: violates PodSecurity"


def test_what_has_ended_is_deleted_and_its_log_stays(cluster: Cluster) -> None:
    launcher = cluster.launcher()
    launcher.start(cluster.request(0, Behaviour(("0.5",), code=3)))
    end = until(launcher, Exited)[-1]
    assert isinstance(end, Exited)
    assert end.message == "it exited with code 3; its log ends: accuracy=0.5"
    assert cluster.api.get("Job", "t0") is None
    assert (cluster.folder / "t0/log").read_text() == "accuracy=0.5\n"


def test_a_pod_that_restarts_while_nobody_looks_ends_all_the_same(cluster: Cluster) -> None:
    """What was last heard of a run may be that it goes on: later runs then tell that it has ended."""
    again = Behaviour(("0.2",), code=1, then=Behaviour(("0.3",), code=1, then=Behaviour(("0.4",))))
    launcher = cluster.launcher()
    launcher.start(cluster.request(0, Behaviour(("0.1",), code=1, then=again)))
    time.sleep(1.0)
    events = until(launcher, Exited)
    end = events[-1]
    assert isinstance(end, Exited)
    assert (end.code, end.reason) == (0, "Completed")
    assert values(events)[-1] == "0.4"


def test_many_trials_cost_few_calls_and_leave_nothing(cluster: Cluster) -> None:
    """Each trial is created, its log is read, it is deleted: at most twice as many calls are made."""
    many, at_once = 150, 15
    launcher = cluster.launcher()
    cluster.behaviours = dict.fromkeys(range(many), Behaviour(("0.5",)))
    waiting, ended = list(range(many)), 0
    give_up = time.monotonic() + 60
    running = 0
    while ended < many:
        assert time.monotonic() < give_up, f"{ended} of {many} have ended"
        while waiting and running < at_once:
            launcher.start(a_request(waiting.pop(0), "Never"))
            running += 1
        for event in launcher.poll(0.2):
            if isinstance(event, Exited):
                assert event.code == 0
                ended, running = ended + 1, running - 1
    assert len(cluster.api.calls) <= 2 * 3 * many
    looked = sorted(call for call in cluster.api.calls if call[0] in ("list", "watch"))
    assert looked == [(method, kind) for method in ("list", "watch") for kind in ("Event", "Job", "Pod")]
    jobs = launcher._launcher
    assert isinstance(jobs, ClusterLauncher)
    assert jobs._runs == {}
