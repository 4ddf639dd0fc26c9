from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path

import pytest
from launch_jobs import a_launcher, a_request, run_one, the_end, until

from katuna.launch import devices
from katuna.launch.devices import DevicePool, allowed, cuda_devices, parse_listing
from katuna.launch.local_options import LocalOptions
from katuna.search.trials import Exited, Noted, Started
from searches import katuna, write_experiment

GPU_LIMIT = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa-01)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb-02)
  MIG 3g.20gb     Device  0: (UUID: MIG-cccc-03)
  MIG 3g.20gb     Device  1: (UUID: MIG-dddd-04)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-eeee-05)
"""
INSTALLED = {"0": ["GPU-aaaa-01"], "1": ["MIG-cccc-03", "MIG-dddd-04"], "2": ["GPU-eeee-05"]}

HOLDER = """
import sys, time
from pathlib import Path
from katuna.launch.devices import DevicePool
log = Path(sys.argv[1])
pool = DevicePool(sys.argv[2:])
done = 0
while done < 5:
    lease = pool.lease(1)
    if lease is None:
        time.sleep(0.005)
        continue
    for event in ("take", "give"):
        with log.open("a") as out:
            out.write(f"{event} {lease.devices[0]}\\n")
        time.sleep(0.01)
    lease.close()
    done += 1
"""
NOBODY = 65534
NOBODYS = f"""
import os, sys
from katuna.launch.devices import DevicePool
os.setuid({NOBODY})
pool = DevicePool(sys.argv[1:])
lease = pool.lease(1)
print("took it", flush=True)
input()
lease.close()
print("gave it", flush=True)
input()
print(pool.lease(1), flush=True)
"""
TAKES = "import sys; from katuna.launch.devices import DevicePool; print(DevicePool(sys.argv[1:]).lease(1))"


@pytest.fixture
def gpus() -> tuple[str, str]:
    """Names that no other test has: leases hold on the whole machine."""
    return f"GPU-a-{uuid.uuid4()}", f"GPU-b-{uuid.uuid4()}"


def test_reads_the_listing_of_nvidia_smi() -> None:
    assert parse_listing(LISTING) == INSTALLED
    assert parse_listing("No devices found.\n") == {}


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ("GPU-aaaa-01", "MIG-cccc-03", "MIG-dddd-04", "GPU-eeee-05")),
        ("2,0", ("GPU-eeee-05", "GPU-aaaa-01")),
        ("GPU-eeee", ("GPU-eeee-05",)),
        ("1", ("MIG-cccc-03", "MIG-dddd-04")),
        ("0,-1,2", ("GPU-aaaa-01",)),
        ("0,7,2", ("GPU-aaaa-01",)),
        ("0,0", ("GPU-aaaa-01",)),
        ("none", ()),
    ],
)
def test_a_callers_cuda_visible_devices_is_respected(visible: str | None, expected: tuple[str, ...]) -> None:
    assert allowed(INSTALLED, visible) == expected


def test_an_empty_cuda_visible_devices_asks_nobody() -> None:
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": "", "PATH": "/nowhere"}) == ()


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, prints: str, code: int) -> Path:
    """One that prints and ends so; the log of its calls."""
    tool, log = folder / "nvidia-smi", folder / "log"
    tool.write_text(f"#!/bin/sh\necho asked >> {log}\ncat <<'E'\n{prints}\nE\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return log


def test_nvidia_smi_is_asked_once_and_only_when_gpus_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = nvidia_smi(tmp_path, monkeypatch, LISTING, 0)
    pool = DevicePool(cuda_devices({}))
    assert pool.lease(0) is not None
    assert not log.exists()
    assert [len(pool.devices), len(cuda_devices({"CUDA_VISIBLE_DEVICES": "0"}))] == [4, 1]
    assert pool.devices[0] == "GPU-aaaa-01"
    assert log.read_text() == "asked\n"


def test_good_gpus_stay_where_one_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = "GPU 0: A6000 (UUID: GPU-aaaa-01)\nUnable to determine the device handle for GPU1: 0000:3B:00.0: Unknown Error"
    nvidia_smi(tmp_path, monkeypatch, broken, 15)
    assert tuple(cuda_devices({})) == ("GPU-aaaa-01",)


def test_nvidia_smi_is_found_where_path_does_not_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the same device would have a number for a name in one process, and its UUID in another."""
    nvidia_smi(tmp_path, monkeypatch, LISTING, 0)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(devices, "USUAL_PATH", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", partial(subprocess.run, env={"PATH": os.defpath}))
    assert cuda_devices({})[0] == "GPU-aaaa-01"


@pytest.mark.parametrize(
    ("prints", "code", "said"),
    [
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95",
            18,
            "has none that can be used; nvidia-smi: Failed to initialize NVML: Driver/library version mismatch; NVML library version: 580.95",
        ),
        (
            "GPU 0: A6000 (UUID: GPU-aaaa-01)\nUnable to determine the device handle for GPU1: Unknown Error",
            15,
            "has 1 that can be used; nvidia-smi: Unable to determine the device handle for GPU1: Unknown Error",
        ),
        ("", 9, "has none that can be used; nvidia-smi: exit code 9"),
        ("GPU 0: A6000 (UUID: GPU-aaaa-01)\n  MIG 1g.5gb Device 0: (UUID: MIG-1)", 0, "and this machine has 1"),
    ],
)
def test_too_few_gpus_are_told_in_nvidia_smis_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prints: str, code: int, said: str
) -> None:
    log = nvidia_smi(tmp_path, monkeypatch, prints, code)
    launcher = a_launcher(tmp_path, devices=None, environ=dict(os.environ))
    request = a_request(0, "true", container={"resources": {"limits": {"nvidia.com/gpu": 2}}})
    (finding,) = launcher.preflight([request])
    assert finding.message.endswith(said)
    assert log.read_text() == "asked\n"
    launcher.close()


