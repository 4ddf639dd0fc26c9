"""What trials, users and the kernel do to processes: each fault is one clear end, and nothing is left running."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_jobs import PATIENCE_S, ALauncher, a_launcher, a_request, carriers, run_one, the_end, until

from factories import make_trial
from katuna.launch.process import LOCK_NAME
from katuna.search.contracts import LaunchEvent
from katuna.search.trials import Exited, Reported, Started

linux = pytest.mark.skipif(sys.platform != "linux", reason="finds every descendant through /proc and a subreaper")
DRIVER = Path(__file__).parent / "driver.py"

FORKS_TWICE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for again in range(2):
    if os.fork():
        if again:
            os._exit(0)
        break
    os.setsid()
else:
    time.sleep(600)
"""
"""The grandchild is in a session of its own, has no parent left, and ignores SIGTERM; the main process goes on."""


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[ALauncher]:
    launcher = a_launcher(tmp_path)
    yield launcher
    launcher.close(0)


@pytest.fixture
def mark() -> Iterator[str]:
    mark = f"mark-{uuid.uuid4()}"
    yield mark
    for pid in carriers(mark):
        os.kill(pid, signal.SIGKILL)


def python(code: str) -> tuple[str, ...]:
    return ("python", "-S", "-c", code)


def end_of(launcher: ALauncher, *argv: str, **spec: object) -> Exited:
    return the_end(run_one(launcher, a_request(0, *argv, **spec)))


# Ends


def test_exits_1_with_a_traceback(launcher: ALauncher) -> None:
    end = end_of(launcher, *python("import time\nraise ValueError('no such data')"))
    assert (end.code, end.reason) == (1, "Error")
    assert "exited with code 1" in end.message
    assert "ValueError: no such data" in end.message


def test_is_killed_by_signal_9(launcher: ALauncher) -> None:
    end = end_of(launcher, "sh", "-c", "echo accuracy=0.5; kill -9 $$")
    assert (end.code, end.reason) == (137, "Error")
    assert "SIGKILL (signal 9); perhaps out of memory" in end.message


def test_a_shell_that_passes_a_signal_on_as_its_exit_code(launcher: ALauncher) -> None:
    end = end_of(launcher, "sh", "-c", "sh -c 'kill -11 $$'; exit $?")
    assert (end.code, end.reason) == (139, "Error")
    assert "SIGSEGV" in end.message


def test_hangs_until_its_deadline(launcher: ALauncher) -> None:
    events = run_one(launcher, a_request(0, "sh", "-c", "echo accuracy=0.5; sleep 600", activeDeadlineSeconds=1))
    end = the_end(events)
    assert (end.code, end.reason) == (143, "DeadlineExceeded")
    assert "activeDeadlineSeconds" in end.message
    assert 0.9 <= end.at - events[0].at < PATIENCE_S


def test_is_past_its_deadline_though_it_then_exits_0(launcher: ALauncher) -> None:
    end = end_of(launcher, "sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait", activeDeadlineSeconds=1)
    assert (end.code, end.reason) == (143, "DeadlineExceeded")


def test_the_deadline_covers_all_attempts(launcher: ALauncher) -> None:
    events = run_one(launcher, a_request(0, "sh", "-c", "sleep 0.4; exit 1", activeDeadlineSeconds=1, backoffLimit=50))
    assert the_end(events).reason == "DeadlineExceeded"
    assert 1 < sum(isinstance(event, Started) for event in events) < 5


def test_the_command_does_not_exist(launcher: ALauncher) -> None:
    end = end_of(launcher, "/opt/app/train", "--lr=0.1")
    assert (end.code, end.reason) == (None, "StartError")
    assert "container 'main'" in end.message
    assert "'/opt/app/train'" in end.message
    assert "--map /opt/app=" in end.message


