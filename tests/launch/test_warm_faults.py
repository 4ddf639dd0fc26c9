"""Trials under a guard, cold or forked: how they end, and what becomes of them when the server of warm starts fails."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from launch_jobs import carriers, until
from starts import Bench, alive, below, everyone, how_started, is_warm

from katuna.launch.process import LOCK_NAME
from katuna.launch.warm import starter
from katuna.launch.warm.server import READY
from katuna.launch.warm.starter import Server, WarmStarter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="warm starts are for Linux")


# Under a guard, cold or warm


def test_output_is_there_before_the_end(bench: Bench) -> None:
    trial = bench.begin("python", bench.script("import time\nprint('now')\ntime.sleep(600)"), env={"PYTHONUNBUFFERED": "1"})
    trial.listen("started")
    assert until(lambda: trial.text == "now\n")
    trial.process.stop(5.0)
    assert trial.listen().end == (143, 15)
    assert trial.said["exited"]["cause"] == "stop"


def test_who_does_not_stop_is_killed_after_the_grace_period(bench: Bench) -> None:
    text = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    trial = bench.begin("python", bench.script(text)).listen("started")
    assert until(lambda: trial.text)
    trial.process.stop(0.1)
    assert trial.listen().end == (137, 9)


def test_the_deadline_ends_a_trial(bench: Bench) -> None:
    trial = bench.begin("python", bench.script("import time\ntime.sleep(600)"), deadline_s=0.3).listen()
    assert trial.said["exited"]["cause"] == "deadline"
    assert trial.end == (143, 15)


def test_what_outlives_a_trial_is_ended(bench: Bench) -> None:
    text = (
        "import os, time\nfor again in range(2):\n    if os.fork():\n        break\n    os.setsid()\nelse:\n    time.sleep(600)"
    )
    trial = bench.run("python", bench.script(text))
    assert trial.end == (0, 0)
    assert trial.said["exited"]["left"] >= 1


def test_a_folder_that_does_not_exist_is_told(bench: Bench, tmp_path: Path) -> None:
    trial = bench.run("python", str(tmp_path / bench.script("")), cwd="nowhere")
    assert (trial.said["failed"]["stage"], trial.said["failed"]["errno"]) == ("chdir", 2)


def test_a_killed_guards_processes_are_found_by_their_token(bench: Bench) -> None:
    text = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\nos.environ.clear()\ntime.sleep(600)"
    trial = bench.begin("python", bench.script(text)).listen("started")
    token = (trial.folder / LOCK_NAME).read_text()
    assert until(lambda: len(carriers(token)) == 4), "the guard, the trial, its child and its grandchild"
    os.kill(trial.process.guard_pid, signal.SIGKILL)
    trial.listen()
    assert "exited" not in trial.said
    assert carriers(token) == []


DRIVER = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from starts import *
bench = Bench(STARTERS[{how!r}](), Path({folder!r}))
trial = bench.begin("python", "program.py", env={{"MARK": {mark!r}}}).listen({event!r})
print("there", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("event", ["started", "no"], ids=["running", "being started"])
def test_nothing_is_left_when_katuna_is_killed(bench: Bench, tmp_path: Path, event: str) -> None:
    mark = f"mark-{uuid.uuid4()}"
    how = "warm" if isinstance(bench.starter, WarmStarter) else "cold"
    library = "torch" if event == "no" else "numpy"
    bench.script(f"import os, time, {library}\n# {mark}\nif os.fork() == 0:\n    os.setsid()\ntime.sleep(600)")
    text = DRIVER.format(path=sys.path, how=how, folder=str(tmp_path), mark=mark, event=event)
    if event == "no":
        text = text.replace(".listen('no')", "")
    driver = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, start_new_session=True)
    assert driver.stdout is not None
    with driver.stdout:
        assert driver.stdout.readline() == b"there\n"
        below = [pid for pid in everyone() if how_started(pid, driver.pid)]
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert below
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() and alive(pid) for pid in below), within_s=2.0)
    assert carriers(mark) == []


def test_a_trial_that_is_over_before_anybody_listens_is_told(warm_bench: Bench) -> None:
    name = warm_bench.script("print('done')", "quick.py")
    warm_bench.run("python", name)
    begun = [warm_bench.begin("python", name) for _ in range(5)]
    time.sleep(0.5)
    ended = [trial.listen() for trial in begun]
    assert all(map(is_warm, ended))
    assert [(trial.end, trial.text) for trial in ended] == [((0, 0), "done\n")] * 5


# The server's own faults


def server_of(bench: Bench) -> Server:
    assert isinstance(bench.starter, WarmStarter)
    (server,) = bench.starter._servers
    return server


def kill_all(pids: Iterable[int]) -> None:
    """Some of them go with others."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_dead_server_means_cold_starts_and_no_more(warm_bench: Bench, tmp_path: Path) -> None:
    name = warm_bench.script("import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)")
    running = warm_bench.begin("python", name).listen("started")
    server = server_of(warm_bench)
    kill_all({server._process.pid, *below(server._process.pid)} - {running.process.guard_pid})
    assert until(server.why)
    (tmp_path / "go").touch()
    trial = warm_bench.run("python", name)
    assert trial.process.how == {"start": "cold", "why": "the server of warm starts has ended"}
    assert (trial.end, running.listen().end) == ((0, 0), (0, 0))
    assert is_warm(running)


