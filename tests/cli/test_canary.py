"""No value of a Secret, or of the calling shell in its place, gets out: every verb prints nothing of a canary and leaves none behind.

A trainer's own environment, arguments and log are its own: /proc/PID/environ and cmdline have the canary while it runs, and the
trainers here print none.
"""

from __future__ import annotations

import base64
import os
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from searches import await_line, await_none, experiment_yaml, katuna, processes_with, spawn
from toy_jobs import IMAGE, pytorchjob

TRAINER = """
import os, pathlib, sys, time
here = pathlib.Path(os.environ["KATUNA_TRIAL_DIR"])
values = [os.environ.get(name, "") for name in ("TOKEN", "ALL_token", "URL", "PASSED", "SHELL_ONE")] + sys.argv[1:2]
for folder in sys.argv[2:]:
    values.append(pathlib.Path(folder, "token").read_text() if "keys" in folder else os.path.realpath(folder))
print("values", sum("canary" in value for value in values), "accuracy=0.5 loss=0.5", flush=True)
while os.environ["ENDS"] == "never" and not (here / "again").exists():
    (here / "again").touch()
    time.sleep(600)
if os.environ["ENDS"] == "badly":
    sys.exit(3)
"""
LINUX = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="looks into memory and /proc")  # noqa: S108
pytestmark = [LINUX, pytest.mark.timeout(600)]


class Canary:
    """A value that may be seen nowhere, and what may hold it: `folder`, with the runs, and the two places in memory."""

    def __init__(self, folder: Path) -> None:
        core = f"canary-{uuid.uuid4()}"
        self.value = f"it's {core}"
        raw = core.encode()
        # Where base64 begins within three bytes changes its letters, but for the middle.
        shifted = (base64.b64encode(b"x" * skip + raw)[4:-4] for skip in range(3))
        self._forms = (raw, raw.hex().encode(), *shifted)
        self._folder = folder

    def is_in(self, data: str | bytes) -> bool:
        data = data.encode(errors="surrogateescape") if isinstance(data, str) else data
        return any(form in data for form in self._forms)

    def left(self, *given: Path) -> list[Path]:
        """The files, names and links that hold it, but for those that the user wrote."""
        roots = (self._folder, *Path("/dev/shm").glob("katuna-*"))  # noqa: S108
        return [path for root in roots for path in _below(root) if path not in given and self._holds(path)]

    def _holds(self, path: Path) -> bool:
        try:
            held = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        except OSError:
            # Other tests' folders in memory come and go.
            held = ""
        return self.is_in(path.name) or self.is_in(held)


def _below(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        yield from (Path(folder, name) for name in (*folders, *files))


@pytest.fixture(params=["cold", "warm"])
def start(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return ("--cold",) if request.param == "cold" else ()


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Canary]:
    """It is in two variables of the shell too, and in memory in a place of the test's own where the start is cold."""
    found = Canary(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("SHELL_ONE", "PASSED", "TOKEN"):
        monkeypatch.setenv(name, found.value)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if "cold" in request.node.name:
        (tmp_path / "memory").mkdir(mode=0o700)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "memory"))
    Path("trainer.py").write_text(TRAINER)
    yield found
    # Whatever a red test left running: nothing else has the canary.
    for pid in set(processes_with(found.value)) - {os.getpid()}:
        os.kill(pid, 9)


Told = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def told(canary: Canary) -> Told:
    """Runs katuna to its end, with the exit code that is expected, and sees that it has told nothing."""

    def run(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = katuna(*words, timeout=300)
        assert not canary.is_in(done.stdout + done.stderr), (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done

    return run


def secret(**values: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": values}


def key(name: str, of: str = "keys") -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": of, "key": "token"}}}


def write_secret(value: str, **values: str) -> Path:
    """In a list of a list, once as text and once as base64."""
    holder = secret(token=value, **values) | {"data": {"other": base64.b64encode(value.encode()).decode()}}
    inner = {"apiVersion": "v1", "kind": "List", "items": [holder]}
    path = Path("keys.yaml").absolute()
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [inner]}))
    return path


