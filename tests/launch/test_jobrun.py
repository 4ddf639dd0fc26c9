"""A job's containers as real processes: their order, restarts, ends, limits, and what is left of them."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launch_jobs import WallClock, until

from katuna.errors import StoreFailed
from katuna.jobs.lifecycle import ContainerExited, ContainerStarted, JobEnded, JobEvent
from katuna.launch import memory, ports
from katuna.launch.devices import Lease
from katuna.launch.jobrun import PODS, JobRun
from katuna.launch.local_options import LocalOptions
from katuna.launch.meeting import Stores
from katuna.launch.process import ColdStarter, await_any, claim
from katuna.launch.workspace import Files
from katuna.manifest.build import job_from_manifest
from katuna.manifest.job import Job
from toy_jobs import pytorchjob

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc")
SLEEPS = "import time; time.sleep(60)"


class Runs:
    """Makes job runs below a folder, and ends what a test leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[JobRun] = []
        self.stores = Stores()

    def make(self, job: Job, **options: Any) -> JobRun:
        run = JobRun(
            job,
            self.folder,
            options=LocalOptions(cwd=str(self.folder), **options),
            environ=os.environ,
            clock=WallClock(),
            starter=ColdStarter(),
            lease=Lease((), ()),
            files=Files(LocalOptions(files="shared"), self.folder),
            stores=self.stores,
            defaults={"PYTHONUNBUFFERED": "1"},
            extra={},
        )
        self.made.append(run)
        return run

    def to_end(
        self, job: Job, meanwhile: Callable[[JobRun, JobEvent], None] = lambda _run, _event: None, **options: Any
    ) -> list[JobEvent]:
        run = self.make(job, **options)
        events: list[JobEvent] = []
        give_up = time.monotonic() + 60
        while not run.over:
            assert time.monotonic() < give_up, events
            for event in run.poll():
                events.append(event)
                meanwhile(run, event)
            await_any(run.filenos(), 0.05)
        return events


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    for run in made.made:
        run.kill()
    made.stores.close()


def a_job(program: str, *arguments: str, **changes: Any) -> Job:
    beside = changes.pop("beside", ())
    return job_from_manifest(pytorchjob(program, *arguments, **changes), references=beside)


def end_of(events: list[JobEvent]) -> JobEnded:
    assert isinstance(events[-1], JobEnded)
    return events[-1]


def exits(events: list[JobEvent]) -> dict[str, list[tuple[int | None, str]]]:
    found: dict[str, list[tuple[int | None, str]]] = {}
    for event in events:
        if isinstance(event, ContainerExited):
            found.setdefault(event.pod.removeprefix("toy-"), []).append((event.code, event.reason))
    return found


def shell(name: str, script: str) -> dict[str, Any]:
    return {"name": name, "image": "i", "command": ["sh", "-c", script]}


# Order and ends


def test_init_containers_run_in_turn_before_the_others(runs: Runs) -> None:
    pod = {"initContainers": [shell("one", "sleep 0.2; echo one >> order"), shell("two", "echo two >> order; env > env-two")]}
    events = runs.to_end(a_job("open('order', 'a').write('main\\n')", pod=pod))
    assert (runs.folder / "order").read_text().split() == ["one", "two", "main"]
    assert "RANK=" not in (runs.folder / "env-two").read_text(), "controllers inject nothing there"
    assert (end_of(events).condition, end_of(events).reason) == ("Succeeded", "Completed")


def test_workers_are_held_until_the_master_is_there(runs: Runs) -> None:
    manifest = pytorchjob("import os; open('order', 'a').write(os.environ['RANK'])", workers=1)
    replicas = manifest["spec"]["pytorchReplicaSpecs"]
    replicas["Master"]["template"] = {
        "spec": {**replicas["Master"]["template"]["spec"], "initContainers": [shell("prepare", "sleep 0.5; printf m >> order")]}
    }
    replicas["Worker"]["template"] = {
        "spec": {**replicas["Worker"]["template"]["spec"], "initContainers": [shell("fetch", "printf w >> order")]}
    }
    events = runs.to_end(job_from_manifest(manifest))
    assert end_of(events).condition == "Succeeded"
    began = [(event.pod, event.container) for event in events if isinstance(event, ContainerStarted)]
    assert began.index(("toy-worker-0", "fetch")) < began.index(("toy-master-0", "pytorch"))
    assert (runs.folder / "order").read_text()[:2] == "wm"
    assert "1" not in (runs.folder / "order").read_text()[:2]