def test_a_dry_run_of_a_cpu_job_asks_for_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = nvidia_smi(tmp_path, monkeypatch, LISTING, 0)
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, parallelTrialCount=1)
    done = katuna("tune", "experiment.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not log.exists()


def test_a_device_has_one_holder(gpus: tuple[str, str]) -> None:
    first, second = (DevicePool(gpus) for _ in range(2))
    one = first.lease(1)
    assert one is not None
    assert one.devices == gpus[:1]
    assert second.lease(2) is None
    other = second.lease(1)
    assert other is not None
    assert other.devices == gpus[1:]
    assert first.lease(1) is None
    one.close()
    again = second.lease(1)
    assert again is not None
    assert again.devices == gpus[:1]
    again.close()
    other.close()


def test_what_could_not_be_had_whole_is_given_back(gpus: tuple[str, str]) -> None:
    pool = DevicePool(gpus)
    one = pool.lease(1)
    assert one is not None
    assert pool.lease(2) is None
    one.close()
    both = pool.lease(2)
    assert both is not None
    both.close()


def test_where_no_lease_can_be_made_none_is_kept(gpus: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([devices._take(gpus[0])])

    def take(device: str) -> int | None:
        lock = next(taken, -1)
        if lock == -1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return lock

    with monkeypatch.context() as patch:
        patch.setattr(devices, "_take", take)
        with pytest.raises(OSError, match="Too many open files"):
            DevicePool(gpus).lease(2)
    both = DevicePool(gpus).lease(2)
    assert both is not None
    both.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the leases of a user are in his home")
@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "TMPDIR", "HOME"])
def test_no_variable_leads_past_a_lease(gpus: tuple[str, str], tmp_path: Path, variable: str) -> None:
    lease = DevicePool(gpus[:1]).lease(1)
    assert lease is not None
    command = [sys.executable, "-c", TAKES, gpus[0]]
    for taken in (True, False):
        done = subprocess.run(command, env={**os.environ, variable: str(tmp_path)}, capture_output=True, text=True, check=True)
        assert (done.stdout == "None\n") is taken, done.stdout
        lease.close() if taken else None


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can become another user")
def test_no_user_gets_what_another_has(gpus: tuple[str, str]) -> None:
    """Whichever of the two is first; and who waits is told who has it."""
    pool = DevicePool(gpus[:1])
    command = [sys.executable, "-c", NOBODYS, gpus[0]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "took it\n"
        assert pool.lease(1) is None
        assert pool.holders() == f"pid {other.pid} of user {NOBODY}"
        other.stdin.write("give it\n")
        assert other.stdout.readline() == "gave it\n"
        lease = pool.lease(1)
        assert lease is not None
        other.stdin.write("try again\n")
        assert other.stdout.readline() == "None\n"
        lease.close()


def test_locked_files_hold_as_well(tmp_path: Path) -> None:
    """What there is where there are no abstract sockets."""
    one = devices._lock(tmp_path / "leases", "GPU-a")
    assert one is not None
    assert devices._lock(tmp_path / "leases", "GPU-a") is None
    os.close(one)
    again = devices._lock(tmp_path / "leases", "GPU-a")
    assert again is not None
    os.close(again)
    (tmp_path / "leases" / "GPU-b.lock").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="link"):
        devices._lock(tmp_path / "leases", "GPU-b")