def write_job(ends: str, *, command: Iterable[str] = (), pod: Mapping[str, Any] | None = None, **mount: Any) -> None:
    """A job of two ranks with a Secret in all that a Secret can be in. `mount` changes the one whose path a Secret is part of."""
    container = {
        "command": [*(command or ("python", "trainer.py", "--key=$(TOKEN)", "/etc/keys", "/d"))],
        "env": [key("TOKEN"), key("PASSED", "not-here"), {"name": "URL", "value": "https://$(TOKEN)@host"}],
        "envFrom": [{"prefix": "ALL_", "secretRef": {"name": "keys"}}],
        "volumeMounts": [
            {"name": "keys", "mountPath": "/etc/keys"},
            {"name": "scratch", "mountPath": "/d", "subPathExpr": "$(TOKEN)/x", **mount},
        ],
    }
    volumes = [{"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o755}}, {"name": "scratch", "emptyDir": {}}]
    before = {"name": "first", "image": IMAGE, **container, "command": ["true", "$(TOKEN)", "/d"]}
    pods = {"volumes": volumes, "initContainers": [before], **(pod or {})}
    job = pytorchjob("", workers=1, container=container, pod=pods, env={"ENDS": ends})
    Path("job.yaml").write_text(yaml.safe_dump(job))


PASS = ("--pass-env", "PASSED", "--pass-env", "SHELL_ONE")
WITH = ("job.yaml", "--values", "keys.yaml", *PASS)


def look_at(told: Told, *, search: bool, best: bool = True, of: str = "toy") -> None:
    """Every verb that only looks, in all its forms; `best` where there is one."""
    for form in ("table", "json", "yaml", "name"):
        told("show", of, "-o", form)
        told("ls", "-o", form)
    for verb in (("logs", of), ("code", of), ("code", of, "-o", "json"), ("code", of, "--diff")):
        told(*verb)
    if search:
        told("report", of)
        for form in ("csv", "json"):
            told("export", of, "--format", form)
        for form in ("table", "json", "yaml", "name"):
            told("trials", of, "-o", form)
        for form in ("table", "json", "yaml", "name", "command", "files") if best else ():
            told("best", of, "-o", form)


def test_a_job_that_succeeds_tells_and_leaves_nothing(start: tuple[str, ...], canary: Canary, told: Told) -> None:
    keys = write_secret(canary.value)
    write_job("well")
    for form in ("text", "json"):
        assert "(secret)" in told("train", *WITH, "--dry-run", "-o", form).stdout
    done = told("train", *WITH, *start)
    assert done.stdout.count("values 8") == 2, "it reaches the ranks, or nothing is shown"
    assert canary.left(keys) == []
    look_at(told, search=False)
    assert canary.left(keys) == []
    told("rm", "-y", "toy")


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (1, {"ends": "badly"}),
        (2, {"command": ("python", "$(TOKEN)/missing.py")}),
        (2, {"command": ("$(TOKEN)/program",)}),
        (1, {"command": ("/d/program",)}),
        (1, {"command": ("/etc/keys/run", "$(TOKEN)")}),
        (1, {"subPathExpr": "$(TOKEN)"}),
        (2, {"subPathExpr": "../$(TOKEN)"}),
        (2, {"subPathExpr": "$(TOKEN)/$(NONE)"}),
    ],
    ids=["exit", "script", "program", "made", "shebang", "mount", "outside", "unknown"],
)
def test_a_job_that_fails_tells_and_leaves_nothing(
    start: tuple[str, ...], canary: Canary, told: Told, code: int, change: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    keys = write_secret(canary.value, run=f"#!/{canary.value}\n")
    if "mount" in request.node.name:
        Path("a-file").touch()
        change = change | {"pod": {"volumes": _over_a_file()}}
    write_job(**{"ends": "well", **change})
    told("train", *WITH, *start, code=code)
    assert canary.left(keys) == []
    if code == 1:
        look_at(told, search=False)
        told("rm", "-y", "toy")


def test_what_the_interpreter_says_of_a_secret_in_its_command_stays_in_the_log(
    start: tuple[str, ...], canary: Canary, told: Told
) -> None:
    keys = write_secret(canary.value)
    write_job("well", command=("sh", "-c", 'cat "$0"', "$(TOKEN)/missing"))
    assert katuna("train", *WITH, *start).returncode == 1
    # The rank that fails first may end the other before that has said anything.
    held = {path.suffix or path.name for path in canary.left(keys)}
    assert held
    assert held <= {".log", "log"}
    assert "its log is not quoted" in told("show", "toy", "-o", "json").stdout


def _over_a_file() -> list[dict[str, Any]]:
    return [
        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o755}},
        {"name": "scratch", "hostPath": {"path": str(Path("a-file").absolute())}},
    ]


@pytest.mark.parametrize("then", ["resume", "rm", "stop"])
def test_a_job_that_is_killed_leaves_nothing_once_it_is_taken_up(
    start: tuple[str, ...], canary: Canary, told: Told, then: str
) -> None:
    keys = write_secret(canary.value)
    write_job("never")
    process = spawn("train", *WITH, *start)
    await_line(Path("runs/toy/journal.jsonl"), '"loss"', within_s=120)
    look_at(told, search=False)
    if then == "stop":
        told("stop", "toy")
    else:
        process.kill()
    out, err = process.communicate(timeout=120)
    assert not canary.is_in(out + err)
    assert await_none(canary.value, 60) == []
    held = canary.left(keys)
    assert held == [] if then == "stop" else held
    assert [path for path in held if "runs" in path.parts] == []
    Path("runs/toy").rename("runs/other")
    if then == "resume":
        told("resume", "other")
    else:
        told("rm", "-y", "other")
    assert canary.left(keys) == []


SEARCH = ("experiment.yaml", *PASS, "--pass-env", "TOKEN")