def test_an_init_container_that_fails_is_named_and_nothing_follows(runs: Runs) -> None:
    events = runs.to_end(a_job("open('ran', 'w')", pod={"initContainers": [shell("fetch", "echo no disk; exit 3")]}))
    assert end_of(events).condition == "Failed"
    assert end_of(events).message == "init container 'fetch': it exited with code 3; its log ends: no disk"
    assert not (runs.folder / "ran").exists()


def test_a_sidecar_ends_with_the_training(runs: Runs) -> None:
    job = a_job("import os; print(os.environ['RANK'])")
    manifest = pytorchjob("import time; time.sleep(0.2)")
    template = manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    template["containers"].append(shell("proxy", "env > env-proxy; sleep 60"))
    job = job_from_manifest(manifest)
    began = time.monotonic()
    events = runs.to_end(job)
    assert time.monotonic() - began < 30
    assert end_of(events).condition == "Succeeded"
    assert "RANK=0" in (runs.folder / "env-proxy").read_text(), "sidecars get what the operator injects"


def test_the_first_to_fail_is_named_though_its_peers_fail_of_it(runs: Runs) -> None:
    # What rank 1 leaves behind keeps its guard busy, so the end of rank 0 is heard of first.
    program = (
        "import os, subprocess, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        " subprocess.Popen(['sleep', '60'])\n print('disk gone', flush=True)\n open('gone', 'w')\n os._exit(7)\n"
        "while not os.path.exists('gone'): time.sleep(0.001)\n"
        "time.sleep(0.1)\n"
        "sys.exit('lost my peer')"
    )
    events = runs.to_end(a_job(program, workers=2))
    assert next(event.pod for event in events if isinstance(event, ContainerExited)) != "toy-worker-0"
    assert "its log ends: disk gone" in end_of(events).message
    assert end_of(events).message.startswith("rank 1, pod toy-worker-0: it exited with code 7")