def test_the_command_is_not_executable_after_all(launcher: ALauncher, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    end = end_of(launcher, str(broken))
    assert (end.code, end.reason) == (None, "StartError")
    assert f"'{broken}' cannot be run: No such file" in end.message


def test_the_log_cannot_be_written(launcher: ALauncher, tmp_path: Path) -> None:
    (tmp_path / "t0" / "log").mkdir(parents=True)
    end = end_of(launcher, "true")
    assert (end.code, end.reason) == (None, "StartError")
    assert f"{tmp_path / 't0' / 'log'}: it is no regular file" in end.message


def test_the_folder_cannot_be_made(launcher: ALauncher, tmp_path: Path) -> None:
    (tmp_path / "t0").write_text("in the way")
    end = end_of(launcher, "true")
    assert (end.code, end.reason) == (None, "StartError")
    assert str(tmp_path / "t0") in end.message


# Output


def reported(events: list[LaunchEvent]) -> list[str]:
    return [report.value for event in events if isinstance(event, Reported) for report in event.reports]


def test_prints_nan(launcher: ALauncher) -> None:
    events = run_one(launcher, a_request(0, "sh", "-c", "echo accuracy=nan; echo accuracy=1e400"))
    assert reported(events) == ["nan", "1e400"]
    end = the_end(events)
    assert (end.code, end.reason) == (0, "Completed")
    assert end.nearest == ("accuracy=nan",)


def test_prints_10_mb_without_a_newline(launcher: ALauncher, tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write('x' * 10_000_000); print('\\naccuracy=0.5'); sys.exit(3)"
    events = run_one(launcher, a_request(0, *python(code)))
    assert reported(events) == ["0.5"]
    assert len(the_end(events).message) < 1000
    assert (tmp_path / "t0" / "log").stat().st_size > 10_000_000


def test_prints_a_long_line_and_dies_in_it(launcher: ALauncher) -> None:
    events = run_one(launcher, a_request(0, *python("import os; os.write(1, b'y' * 3_000_000 + b' accuracy=0.25'); os._exit(1)")))
    assert reported(events) == ["0.25"]
    assert len(the_end(events).message) < 1000


def test_prints_invalid_utf8_and_terminal_escapes(launcher: ALauncher) -> None:
    code = (
        r"import os; os.write(1, b'\xff\xfe\x00 accuracy=0.5 \x80\n\x1b]0;owned\x07<script>alert(1)</script>\r\n'); os._exit(1)"
    )
    events = run_one(launcher, a_request(0, *python(code)))
    assert reported(events) == ["0.5"]
    message = the_end(events).message
    assert message.isprintable()
    assert "\\x1b]0;owned\\x07" in message


def test_writes_to_stderr_in_the_same_order(launcher: ALauncher, tmp_path: Path) -> None:
    run_one(launcher, a_request(0, "sh", "-c", "echo 1; echo 2 >&2; echo 3"))
    assert (tmp_path / "t0" / "log").read_text() == "1\n2\n3\n"


def test_reads_nothing_from_katunas_terminal(launcher: ALauncher) -> None:
    events = run_one(launcher, a_request(0, "sh", "-c", "read line; echo accuracy=${#line}"))
    assert reported(events) == ["0"]


# Descendants


def test_a_child_that_outlives_the_trial_is_ended_and_told(launcher: ALauncher, mark: str) -> None:
    end = end_of(launcher, "sh", "-c", f"sh -c 'sleep 600; echo {mark}' & echo accuracy=0.5")
    assert (end.code, end.reason) == (0, "Completed")
    assert re.fullmatch(r"\d process(es that outlived it were| that outlived it was) ended", end.message)
    assert carriers(mark) == []


@linux
def test_no_descendant_escapes_by_forking_twice(launcher: ALauncher, mark: str) -> None:
    end = end_of(launcher, *python(FORKS_TWICE), mark)
    assert end.code == 0
    assert "outlived" in end.message
    assert carriers(mark) == []


def test_helpers_that_end_by_themselves_are_no_leftovers(launcher: ALauncher) -> None:
    end = end_of(launcher, "sh", "-c", "sleep 0.05 & echo accuracy=0.5")
    assert (end.reason, end.message) == ("Completed", "")


def test_what_ignores_sigterm_is_killed(launcher: ALauncher, mark: str) -> None:
    def stop(event: object) -> None:
        if isinstance(event, Reported):
            launcher.stop(0, 0.3)

    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('accuracy=1', flush=True); time.sleep(600)"
    events = run_one(launcher, a_request(0, *python(code), mark), stop)
    assert the_end(events).code == 137
    assert carriers(mark) == []


def test_close_leaves_nothing(launcher: ALauncher, mark: str) -> None:
    for number in range(3):
        launcher.start(a_request(number, *python("print('accuracy=1', flush=True)" + FORKS_TWICE + "time.sleep(600)"), mark))
    while len(carriers(mark)) < 6:
        launcher.poll(0.1)
    launcher.close(0.2)
    assert carriers(mark) == []


# Deaths


@contextlib.contextmanager
def katuna_with_a_trial(folder: Path, mark: str, code: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a launcher, in a process group of its own, once its trial has reported."""
    command = [sys.executable, str(DRIVER), str(folder), mark, *python(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("Reported") for line in process.stdout)
            yield process
        finally:
            process.kill()


@linux
@pytest.mark.parametrize("whole_group", [False, True])
def test_sigkill_of_katuna_leaves_no_process(tmp_path: Path, mark: str, whole_group: bool) -> None:
    code = FORKS_TWICE + "print('accuracy=1', flush=True)\ntime.sleep(600)"
    with katuna_with_a_trial(tmp_path, mark, code) as process:
        assert until(lambda: len(carriers(mark)) == 3), "this katuna, the trial and its grandchild"
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        # About one second is what the guard gives; the rest is for a loaded machine.
        assert until(lambda: not carriers(mark), within_s=10), carriers(mark)
    launcher = a_launcher(tmp_path)
    assert launcher.attach(make_trial(0, name="t0")) is False
    assert the_end(run_one(launcher, a_request(0, "true"))).code == 0
    launcher.close()


@linux
def test_attach_waits_for_the_guard_of_a_dead_katuna(tmp_path: Path, mark: str) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('accuracy=1', flush=True); time.sleep(600)"
    with katuna_with_a_trial(tmp_path, mark, code) as process:
        process.kill()
        launcher = a_launcher(tmp_path)
        assert launcher.attach(make_trial(0, name="t0")) is False
        assert [pid for pid in carriers(mark) if pid != process.pid] == []
    launcher.close()


@linux
def test_sigkill_of_the_guard_ends_the_trial_and_its_children(launcher: ALauncher, mark: str) -> None:
    def kill_guard(event: object) -> None:
        if isinstance(event, Started):
            guard.append(event.process["guard"])
        if isinstance(event, Reported):
            assert until(lambda: len(carriers(mark)) == 2)
            os.kill(guard[0], signal.SIGKILL)

    guard: list[int] = []
    code = FORKS_TWICE + "print('accuracy=1', flush=True)\ntime.sleep(600)"
    end = the_end(run_one(launcher, a_request(0, *python(code), mark), kill_guard))
    assert (end.code, end.reason) == (137, "GuardLost")
    assert carriers(mark) == []


@linux
def test_attach_ends_what_was_left_when_guard_and_katuna_were_killed(tmp_path: Path, mark: str) -> None:
    code = FORKS_TWICE + "print('accuracy=1', flush=True)\ntime.sleep(600)"
    with katuna_with_a_trial(tmp_path, mark, code) as process:
        assert until(lambda: len(carriers(mark)) == 3)
        token = next((tmp_path / "t0").glob(f"**/{LOCK_NAME}")).read_text()
        guards = [pid for pid in carriers(token) if pid not in carriers(mark)]
        assert len(guards) == 1
        os.kill(guards[0], signal.SIGSTOP)
        process.kill()
        os.kill(guards[0], signal.SIGKILL)
    assert until(lambda: len(carriers(mark)) == 1), "the grandchild is an orphan now, the main process died with its guard"
    launcher = a_launcher(tmp_path)
    assert launcher.attach(make_trial(0, name="t0")) is False
    assert carriers(mark) == []
    launcher.close()


def test_a_stop_that_comes_before_the_guard_has_started_is_carried_out(launcher: ALauncher, mark: str) -> None:
    launcher.start(a_request(0, "sh", "-c", f"sleep 600; echo {mark}"))
    # Starts the guard and does not wait for it: the stop is in the socket behind the Spec before anybody reads.
    assert launcher.poll(0) == []
    launcher.stop(0, 0.2)
    events: list[LaunchEvent] = []
    assert until(lambda: events.extend(launcher.poll(1.0)) or (events and isinstance(events[-1], Exited)))
    assert the_end(events).code == 143
    assert carriers(mark) == []


@linux
def test_a_child_of_katuna_that_holds_the_socket_does_not_keep_the_trial_alive(tmp_path: Path, mark: str) -> None:
    """Forked without exec, as a data loader is, it has inherited katuna's end of the socket: the guard sees no end of file."""
    code = f"""
import os, sys, time
from pathlib import Path
from launch_jobs import a_launcher, a_request
launcher = a_launcher(Path({str(tmp_path)!r}))
launcher.start(a_request(0, "sh", "-c", "echo accuracy=1; sleep 600; echo {mark}"))
while "Reported" not in str(launcher.poll(1.0)):
    pass
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        process.stdin.write(code)
        process.stdin.close()
        child = int(process.stdout.readline())
        try:
            assert carriers(mark)
            process.kill()
            process.wait()
            assert until(lambda: not carriers(mark), within_s=15)
        finally:
            os.kill(child, signal.SIGKILL)


@linux
def test_a_trial_inherits_no_file_of_katunas(launcher: ALauncher, tmp_path: Path) -> None:
    run_one(launcher, a_request(0, *python("import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')))")))
    # 3 is the listing itself.
    assert (tmp_path / "t0" / "log").read_text() == "[0, 1, 2, 3]\n"
