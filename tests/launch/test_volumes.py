"""Checkpoints from parent to child, folders that a trial has for itself, and the volumes of pods."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launch_jobs import PATIENCE_S, WallClock, a_launcher, a_request, run_one, the_end

from katuna.errors import LaunchFailed
from katuna.jobs.lifecycle import JobEnded
from katuna.launch.devices import Lease
from katuna.launch.jobrun import JobRun
from katuna.launch.leftovers import end_left, release
from katuna.launch.local_options import LocalOptions
from katuna.launch.meeting import Stores
from katuna.launch.needs import Needs, copy_folder
from katuna.launch.plan import Place, plan, preflight
from katuna.launch.process import ColdStarter, Starter, await_any, claim
from katuna.launch.volumes import RECORD, PodVolumes, private_name
from katuna.launch.warm.starter import UNSAID, WarmStarter
from katuna.launch.workspace import Files
from katuna.manifest.build import job_from_manifest
from katuna.manifest.experiment import Collector
from katuna.manifest.job import MASTER_PORT, Job
from katuna.search.contracts import TrialRequest
from katuna.search.trials import Exited, Reported, Started, Told
from toy_jobs import pytorchjob

WHERE = "/var/log/katib/checkpoints/"

TRAINS = """
cd /var/log/katib/checkpoints
before=$(cat steps 2>/dev/null || echo 0)
echo $((before + 1)) > steps
echo accuracy=$((before + 1))
"""


def a_trial(number: int, parent: str = "", script: str = TRAINS, **spec: object) -> TrialRequest:
    return replace(a_request(number, "sh", "-c", script, **spec), parent=parent)


def values(events: list[object]) -> list[str]:
    return [report.value for event in events if isinstance(event, Reported) for report in event.reports]


def test_a_trial_goes_on_from_a_copy_of_its_parents_checkpoints(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    assert values(list(run_one(launcher, a_trial(0)))) == ["1"]
    assert values(list(run_one(launcher, a_trial(1, "t0")))) == ["2"]
    assert values(list(run_one(launcher, a_trial(2, "t0")))) == ["2"]
    assert values(list(run_one(launcher, a_trial(3, "t2")))) == ["3"]
    texts = [(tmp_path / f"t{number}" / "checkpoints" / "steps").read_text() for number in range(4)]
    assert texts == ["1\n", "2\n", "2\n", "3\n"]
    launcher.close()


@pytest.mark.parametrize("parent", ["", "t0"])
def test_a_trial_that_begins_again_begins_as_it_did(tmp_path: Path, parent: str) -> None:
    """After a crash of katuna: another launcher, the same folders."""
    first = a_launcher(tmp_path, checkpoints=WHERE)
    run_one(first, a_trial(0))
    run_one(first, a_trial(1, parent))
    first.close()
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    assert values(list(run_one(launcher, a_trial(1, parent)))) == ["2" if parent else "1"]
    launcher.close()


def test_another_attempt_goes_on_from_what_the_first_left(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    run_one(launcher, a_trial(0))
    fails_once = TRAINS + f"if [ ! -e {tmp_path}/mark ]; then touch {tmp_path}/mark; exit 3; fi"
    events = run_one(launcher, a_trial(1, "t0", fails_once, backoffLimit=1))
    assert values(list(events)) == ["2", "3"]
    launcher.close()


def test_a_parent_without_checkpoints_is_said(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    end = the_end(run_one(launcher, a_trial(1, "t0")))
    assert (end.code, end.reason) == (None, "StartError")
    assert "the checkpoints of t0" in end.message
    assert f"{tmp_path}/t0/checkpoints" in end.message
    launcher.close()


def test_metrics_and_checkpoints_may_lie_in_one_folder_of_the_container(tmp_path: Path) -> None:
    collector = Collector("File", path="/var/log/katib/metrics.log", format="TEXT")
    launcher = a_launcher(tmp_path, collector, checkpoints=WHERE)
    script = TRAINS.replace("echo accuracy=$((before + 1))", "echo accuracy=$((before + 1)) >> /var/log/katib/metrics.log")
    for number, parent in ((0, ""), (1, "t0")):
        assert values(list(run_one(launcher, a_trial(number, parent, script)))) == [str(number + 1)]
    assert sorted(entry.name for entry in (tmp_path / "t1").iterdir()) == [".pods", "checkpoints", "job.yaml", "log", "metrics"]
    launcher.close()


def test_checkpoints_that_the_trainer_is_not_told_of_are_refused(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    (finding,) = launcher.preflight([a_request(0, "true")])
    assert finding.message.startswith(f"{WHERE}, where the trial's checkpoints are to lie, occurs nowhere")
    assert launcher.preflight([a_request(0, "echo", "--dir=/var/log/katib/checkpoints")]) == []


def test_nothing_is_made_where_nothing_is_asked_for(tmp_path: Path) -> None:
    needs = Needs()
    needs.begin(tmp_path, None)
    needs.begin_attempt(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert needs.maps(tmp_path) == {}


# Copies


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Checkpoints such as trainers leave, with links that are meant well and others."""
    folder = tmp_path / "parent" / "checkpoints"
    (folder / "step-2" / "deep").mkdir(parents=True)
    (folder / "step-2" / "deep" / "weights").write_bytes(b"w")
    (folder / "latest").symlink_to("step-2")
    (folder / "absolute").symlink_to(folder / "step-2" / "deep" / "weights")
    (folder / "step-2" / "up").symlink_to("../step-2/deep")
    (folder / "gone").symlink_to("no-such-step")
    (folder / "loop").symlink_to(folder)
    (tmp_path / "secret").write_text("s")
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "outside-folder").symlink_to("..")
    os.mkfifo(folder / "pipe")
    return folder