def test_processes_take_turns(tmp_path: Path, gpus: tuple[str, str]) -> None:
    """Four processes, two devices: at no time do two hold one, and every one comes to its turn."""
    log = tmp_path / "log"
    processes = [subprocess.Popen([sys.executable, "-c", HOLDER, str(log), *gpus]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    events = [line.split() for line in log.read_text().splitlines()]
    assert len(events) == 4 * 5 * 2
    for device, group in itertools.groupby(sorted(events, key=lambda event: event[1]), key=lambda event: event[1]):
        kinds = [kind for kind, _ in group]
        assert kinds == ["take", "give"] * (len(kinds) // 2), device


# Through the launcher


def seen(tmp_path: Path, name: str = "t0") -> str:
    return (tmp_path / name / "log").read_text().strip()


SHOW = ("sh", "-c", 'echo "[$CUDA_VISIBLE_DEVICES]"')


@pytest.mark.parametrize(
    ("device", "asks", "expected"),
    [("job", False, "[]"), ("job", True, "[GPU]"), ("cpu", True, "[]"), ("cuda", False, "[GPU]"), ("cuda", True, "[GPU]")],
)
def test_a_trial_sees_the_devices_that_are_its_own(
    gpus: tuple[str, str], tmp_path: Path, device: str, asks: bool, expected: str
) -> None:
    options = LocalOptions(device=device)  # type: ignore[arg-type]
    launcher = a_launcher(tmp_path, options=options, devices=DevicePool(gpus), environ={"CUDA_VISIBLE_DEVICES": "5"})
    assert the_end(run_one(launcher, a_request(0, *SHOW, container=GPU_LIMIT if asks else {}))).code == 0
    assert seen(tmp_path) == expected.replace("GPU", gpus[0])
    launcher.close()


def test_a_trial_waits_for_a_device_without_starting(gpus: tuple[str, str], tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, devices=DevicePool(gpus[:1]))
    for number in range(3):
        launcher.start(a_request(number, "sh", "-c", "sleep 0.2", container=GPU_LIMIT))
    running, most, ended = set[int](), 0, 0
    while ended < 3:
        for event in launcher.poll(5.0):
            if isinstance(event, Started):
                running.add(event.number)
            if isinstance(event, Exited):
                running.remove(event.number)
                ended += 1
            most = max(most, len(running))
    assert most == 1
    launcher.close()


def test_a_waiting_trial_can_be_stopped(gpus: tuple[str, str], tmp_path: Path) -> None:
    taken = DevicePool(gpus[:1]).lease(1)
    assert taken is not None
    launcher = a_launcher(tmp_path, devices=DevicePool(gpus[:1]))
    launcher.start(a_request(0, *SHOW, container=GPU_LIMIT))
    (noted,) = launcher.poll(0.3)
    assert isinstance(noted, Noted)
    assert noted.text.startswith("waiting for 1 GPU that others have")
    assert launcher.poll(0.3) == [], "said once"
    launcher.stop(0, 1.0)
    (end,) = launcher.poll(1.0)
    assert isinstance(end, Exited)
    assert (end.code, end.reason) == (None, "Stopped")
    taken.close()
    launcher.close()


def test_more_devices_than_there_are_is_refused_with_the_way_out(gpus: tuple[str, str], tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, devices=DevicePool(gpus[:1]))
    request = a_request(0, *SHOW, container={"resources": {"limits": {"nvidia.com/gpu": 2}}})
    (finding,) = launcher.preflight([request])
    assert "2 GPU" in finding.message
    assert "--device cpu" in finding.hint
    end = the_end(run_one(launcher, request))
    assert (end.code, end.reason) == (None, "StartError")
    assert "--device cpu" in end.message
    launcher.close()


@pytest.mark.skipif(sys.platform != "linux", reason="kills a trial's guard by its token")
def test_a_device_stays_taken_while_anything_of_a_killed_katunas_trial_is_left(gpus: tuple[str, str], tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from launch_jobs import a_launcher, a_request
from katuna.launch.devices import DevicePool
folder = Path(sys.argv[1])
launcher = a_launcher(folder, devices=DevicePool(sys.argv[2:]))
trial = "import signal, time; signal.signal(15, signal.SIG_IGN); print('accuracy=1', flush=True); time.sleep(600)"
limits = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
launcher.start(a_request(0, "python", "-S", "-c", trial, container=limits))
while "Reported" not in str(launcher.poll(1.0)):
    pass
print("ready", flush=True)
time.sleep(600)
"""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), gpus[0]], stdout=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait()
        # The trial ignores SIGTERM: for the guard's second of grace it is still there.
        assert DevicePool(gpus[:1]).lease(1) is None
    leases = []
    assert until(lambda: leases.append(lease) or True if (lease := DevicePool(gpus[:1]).lease(1)) else False)
    leases[0].close()