def write_search(ends: str, *, volumes: bool = True) -> None:
    words = ["python", "trainer.py", "--key=$(TOKEN)", "/d", "${trialParameters.lr}"]
    loaded = yaml.safe_load(
        experiment_yaml(command=words, env={"ENDS": ends}, maxTrialCount=2, parallelTrialCount=1, resumePolicy="LongRunning")
    )
    pod = loaded["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    if volumes:
        pod["volumes"] = [{"name": "scratch", "emptyDir": {}}]
        container["volumeMounts"] = [{"name": "scratch", "mountPath": "/d", "subPathExpr": "$(TOKEN)/x"}]
    container["env"] += [key("TOKEN"), key("PASSED", "not-here"), {"name": "URL", "value": "https://$(TOKEN)@host"}]
    Path("experiment.yaml").write_text(yaml.safe_dump(loaded))


def test_a_search_that_succeeds_tells_and_leaves_nothing(start: tuple[str, ...], canary: Canary, told: Told) -> None:
    # `best -o command` is another one for a job with volumes.
    write_search("well", volumes="--cold" not in start)
    told("tune", *SEARCH, "--dry-run")
    told("smoke", *SEARCH, *start, "--keep-files")
    told("tune", *SEARCH, *start)
    assert "values 5" in told("logs", "toy").stdout, "it reaches the trials, or nothing is shown"
    assert canary.left() == []
    look_at(told, search=True)
    told("resume", "toy", "--max-trials", "3")
    assert canary.left() == []
    told("rm", "-y", "toy")


def test_a_search_that_fails_tells_and_leaves_nothing(start: tuple[str, ...], canary: Canary, told: Told) -> None:
    write_search("badly")
    told("smoke", *SEARCH, *start, code=1)
    told("tune", *SEARCH, *start)
    look_at(told, search=True, best=False)
    assert canary.left() == []


@pytest.mark.parametrize("then", ["resume", "rm"])
def test_a_search_that_is_killed_leaves_nothing_once_it_is_taken_up(
    start: tuple[str, ...], canary: Canary, told: Told, then: str
) -> None:
    write_search("never")
    process = spawn("tune", *SEARCH, *start)
    await_line(Path("runs/toy/journal.jsonl"), '"Reported"', within_s=120)
    process.kill()
    out, err = process.communicate(timeout=120)
    assert not canary.is_in(out + err)
    assert await_none(canary.value, 60) == []
    assert [path for path in canary.left() if "runs" in path.parts] == []
    Path("runs/toy").rename("runs/other")
    if then == "resume":
        Path("trainer.py").write_text(TRAINER.replace("600", "0"))
        told("resume", "other", "--code", "new")
        look_at(told, search=True, of="other")
    else:
        told("rm", "-y", "other")
    assert canary.left() == []


def test_a_secret_beside_a_search_is_refused_without_a_word_of_it(canary: Canary, told: Told) -> None:
    write_search("well")
    keys = write_secret(canary.value)
    for verb in ("tune", "smoke"):
        told(verb, "experiment.yaml", "keys.yaml", *PASS, code=2)
    assert canary.left(keys) == []


WRONG = """\
apiVersion: v1
kind: Secret
metadata: {name: keys}
"""


@pytest.mark.parametrize(
    "data",
    [
        "stringData: {token: !CANARY x}",
        "stringData: {token: *CANARY}",
        "stringData: {token: &CANARY [*CANARY]}",
        "stringData: {token: 'CANARY}",
        "stringData: {token: !!int CANARY}",
        "stringData: {token: [CANARY]}",
        "stringData: {token: {CANARY: CANARY}}",
        "stringData: [CANARY]",
        "stringData: CANARY",
        "data: {token: CANARY}",
        "data: {token: [CANARY]}",
        "data: CANARY",
        "type: Opaque\n CANARY: CANARY",
        "stringData:\n  token: |\n   CANARY\n  CANARY",
        'stringData: {token: "\\CANARY"}',
        'stringData: {token: "\\0CANARY"}',
        "immutable: CANARY",
        "type: [CANARY]",
        "token: CANARY",
        "---\n{apiVersion: v1, kind: secret, token: CANARY, metadata: CANARY}",
        "---\n{apiVersion: v1, stringData: {token: CANARY}}",
        "stringData: {token: CANARY, token: CANARY}",
        "---\nCANARY",
        "---\n[CANARY]",
        "---\n{apiVersion: v1, kind: List, items: CANARY}",
        "---\n{apiVersion: v1, kind: SecretList, items: [CANARY, {stringData: CANARY}]}",
    ],
)
def test_no_finding_on_a_secret_quotes_it(data: str, canary: Canary, told: Told) -> None:
    write_job("well")
    core = canary.value.split()[-1]
    keys = Path("keys.yaml").absolute()
    keys.write_text(WRONG + data.replace("CANARY", core) + "\n")
    for form in ("table", "json", "yaml", "name", "sarif", "github"):
        done = katuna("lint", "job.yaml", "keys.yaml", "-o", form)
        assert done.returncode in (0, 1)
        assert not canary.is_in(done.stdout + done.stderr), (done.stdout, done.stderr)
    done = katuna("train", *WITH, "--dry-run")
    assert not canary.is_in(done.stdout + done.stderr), (done.stdout, done.stderr)
    assert canary.left(keys) == []