def test_a_copy_leads_nowhere_but_into_itself(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "child"
    copy_folder(source, target)
    found = {str(path.relative_to(target)) for path in target.rglob("*")}
    assert {"latest", "absolute", "step-2/up", "step-2/deep/weights", "gone", "loop"} <= found
    assert not {"outside", "outside-folder", "pipe"} & found
    (target / "absolute").write_bytes(b"changed")
    assert (source / "step-2" / "deep" / "weights").read_bytes() == b"w", "the parent's own stay as they are"
    assert (target / "latest" / "deep" / "weights").read_bytes() == b"changed"
    links = [path for path in target.rglob("*") if path.is_symlink()]
    assert links
    assert all(path.resolve().is_relative_to(target.resolve()) for path in links)


def test_a_copy_where_the_source_is_reached_through_a_link(tmp_path: Path, source: Path) -> None:
    (tmp_path / "alias").symlink_to(source.parent)
    copy_folder(tmp_path / "alias" / "checkpoints", tmp_path / "child")
    assert (tmp_path / "child" / "latest" / "deep" / "weights").read_bytes() == b"w"


def test_links_in_the_place_of_a_trials_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "kept").touch()
    (tmp_path / "t0").mkdir()
    for name in ("metrics", "checkpoints"):
        (tmp_path / "t0" / name).symlink_to(tmp_path / "else")
    collector = Collector("File", path="/var/log/katib/metrics.log", format="TEXT")
    launcher = a_launcher(tmp_path, collector, checkpoints=WHERE)
    events = run_one(launcher, a_trial(0, script=TRAINS + "echo accuracy=5 > /var/log/katib/metrics.log"))
    assert values(list(events)) == ["5"]
    assert [type(event) for event in events if not isinstance(event, Told)] == [Started, Reported, Exited]
    assert [entry.name for entry in (tmp_path / "else").iterdir()] == ["kept"]
    launcher.close()


# The volumes of a pod: what lies in them is not there before the job starts

MARK = "s3cr3t-value"
CODE = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "code"},
    "data": {
        "train.py": "import helper, sys; print('trained by', helper.NAME)",
        "helper.py": "NAME = 'it'",
        "run.sh": "#!/bin/sh\necho ran",
    },
}
KEYS = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "keys"},
    "stringData": {"token": MARK, "t.py": "print('hidden')"},
}
WRITES = "mkdir -p /v/sub/bin; echo 'print(41 + 1)' > /v/sub/t.py; printf '#!/bin/sh\necho made\n' > /v/sub/bin/prog; chmod +x /v/sub/bin/prog"
CONFIG_MAP = {"configMap": {"name": "code"}}
EXECUTABLE = {"configMap": {"name": "code", "defaultMode": 0o755}}