def test_a_server_that_dies_before_a_trial_has_begun_lets_it_start_cold_once(warm_bench: Bench) -> None:
    name = warm_bench.script("import numpy\nprint('once')")
    trials = [warm_bench.begin("python", name) for _ in range(2)]
    os.kill(server_of(warm_bench)._process.pid, signal.SIGKILL)
    for trial in trials:
        assert trial.listen().end == (0, 0)
        assert trial.process.how == {"start": "cold", "why": "the server of warm starts has ended"}
        assert trial.text == "once\n"


def test_a_server_that_is_never_ready_is_given_up(warm_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "READY_TIMEOUT_S", 0.2)
    trial = warm_bench.begin("python", warm_bench.script("import numpy"))
    os.kill(server_of(warm_bench)._process.pid, signal.SIGSTOP)
    assert trial.listen().end == (0, 0)
    assert trial.process.how == {"start": "cold", "why": "the server of warm starts was not ready after 0.2 s"}


def test_a_stop_waits_for_no_imports(warm_bench: Bench) -> None:
    trial = warm_bench.begin("python", warm_bench.script("import torch"))
    trial.process.stop(30.0)
    assert trial.listen().said["exited"]["cause"] == "stop"
    assert "started" not in trial.said
    assert trial.text == ""


def test_a_server_whose_imports_start_a_thread_forks_nothing(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()"
    )
    server = Server(frozenset({"busy"}), {"PYTHONPATH": str(tmp_path)})
    assert until(server.why)
    assert server.why() == "importing busy starts a thread"
    server.end()


def test_a_spare_guard_that_dies_is_no_trials_end(warm_bench: Bench) -> None:
    name = warm_bench.script("print('x')")
    assert is_warm(warm_bench.run("python", name))
    server = server_of(warm_bench)
    kill_all(below(server._process.pid))
    assert until(server.why)
    trial = warm_bench.run("python", name)
    assert (trial.end, trial.text, is_warm(trial)) == ((0, 0), "x\n", False)


@pytest.mark.parametrize("who", ["the server", "its idle guards", "all"])
def test_a_server_that_stalls_lets_trials_start_cold(warm_bench: Bench, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    name = warm_bench.script("print('x')")
    assert is_warm(warm_bench.run("python", name))
    pid = server_of(warm_bench)._process.pid
    assert until(lambda: len(below(pid)) == READY)
    monkeypatch.setattr(starter, "TAKEN_TIMEOUT_S", 0.5)
    stopped = {"the server": [pid], "its idle guards": below(pid), "all": [pid, *below(pid)]}[who]
    for one in stopped:
        os.kill(one, signal.SIGSTOP)
    trials = [warm_bench.begin("python", name) for _ in range(READY + 1)]
    ended = [trial.listen() for trial in trials]
    assert [(trial.end, trial.text) for trial in ended] == [((0, 0), "x\n")] * (READY + 1)
    starts = Counter(trial.process.how.get("why", "warm") for trial in ended)
    late = 1 if who == "the server" else READY + 1
    assert starts["the server of warm starts took no trial for 0.5 s"] == late, starts
    assert starts["warm"] == READY + 1 - late
    assert until(lambda: not any(map(alive, stopped)))


def test_a_request_that_somebody_holds_and_does_not_take_starts_cold(warm_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process would that was stopped before it could be told to end with the server."""
    held: list[socket.socket] = []

    def pair(*kinds: int) -> tuple[socket.socket, socket.socket]:
        ours, theirs = real(*kinds)
        if kinds:
            held.append(theirs.dup())
        return ours, theirs

    real = socket.socketpair
    monkeypatch.setattr(socket, "socketpair", pair)
    name = warm_bench.script("print('x')")
    assert is_warm(warm_bench.run("python", name))
    pid = server_of(warm_bench)._process.pid
    assert until(lambda: len(below(pid)) == READY)
    os.kill(pid, signal.SIGSTOP)
    for one in below(pid):
        os.kill(one, signal.SIGSTOP)
    trials = [warm_bench.begin("python", name) for _ in range(2)]
    os.kill(pid, signal.SIGKILL)
    assert [(trial.listen().end, trial.text, is_warm(trial)) for trial in trials] == [((0, 0), "x\n", False)] * 2
    assert len(held) == 1
    held[0].close()
