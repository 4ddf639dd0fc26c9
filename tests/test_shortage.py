"""Where the machine is short of what processes need, no trial is to blame: a run that cannot do with what there is does not begin, else it
pauses, and comes to what it would have come to when it is resumed. With the kernel's own limits."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from searches import KATUNA, journal_events, katuna, write_experiment
from toy_jobs import write_job

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds what is left through /proc")

ISOLATION = Path(__file__).parent / "isolation"
WAY = {"cold": ("--cold",), "warm": ()}

LIMITED = f"""
import resource, sys
soft, hard = map(int, sys.argv[1:3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
import os
os.execv({KATUNA[0]!r}, [{", ".join(map(repr, KATUNA))}, *sys.argv[3:]])
"""
EATS = """
import os, resource, sys
from katuna.cli.verbs import run
from katuna.runs import journal
resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
name, left, place = sys.argv[1], [int(sys.argv[2])], sys.argv[3]
append = journal.Journal.append
def append_and_eat(self, event):
    append(self, event)
    left[0] -= type(event).__name__ == name
    if left[0] == 0:
        open(place + "/eaten", "w").close()
    while left[0] <= 0:
        try:
            os.open("/dev/null", os.O_RDONLY)
        except OSError:
            break
journal.Journal.append = append_and_eat
run(sys.argv[4:])
"""
"""The katuna command, which has no file descriptor left once so many events of a kind are in the journal."""

TRIAL = """
import os, signal, sys, time
place = os.environ["PLACE"]
def asked(number, frame):
    open(place + "/asked", "w").close()
    sys.exit(1)
signal.signal(signal.SIGTERM, asked)
for number in range(100):
    try:
        os.mkdir(f"{place}/{number}")
        break
    except FileExistsError:
        continue
print("accuracy=" + sys.argv[1], flush=True)
while not os.path.exists(place + "/2"):
    time.sleep(0.05)
if number >= 2 and not os.path.exists(place + "/go"):
    time.sleep(600)
"""
"""The first two to start end when there is a third; the others run on until they are asked to end, or may `go`."""

TOGETHER = """
import os, time, uuid
os.mkdir(f"{os.environ['PLACE']}/{uuid.uuid4()}")
while len(os.listdir(os.environ["PLACE"])) < 12:
    time.sleep(0.05)
print("accuracy=0.5")
"""
"""All twelve run at a time before the first ends."""

RANK = """
import os, signal, sys, time
place = os.environ["PLACE"]
def asked(number, frame):
    open(place + "/asked", "w").close()
    sys.exit(1)
signal.signal(signal.SIGTERM, asked)
print("loss=0.5", flush=True)
while not os.path.exists(place + "/go"):
    time.sleep(0.05)
"""
INIT = """
import os, sys, time
while "worker" in os.environ["POD"] and not os.path.exists(os.environ["PLACE"] + "/eaten"):
    time.sleep(0.05)
"""
"""The Worker's training starts when the Master's runs already."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that is in the environment of all that the run starts, and of nothing else."""
    folder = tmp_path / f"mark-{uuid.uuid4()}"
    folder.mkdir()
    return folder


def limited(soft: int, hard: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return python(LIMITED, str(soft), str(hard), *map(str, arguments))


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "PATH": path},
    )


def left_of(place: Path) -> list[str]:
    """The processes that carry the place in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(place) in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def ends(run: Path, kind: str = "Exited") -> list[int | None]:
    return [event["code"] for event in journal_events(run) if event["event"] == kind]


def starts(run: Path, kind: str = "Started") -> set[str]:
    return {event["process"]["start"] for event in journal_events(run) if event["event"] == kind}


def outcome(run: Path) -> dict[int, list[Any]]:
    """What each trial was given, what its last attempt reported, and how that ended."""
    told: dict[int, list[Any]] = {}
    for event in journal_events(run):
        match event["event"]:
            case "Asked":
                told[event["number"]] = [event["name"], event["assignments"]]
            case "Started":
                del told[event["number"]][2:]
            case "Reported":
                told[event["number"]] += event["reports"]
            case "Exited":
                told[event["number"]] += [event["code"], event["reason"], event["message"]]
    return told


# Before the start


def test_a_search_that_needs_more_files_than_may_be_open_does_not_begin(tmp_path: Path) -> None:
    file = write_experiment(tmp_path, parallelTrialCount=12, maxTrialCount=12)
    done = limited(40, 40, "tune", file)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "12 containers at a time may need" in done.stderr
    assert "open files, and the limit is 40" in done.stderr
    assert "`ulimit -n" in done.stderr
    assert "parallelTrialCount" in done.stderr
    assert not (tmp_path / "runs").exists()
    done = limited(40, 40, "tune", write_experiment(tmp_path, parallelTrialCount=2))
    assert done.returncode == 0, done.stderr


def test_a_resume_that_needs_more_files_than_may_be_open_changes_nothing(tmp_path: Path) -> None:
    assert katuna("tune", write_experiment(tmp_path, resumePolicy="LongRunning"), cwd=tmp_path).returncode == 0
    journal = tmp_path / "runs" / "toy" / "journal.jsonl"
    before = journal.read_bytes()
    done = limited(40, 40, "resume", "toy", "--max-trials", "30", "--parallel", "12")
    assert (done.returncode, "the limit is 40" in done.stderr) == (2, True), done.stderr
    assert journal.read_bytes() == before


def test_the_soft_limit_is_raised_where_the_hard_one_lets_it(tmp_path: Path, place: Path) -> None:
    file = write_experiment(tmp_path, TOGETHER, env={"PLACE": str(place)}, parallelTrialCount=12, maxTrialCount=12)
    done = limited(40, 400, "tune", file, "--shared-files")
    assert done.returncode == 0, done.stderr
    assert ends(tmp_path / "runs" / "toy") == [0] * 12


def test_a_job_that_needs_more_files_than_may_be_open_does_not_begin(tmp_path: Path) -> None:
    done = limited(40, 40, "train", write_job(tmp_path, "", workers=11))
    assert (done.returncode, "the limit is 40" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "runs").exists()


# While it runs


def told(done: subprocess.CompletedProcess[str], words: str) -> None:
    """That the run has paused, why and what to do, in one message."""
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert words in line
    assert "Everything recorded before is kept" in line
    assert "go on with `katuna resume toy`" in line


@pytest.mark.parametrize("way", WAY)
def test_a_search_that_runs_out_of_files_pauses_and_comes_to_the_same(
    tmp_path: Path, place: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trial.py").write_text(TRIAL)
    monkeypatch.chdir(tmp_path)
    file = write_experiment(
        tmp_path,
        command=["python", "trial.py", "${trialParameters.lr}"],
        env={"PLACE": str(place)},
        parallelTrialCount=3,
        maxTrialCount=7,
    )
    done = python(EATS, "Exited", "2", str(place), "tune", str(file), "--shared-files", *WAY[way])
    run = tmp_path / "runs" / "toy"
    told(done, "Too many open files (RLIMIT_NOFILE is 200)")
    assert "raise the limit (`ulimit -n`)" in done.stderr
    assert starts(run) == {way}
    assert set(ends(run)) == {0}, "no trial has failed"
    assert (place / "asked").exists(), "what ran was asked to end"
    assert left_of(place) == []
    (place / "go").touch()
    again = python(EATS, "never", "1", "", "resume")
    assert again.returncode == 0, again.stderr
    assert ends(run) == [0] * 7
    undisturbed = python(EATS, "never", "1", "", "tune", str(file), "--shared-files", *WAY[way])
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert outcome(run) == outcome(tmp_path / "runs" / "toy-2")


@pytest.mark.parametrize("way", WAY)
def test_a_job_that_runs_out_of_files_pauses_and_is_resumed(
    tmp_path: Path, place: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    monkeypatch.chdir(tmp_path)
    env = [
        {"name": "PLACE", "value": str(place)},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    init = {"name": "init", "image": "x", "command": ["python", "-S", "-c", INIT], "env": env}
    file = write_job(
        tmp_path, "", workers=1, pod={"initContainers": [init]}, container={"command": ["python", "rank.py"], "env": env}
    )
    done = python(EATS, "Reported", "1", str(place), "train", str(file), "--in-place", *WAY[way])
    run = tmp_path / "runs" / "toy"
    told(done, "Too many open files (RLIMIT_NOFILE is 200)")
    assert way in starts(run, "ContainerStarted")
    assert (place / "asked").exists(), "what ran was asked to end"
    assert left_of(place) == []
    assert not [event for event in journal_events(run) if event["event"] in ("Exited", "Ended")]
    (place / "go").touch()
    again = python(EATS, "never", "1", "", "resume")
    assert again.returncode == 0, again.stderr
    assert journal_events(run)[-1]["succeeded"]


# Processes: a limit that holds for every user but root

AS_USER = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
import as_nobody
as_nobody.NOBODY = int(sys.argv[2])
as_nobody.show(as_nobody.installation())
as_nobody.become_nobody()
resource.setrlimit(resource.RLIMIT_NPROC, (int(sys.argv[3]), resource.getrlimit(resource.RLIMIT_NPROC)[1]))
os.chdir(sys.argv[4])
os.execv(sys.executable, [sys.executable, *sys.argv[5:]])
"""


class User:
    """A user of whom nothing else runs, with a home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.uid = 100_000 + uuid.uuid4().int % 1_000_000
        os.chown(home, self.uid, self.uid)

    def run(self, processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", AS_USER, ISOLATION, str(self.uid), str(processes), self.home, *arguments]
        variables = {"HOME": str(self.home), "KATUNA_HOME": str(self.home / "runs"), "OPENBLAS_NUM_THREADS": "1"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, **variables, "PATH": path}
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=env)


@pytest.fixture
def user() -> Iterator[User]:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        made = User(Path(folder))
        if made.run(100, "-c", "import katuna").returncode:
            pytest.skip("another user can neither reach this Python nor be shown it")
        yield made


@pytest.mark.parametrize("way", WAY)
@pytest.mark.parametrize(("processes", "at_a_time"), [(1, 1), (2, 1), (5, 3)])
@pytest.mark.parametrize("verb", ["tune", "train"])
def test_a_run_that_may_start_no_more_processes_pauses(user: User, verb: str, processes: int, at_a_time: int, way: str) -> None:
    """1: katuna can start no guard; 2: the guard can start no trial; 5: some run, and another cannot start."""
    sleeps = "import os, sys, time; print('accuracy=0.5', flush=True); os.path.exists('go') or time.sleep(600)"
    (user.home / "trial.py").write_text(sleeps)
    command = ["python", "trial.py"]
    if verb == "tune":
        file = write_experiment(user.home, command=[*command, "${trialParameters.lr}"], parallelTrialCount=at_a_time)
    else:
        file = write_job(user.home, "", workers=at_a_time - 1, container={"command": command})
    done = user.run(processes, "-m", "katuna", verb, str(file), "--shared-files" if verb == "tune" else "--in-place", *WAY[way])
    told(done, f"Resource temporarily unavailable (RLIMIT_NPROC is {processes})")
    assert "raise the limit (`ulimit -u`)" in done.stderr
    run = user.home / "runs" / "toy"
    assert not [event for event in journal_events(run) if event["event"] in ("Exited", "Ended")]
    (user.home / "go").touch()
    again = user.run(1000, "-m", "katuna", "resume")
    assert again.returncode == 0, again.stderr