def a_pod(
    command: list[str], volume: dict[str, Any], *, init: str = "", mount: dict[str, Any] | None = None, **container: Any
) -> Job:
    """A PyTorchJob with one volume, mounted at /v."""
    mounts = [{"name": "data", "mountPath": "/v", **(mount or {})}]
    first = {"name": "first", "image": "i", "command": ["sh", "-c", init], "volumeMounts": mounts}
    pod = {"volumes": [{"name": "data", **volume}], **({"initContainers": [first]} if init else {})}
    manifest = pytorchjob("", pod=pod, container={"command": command, "volumeMounts": mounts, **container})
    return job_from_manifest(manifest, references=[CODE, KEYS])


def run_in(
    folder: Path, job: Job, starter: Starter | None = None, meanwhile: Callable[[], None] = lambda: None
) -> tuple[str, str]:
    """How the job ended, and what it printed."""
    starter = starter or ColdStarter()
    folder.mkdir(exist_ok=True)
    options = LocalOptions(cwd=str(folder))
    files = Files(LocalOptions(files="shared"), folder)
    stores = Stores()
    own = {
        "environ": os.environ,
        "clock": WallClock(),
        "starter": starter,
        "lease": Lease((), ()),
        "files": files,
        "stores": stores,
    }
    run = JobRun(job, folder, options=options, defaults={"PYTHONUNBUFFERED": "1"}, extra={}, **own)  # type: ignore[arg-type]
    give_up = time.monotonic() + PATIENCE_S
    events: list[object] = []
    try:
        while not run.over:
            assert time.monotonic() < give_up, events
            events += run.poll()
            meanwhile()
            await_any(run.filenos(), 0.05)
    finally:
        run.kill()
        starter.close()
        stores.close()
    end = events[-1]
    assert isinstance(end, JobEnded)
    return f"{end.condition}: {end.message}", run.main_log.read_text() if run.main_log.exists() else ""


def refused(job: Job, **options: Any) -> list[tuple[str, str]]:
    return preflight(job, LocalOptions(**options), os.environ)


INSIDE: dict[str, tuple[Job, str]] = {
    "a script of a ConfigMap": (a_pod(["python", "/v/train.py"], CONFIG_MAP), "trained by it"),
    "a program of a ConfigMap": (a_pod(["/v/run.sh"], EXECUTABLE), "ran"),
    "a program below PATH": (a_pod(["run.sh"], EXECUTABLE, env=[{"name": "PATH", "value": f"/v:{os.defpath}"}]), "ran"),
    "a script below workingDir": (a_pod(["python", "train.py"], CONFIG_MAP, workingDir="/v"), "trained by it"),
    "a file mounted by itself": (a_pod(["python", "/v"], CONFIG_MAP, mount={"subPath": "helper.py"}), ""),
    "a script of a Secret": (a_pod(["python", "/v/t.py"], {"secret": {"secretName": "keys"}}), "hidden"),
    "a script that an init container writes": (a_pod(["python", "/v/sub/t.py"], {"emptyDir": {}}, init=WRITES), "42"),
    "a program that an init container writes": (a_pod(["/v/sub/bin/prog"], {"emptyDir": {}}, init=WRITES), "made"),
    "a folder that an init container makes": (
        a_pod(["python", "t.py"], {"emptyDir": {}}, init=WRITES, workingDir="/v/sub"),
        "42",
    ),
    "a Python that an init container makes": (
        a_pod(
            ["/v/python", "-c", "1"], {"emptyDir": {}}, init="printf '#!/bin/sh\necho my own\n' > /v/python; chmod +x /v/python"
        ),
        "my own",
    ),
}


@pytest.mark.parametrize("inside", INSIDE)
def test_what_a_container_runs_may_lie_in_a_volume(tmp_path: Path, inside: str) -> None:
    job, says = INSIDE[inside]
    assert refused(job) == []
    assert run_in(tmp_path, job) == ("Succeeded: ", f"{says}\n" if says else "")


@pytest.mark.parametrize("inside", ["a script of a ConfigMap", "a script that an init container writes"])
def test_a_script_in_a_volume_starts_warm_too(tmp_path: Path, inside: str) -> None:
    job, says = INSIDE[inside]
    assert run_in(tmp_path, job, WarmStarter()) == ("Succeeded: ", f"{says}\n")