def test_the_masters_success_is_the_jobs_and_the_workers_are_ended(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.launch.jobrun.SETTLE_S", 0.3)
    program = f"import os\nif os.environ['RANK'] == '1':\n {SLEEPS}"
    events = runs.to_end(a_job(program, workers=1))
    assert end_of(events).condition == "Succeeded"
    assert end_of(events).message == "toy-worker-0 still ran and was ended"
    assert exits(events) == {"master-0": [(0, "Completed")], "worker-0": [(143, "Stopped")]}


def test_a_suspended_job_starts_nothing(runs: Runs) -> None:
    events = runs.to_end(a_job(SLEEPS, spec={"runPolicy": {"suspend": True}}))
    assert [type(event) for event in events] == [JobEnded]
    assert end_of(events).condition == "Suspended"


def test_the_deadline_ends_all_replicas(runs: Runs) -> None:
    events = runs.to_end(a_job(SLEEPS, workers=1, spec={"runPolicy": {"activeDeadlineSeconds": 1}}))
    assert (end_of(events).condition, end_of(events).reason) == ("Failed", "DeadlineExceeded")
    assert all(code == 143 for code, _ in (one for ends in exits(events).values() for one in ends))


def test_a_stopped_job_is_no_failure(runs: Runs) -> None:
    def stop(run: JobRun, event: JobEvent) -> None:
        if isinstance(event, ContainerStarted):
            run.stop(5.0)

    events = runs.to_end(a_job(SLEEPS, workers=1), stop)
    assert end_of(events).condition == "Stopped"


# Restarts

FAILS_ONCE = """
import os, sys, time
if "{rank}" != "0" == os.environ["RANK"]:
    time.sleep(1)  # the Master's success would be the job's
mark = "seen-" + os.environ["RANK"]
first = not os.path.exists(mark)
open(mark, "a").write("x")
print("here")
sys.exit({code} if first and os.environ["RANK"] == "{rank}" else 0)
"""


def test_never_is_final_and_nothing_starts_again(runs: Runs) -> None:
    events = runs.to_end(a_job(FAILS_ONCE.format(code=1, rank=0)))
    assert exits(events) == {"master-0": [(1, "Error")]}
    assert end_of(events).condition == "Failed"


def test_with_a_backoff_limit_all_replicas_begin_again(runs: Runs) -> None:
    job = a_job(FAILS_ONCE.format(code=1, rank=1), workers=1, restart="OnFailure", spec={"runPolicy": {"backoffLimit": 2}})
    events = runs.to_end(job)
    assert end_of(events).condition == "Succeeded", end_of(events)
    assert exits(events)["worker-0"] == [(1, "Error"), (0, "Completed")]
    started = [event for event in events if isinstance(event, ContainerStarted)]
    assert [event.restarts for event in started] == [0, 0, 0, 0], "they are new pods"
    assert "--- katuna: attempt 2 ---" in (runs.folder / "logs" / "toy-worker-0.log").read_text()


def test_the_end_tells_of_the_last_attempts_failure_alone(runs: Runs) -> None:
    """In the first attempt both fail, and the second of them is heard of when all are to begin again already."""
    program = (
        "import os, sys, time\nrank = os.environ['RANK']\nwith open('ran-' + rank, 'a') as file: file.write('x')\n"
        "again = os.path.getsize('ran-' + rank) == 2\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        "time.sleep(60 if again and rank == '1' else 0.3 * int(rank))\n"
        "open('over-' + rank, 'w')\nsys.exit(3 + int(rank))"
    )
    run = runs.make(a_job(program, workers=1, restart="OnFailure", spec={"runPolicy": {"backoffLimit": 1}}))
    events: list[JobEvent] = []
    while sum(isinstance(event, ContainerStarted) for event in events) < 2:
        events += run.poll()
    (runs.folder / "go").touch()
    assert until((runs.folder / "over-1").exists)
    time.sleep(0.5)
    while not run.over:
        events += run.poll()
        await_any(run.filenos(), 0.05)
    assert exits(events) == {"master-0": [(3, "Error")] * 2, "worker-0": [(4, "Error"), (143, "Stopped")]}
    assert end_of(events).message.startswith("rank 0, pod toy-master-0: it exited with code 3")


def test_exit_codes_below_128_are_permanent_under_exitcode(runs: Runs) -> None:
    policy: dict[str, Any] = {"restart": "ExitCode", "spec": {"runPolicy": {"backoffLimit": 2}}}
    assert end_of(runs.to_end(a_job(FAILS_ONCE.format(code=127, rank=0), **policy))).condition == "Failed"


def test_exit_codes_of_128_and_more_are_retried_under_exitcode(runs: Runs) -> None:
    policy: dict[str, Any] = {"restart": "ExitCode", "spec": {"runPolicy": {"backoffLimit": 2}}}
    assert end_of(runs.to_end(a_job(FAILS_ONCE.format(code=130, rank=0), **policy))).condition == "Succeeded"


def test_as_operator_only_the_failed_pod_begins_anew(runs: Runs) -> None:
    job = a_job(FAILS_ONCE.format(code=137, rank=1), workers=1, restart="ExitCode")
    events = runs.to_end(job, restarts="as-operator")
    assert end_of(events).condition == "Succeeded"
    assert exits(events) == {"master-0": [(0, "Completed")], "worker-0": [(137, "Error"), (0, "Completed")]}


def test_as_operator_a_backoff_limit_of_1_ends_at_the_first_restart(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.jobs.lifecycle.kubelet_backoff_s", lambda _crashes: 0.05)
    program = "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(1)\ntime.sleep(60)"
    job = a_job(program, workers=1, restart="OnFailure", spec={"runPolicy": {"backoffLimit": 1}})
    events = runs.to_end(job, restarts="as-operator")
    assert (end_of(events).condition, end_of(events).reason) == ("Failed", "BackoffLimitExceeded")
    assert max(event.restarts for event in events if isinstance(event, ContainerStarted)) == 1


def test_as_operator_a_batch_job_without_a_limit_has_six(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.jobs.lifecycle.kubelet_backoff_s", lambda _crashes: 0.05)
    pod = {"restartPolicy": "OnFailure", "containers": [shell("main", "exit 1")]}
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "toy"}, "spec": {"template": {"spec": pod}}}
    events = runs.to_end(job_from_manifest(manifest), restarts="as-operator")
    assert end_of(events).reason == "BackoffLimitExceeded"
    assert "as often as backoffLimit 6 allows" in end_of(events).message
    assert max(event.restarts for event in events if isinstance(event, ContainerStarted)) == 6


# Faults


def test_a_command_that_is_not_there_is_told_before_anything_starts(runs: Runs) -> None:
    events = runs.to_end(a_job("", container={"command": ["/nowhere/train"]}))
    assert [type(event) for event in events] == [JobEnded]
    assert end_of(events).reason == "StartError"
    assert "/nowhere/train" in end_of(events).message


def test_no_free_port_is_told(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(ports.socket.socket):
        def bind(self, _address: Any) -> None:
            raise OSError(98, "Address already in use")

    monkeypatch.setattr(ports.socket, "socket", Taken)
    events = runs.to_end(a_job("pass"))
    assert end_of(events).reason == "StartError"
    assert "no free port at 127.0.0.1" in end_of(events).message


def test_a_folder_that_another_process_holds_is_not_used(runs: Runs) -> None:
    folder = runs.folder / PODS / "toy-master-0" / "pytorch"
    folder.mkdir(parents=True)
    held = claim(folder)
    events = runs.to_end(a_job("open('ran', 'w')"))
    held.close()
    assert "another process still holds" in end_of(events).message
    assert not (runs.folder / "ran").exists()


@pytest.mark.parametrize("number", ["EMFILE", "EAGAIN", "ENOMEM"])
@LINUX
def test_where_no_process_can_start_for_want_of_something_no_job_is_to_blame(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr("katuna.launch.process.subprocess.Popen", fail)
    with pytest.raises(StoreFailed, match=os.strerror(getattr(errno, number))):
        runs.to_end(a_job(""))


def test_volumes_of_the_pods_go_with_the_job(runs: Runs) -> None:
    pod = {"volumes": [{"name": "scratch", "emptyDir": {}}]}
    container = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
    program = "import os, sys; path = sys.argv[1]; open(path + '/x', 'w'); print(os.listdir(path), oct(os.stat(path).st_mode))"
    events = runs.to_end(a_job(program, "/scratch", pod=pod, container=container, workers=1))
    assert end_of(events).condition == "Succeeded", end_of(events)
    assert (runs.folder / "log").read_text().startswith("['x']")
    assert list(runs.folder.glob("volumes/*")) == []


# Memory

EATS = "import time\nblock = bytearray({mib} * 2**20)\nprint('has it', flush=True)\ntime.sleep({s})"


@LINUX
def test_a_replica_over_its_memory_limit_ends_as_oomkilled(runs: Runs) -> None:
    container = {"resources": {"limits": {"memory": "100Mi"}}}
    events = runs.to_end(a_job(EATS.format(mib=200, s=60), container=container))
    assert exits(events) == {"master-0": [(137, "OOMKilled")]}
    assert end_of(events).message == "it used more than its memory limit of 100 MiB and was ended"


@LINUX
def test_children_of_a_container_count_too(runs: Runs) -> None:
    container = {"resources": {"limits": {"memory": "100Mi"}}}
    program = (
        "import os, time\n"
        "for _ in range(3):\n"
        " if os.fork() == 0:\n  block = bytearray(50 * 2**20)\n  time.sleep(60)\n"
        "time.sleep(60)"
    )
    assert exits(runs.to_end(a_job(program, container=container))) == {"master-0": [(137, "OOMKilled")]}


@LINUX
def test_memory_that_processes_share_counts_once(runs: Runs) -> None:
    container = {"resources": {"limits": {"memory": "150Mi"}}}
    program = (
        "import os, time\n"
        "block = bytearray(80 * 2**20)\n"
        "children = []\n"
        "for _ in range(3):\n"
        " pid = os.fork()\n"
        " if pid == 0:\n  time.sleep(0.5)\n  os._exit(0)\n"
        " children.append(pid)\n"
        "[os.waitpid(pid, 0) for pid in children]"
    )
    assert end_of(runs.to_end(a_job(program, container=container))).condition == "Succeeded"


def test_a_delegated_cgroup_is_found_and_used(tmp_path: Path) -> None:
    """Files stand for the kernel's: what is written where, and what is read back."""
    parent = tmp_path / "cgroup" / "user" / "app"
    (parent / "katuna.scope").mkdir(parents=True)
    (parent / "cgroup.procs").touch()
    (parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/user/app/katuna.scope\n")
    assert memory.delegated(tmp_path / "cgroup", tmp_path) == parent
    limit = memory.MemoryLimit(1000, os.getpid(), 4242, parent)
    (own,) = parent.glob("katuna-*")
    assert {path.name: path.read_text() for path in own.iterdir()} == {
        "memory.max": "1000",
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "cgroup.procs": "4242",
    }
    (own / "memory.events").write_text("max 3\noom 1\noom_kill 0\n")
    assert not limit.enforce()
    (own / "memory.events").write_text("max 3\noom 1\noom_kill 2\n")
    assert limit.enforce()


@pytest.mark.parametrize("lines", ["4:memory:/x\n0::/\n", "0::/user/app/katuna.scope\n", ""])
def test_without_a_delegated_cgroup_there_is_none(tmp_path: Path, lines: str) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(lines)
    assert memory.delegated(tmp_path / "cgroup", tmp_path) is None