@pytest.mark.parametrize(
    ("job", "message", "hint"),
    [
        (a_pod(["python", "/v/trian.py"], CONFIG_MAP), "script '/v/trian.py' does not exist: the ConfigMap 'code' of volume 'data' has no key 'trian.py'", "it has: helper.py, run.sh, train.py"),
        (a_pod(["/v/walk.sh"], CONFIG_MAP), "command '/v/walk.sh' does not exist: the ConfigMap 'code' of volume 'data' has no key 'walk.sh'", "it has: helper.py, run.sh, train.py"),
        (a_pod(["/v/run.sh"], CONFIG_MAP), "command '/v/run.sh' has mode 0644 and cannot be executed", "write defaultMode: 0755 in volume 'data', or let an interpreter run it"),
        (a_pod(["true"], CONFIG_MAP, workingDir="/v/sub"), "workingDir '/v/sub' does not exist: the ConfigMap 'code' of volume 'data' has no key 'sub'", "it has: helper.py, run.sh, train.py"),
        (a_pod(["python", "/v"], CONFIG_MAP, mount={"subPath": "x.py"}), "script '/v' does not exist: the ConfigMap 'code' of volume 'data' has no key 'x.py'", "it has: helper.py, run.sh, train.py"),
        (a_pod(["python", "/v/train.py"], {"configMap": {"name": "other"}}), "script '/v/train.py' does not exist: the ConfigMap 'other' is not among the files given", "give its file too, after this one"),
        (a_pod(["python", "/v/x.py"], {"secret": {"secretName": "keys"}}), "script '/v/x.py' does not exist: the Secret 'keys' of volume 'data' has no key 'x.py'", "it has: t.py, token"),
        (a_pod(["python", "/v/x.py"], {"hostPath": {"path": "/no/such"}}), "script '/v/x.py' does not exist here", "its volume is /no/such here"),
        (a_pod(["true"], {"hostPath": {"path": "/no/such"}}, workingDir="/v"), "workingDir '/v' does not exist here", "its volume is /no/such here"),
    ],
)  # fmt: skip
def test_what_a_volume_will_not_hold_is_refused_in_the_files_own_words(job: Job, message: str, hint: str) -> None:
    assert refused(job) == [(f"container 'pytorch': {message}", hint)]


def test_what_no_init_container_wrote_is_said_when_the_container_starts(tmp_path: Path) -> None:
    end, _ = run_in(tmp_path, a_pod(["/v/prog"], {"emptyDir": {}}))
    assert end == "Failed: command '/v/prog' cannot be run: No such file or directory"


@pytest.mark.parametrize(
    "command", [["python", "$(TOKEN)"], ["$(TOKEN)"], ["python", "/v/$(TOKEN)"], ["/v/$(TOKEN)"], ["true"]], ids=" ".join
)
def test_no_refusal_shows_what_a_secret_holds(command: list[str]) -> None:
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}]
    mount = {"subPathExpr": "../$(TOKEN)"} if command == ["true"] else {}
    found = refused(a_pod(command, CONFIG_MAP, mount=mount, env=env))
    assert found
    assert MARK not in str(found)


def test_files_of_a_volume_have_the_owners_part_of_their_modes(tmp_path: Path) -> None:
    items = [{"key": "run.sh", "path": "sub/run"}, {"key": "train.py", "path": "t", "mode": 0o400}]
    volume = {"configMap": {"name": "code", "defaultMode": 0o755, "items": items}}
    job = a_pod(["sh", "-c", "cd /v; stat -c '%n %a' sub/run t; /v/sub/run"], volume)
    assert run_in(tmp_path, job) == ("Succeeded: ", "sub/run 700\nt 600\nran\n")


def test_files_of_a_volume_are_no_programs_by_themselves(tmp_path: Path) -> None:
    assert run_in(tmp_path, a_pod(["sh", "-c", "stat -c %a /v/run.sh"], CONFIG_MAP)) == ("Succeeded: ", "600\n")


# hostPath


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        *(("Directory", "folder", ""), ("File", "file", ""), ("Socket", "socket", ""), ("CharDevice", "/dev/null", "")),
        *(("DirectoryOrCreate", "folder", ""), ("FileOrCreate", "file", ""), ("", "none", "")),
        *((kind, "none", "does not exist here") for kind in ("Directory", "File", "Socket", "CharDevice", "BlockDevice")),
        *(("Directory", "file", "is something else here"), ("File", "folder", "is something else here")),
        *(("DirectoryOrCreate", "file", "is something else here"), ("FileOrCreate", "folder", "is something else here")),
        *(("BlockDevice", "/dev/null", "is something else here"), ("Socket", "file", "is something else here")),
        *(("FileOrCreate", "none/x", ": the folder for it does not exist here"), ("Directory", "file/x", ": Not a directory")),
    ],
)
def test_a_host_path_is_what_its_type_says(tmp_path: Path, kind: str, path: str, wrong: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):
        server.bind("socket")
    place = tmp_path / path
    found = refused(a_pod(["true"], {"hostPath": {"path": str(place), "type": kind}}))
    text = f"volume 'data': hostPath {place} of type {kind}"
    assert [message for message, _ in found] == ([f"{text}{'' if wrong[0] == ':' else ' '}{wrong}"] if wrong else [])


def test_a_host_path_is_made_when_the_pod_is(tmp_path: Path) -> None:
    for kind, name in (("DirectoryOrCreate", "a/b"), ("FileOrCreate", "file")):
        job = a_pod(["sh", "-c", "stat -c '%F %a' /v"], {"hostPath": {"path": str(tmp_path / name), "type": kind}})
        assert refused(job) == []
        assert not (tmp_path / name).exists(), "a preflight makes nothing"
        _, says = run_in(tmp_path / kind, job)
        assert says == {"a/b": "directory 755\n", "file": "regular empty file 644\n"}[name]


def test_a_container_may_work_in_a_host_path_that_is_made(tmp_path: Path) -> None:
    volume = {"hostPath": {"path": str(tmp_path / "new"), "type": "DirectoryOrCreate"}}
    assert run_in(tmp_path / "run", a_pod(["pwd"], volume, workingDir="/v")) == ("Succeeded: ", f"{tmp_path}/new\n")


# Secrets


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for the place in memory."""
    place = tmp_path / "memory"
    place.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    return place


def files_with(mark: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and mark.encode() in path.read_bytes()]


def test_no_file_of_a_run_holds_a_secret(tmp_path: Path, memory: Path) -> None:
    job = a_pod(
        ["sh", "-c", 'ls /v; stat -c %a /v /v/token; test -n "$(cat /v/token)"; sleep 0.3'], {"secret": {"secretName": "keys"}}
    )
    held: list[Path] = []

    def look() -> None:
        assert files_with(MARK, tmp_path / "run") == []
        held.extend(files_with(MARK, memory))

    assert run_in(tmp_path / "run", job, meanwhile=look)[1] == "t.py\ntoken\n755\n600\n"
    assert held
    assert {path.relative_to(memory).parts[1:] for path in held} == {("toy-master-0", "data", "token")}
    assert list(memory.iterdir()) == []


def test_what_a_killed_katuna_left_of_a_secret_goes_at_the_next_start(tmp_path: Path, memory: Path) -> None:
    job = a_pod(["true"], {"secret": {"secretName": "keys"}})
    PodVolumes(tmp_path / "run", job.replicas[0], LocalOptions()).make()
    PodVolumes(tmp_path / "run-2", job.replicas[0], LocalOptions()).make()
    assert [stat.S_IMODE(path.stat().st_mode) for path in memory.iterdir()] == [0o700, 0o700]
    (tmp_path / "link").symlink_to("run")
    release(tmp_path / "link")
    assert len(files_with(MARK, memory)) == 1, "the other job's stays"


@pytest.mark.parametrize("again", ["resumed", "removed"])
def test_what_is_left_of_a_secret_goes_also_once_its_run_folder_has_another_name(
    tmp_path: Path, memory: Path, again: str
) -> None:
    job = a_pod(["true"], {"secret": {"secretName": "keys"}})
    PodVolumes(tmp_path / "runs" / "run", job.replicas[0], LocalOptions()).make()
    (tmp_path / "runs").rename(tmp_path / "moved")
    (tmp_path / "moved" / "run").rename(tmp_path / "moved" / "other")
    assert files_with(MARK, memory)
    (release if again == "resumed" else end_left)(tmp_path / "moved" / "other")
    assert list(memory.iterdir()) == []
    assert not (tmp_path / "moved" / "other" / RECORD).exists()


def test_a_copy_of_a_run_folder_takes_nothing_from_its_original(tmp_path: Path, memory: Path) -> None:
    job = a_pod(["true"], {"secret": {"secretName": "keys"}})
    original = PodVolumes(tmp_path / "run", job.replicas[0], LocalOptions())
    original.make()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    release(tmp_path / "copy")
    PodVolumes(tmp_path / "copy", job.replicas[0], LocalOptions()).make()
    assert len(list(memory.iterdir())) == 2
    end_left(tmp_path / "copy")
    assert len(files_with(MARK, memory)) == 1
    original.remove()
    assert list(memory.iterdir()) == []


@pytest.mark.parametrize("record", ["", "elsewhere", "/a\0b", "/" * 5000, "/../run", None])
def test_a_record_that_katuna_would_not_write_leads_nowhere(tmp_path: Path, memory: Path, record: str | None) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "else").write_text("/somewhere")
    own = private_name(tmp_path / "run")
    if record is None:
        (tmp_path / "run" / RECORD).symlink_to(tmp_path / "else")
    else:
        (tmp_path / "run" / RECORD).write_text(record)
    assert private_name(tmp_path / "run") == own


def test_a_folder_that_a_secret_names_lies_in_memory_too(tmp_path: Path, memory: Path) -> None:
    token = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}
    job = a_pod(["sh", "-c", "ls -d /v; sleep 0.3"], {"emptyDir": {}}, mount={"subPathExpr": "$(TOKEN)/x"}, env=[token])
    named: set[Path] = set()

    def look() -> None:
        named.update(path.relative_to(memory) for path in memory.rglob(MARK))
        assert list((tmp_path / "run").rglob(f"*{MARK}*")) == []

    (end, log) = run_in(tmp_path / "run", job, meanwhile=look)
    assert (end, MARK in log) == ("Succeeded: ", True)
    assert len(named) == 1
    assert list(memory.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_without_the_secret_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    token = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}
    volume = {"hostPath": {"path": str(tmp_path / "file")}}
    end, _ = run_in(tmp_path / "run", a_pod(["true"], volume, mount={"subPathExpr": "$(TOKEN)"}, env=[token]))
    assert end == f"Failed: {tmp_path}/file/(secret): Not a directory"


@pytest.mark.parametrize("command", [["python", "$(TOKEN)"], ["$(TOKEN)/python", "x.py"], ["python", "/v/x.py"]], ids=" ".join)
def test_the_reason_for_a_cold_start_quotes_no_path_that_a_secret_is_part_of(tmp_path: Path, command: list[str]) -> None:
    token = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}
    job = a_pod(command, {"emptyDir": {}}, mount={"subPathExpr": "$(TOKEN)"}, env=[token])
    place = Place(tmp_path, LocalOptions(), os.environ, {}, {}, {}, 1)
    (planned,) = plan(job, place, (), MASTER_PORT)
    assert MARK in str(planned.command.argv)
    assert MARK not in repr(planned)
    starter = WarmStarter()
    claimed = claim(tmp_path)
    process = starter.start("t", planned.command, tmp_path / "log", claimed, locks=(), deadline_s=0, grace_s=1)
    assert process.how == {"start": "cold", "why": UNSAID}
    process.kill()
    claimed.close()
    starter.close()


def test_a_secret_is_not_put_where_another_may_read_it(tmp_path: Path, memory: Path) -> None:
    job = a_pod(["true"], {"secret": {"secretName": "keys"}})
    volumes = PodVolumes(tmp_path / "run", job.replicas[0], LocalOptions())
    volumes.make()
    (hidden,) = memory.iterdir()
    volumes.remove()
    (tmp_path / "else" / "toy-master-0").mkdir(parents=True)
    hidden.symlink_to(tmp_path / "else")
    volumes.remove()
    assert (tmp_path / "else" / "toy-master-0").is_dir()
    with pytest.raises(LaunchFailed, match="belongs to somebody else"):
        volumes.make()
    hidden.unlink()
    hidden.mkdir(mode=0o755)
    with pytest.raises(LaunchFailed, match="open to others"):
        volumes.make()


def test_a_machine_without_such_a_place_has_secrets_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.launch.volumes.memory_places", lambda _: iter(()))
    job = a_pod(["sh", "-c", "cat /v/token | wc -c"], {"secret": {"secretName": "keys"}})
    assert run_in(tmp_path, job) == ("Succeeded: ", f"{len(MARK)}\n")
    assert files_with(MARK, tmp_path) == []
