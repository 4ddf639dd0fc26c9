"""`katuna train` as a user types it: real files and processes, and what the screen, the other verbs and the run folder say of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from katuna.cli import logs, main, stop
from katuna.cli.lines import Lines
from katuna.cli.replicas import ReplicaScreen
from katuna.jobs.lifecycle import ContainerStarted
from katuna.runs.conduct import train
from searches import KATUNA, await_line, await_none, is_refused, journal_events, katuna, objects, spawn, write_experiment
from toy_jobs import STEPS, pytorchjob, write_job

FOREVER = "import time\nprint('loss=0.5', flush=True)\nwhile True: time.sleep(1)"
STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('loss=0.5', flush=True)\nwhile True: time.sleep(1)"
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


refused = partial(is_refused, "train")


def test_a_job_from_a_file_to_its_end_with_each_replicas_lines_under_its_name(tmp_path: Path) -> None:
    path = write_job(tmp_path, STEPS, "3", "0.02", workers=2)
    done = katuna("train", "job.yaml")
    assert done.returncode == 0, (done.stdout, done.stderr)
    lines = done.stdout.splitlines()
    assert lines[0] == "toy: PyTorchJob toy, 1 Master and 2 Workers"
    for replica in ("master-0", "worker-0", "worker-1"):
        shown = [line for line in lines if line.startswith(f"{replica} | ")]
        assert shown == [f"{replica} | from step 0", *(f"{replica} | step={step} loss={1 / step:.4f}" for step in (1, 2, 3))]
        assert any(line.startswith(f"{replica} started, pid ") for line in lines)
    assert "  address toy-master-0 -> 127.0.0.1, at a free port" in lines
    assert any(line.startswith("Succeeded") for line in lines)
    assert "step=3 loss=0.3333" in done.stdout
    assert "katuna logs toy" in done.stdout
    run = tmp_path / "runs" / "toy"
    assert (run / "job.yaml").read_bytes() == path.read_bytes()
    assert (run / "log").read_text().count("step=") == 3
    assert (run / "logs" / "toy-worker-1.log").read_text().count("step=") == 3
    kinds = [event["event"] for event in journal_events(run)]
    assert (kinds[0], kinds[-1]) == ("Opened", "Ended")
    assert kinds.count("ContainerStarted") == kinds.count("ContainerExited") == 3


def test_a_failed_rank_ends_the_job_and_is_named_with_its_exit_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    program = "import os, sys, time\nif os.environ['RANK'] == '1': print('before'); sys.exit('out of data')\ntime.sleep(60)"
    write_job(tmp_path, program, workers=1)
    began = time.monotonic()
    done = katuna("train", "job.yaml")
    assert done.returncode == 1, done.stderr
    assert time.monotonic() - began < 30
    ending = done.stdout[done.stdout.index("\nFailed") :]
    assert "worker-0" in ending
    assert "rank 1" in ending
    assert "code 1" in ending
    assert ending.count("out of data") == 1
    assert "Failed (" in ending
    assert "Failed" in katuna("ls").stdout


def test_the_other_verbs_on_a_job(tmp_path: Path) -> None:
    write_job(tmp_path, STEPS, "2", "0", workers=1)
    assert katuna("train", "job.yaml").returncode == 0
    assert katuna("ls").stdout.splitlines()[1].split()[:3] == ["toy", "Succeeded", "PyTorchJob"]
    assert objects("ls")[0]["replicas"] == 2
    shown = objects("show")
    assert (shown["kind"], shown["metadata"]["name"]) == ("PyTorchJob", "toy")
    assert shown["status"]["conditions"][-1]["type"] == "Succeeded"
    assert shown["status"]["conditions"][0]["reason"] == "PyTorchJobCreated"
    assert shown["status"]["replicaStatuses"]["Master"]["succeeded"] == 1
    assert yaml.safe_load(katuna("show", "to", "-o", "yaml").stdout) == shown
    text = katuna("show").stdout
    assert "PyTorchJobSucceeded" in text
    assert "loss=0.5000" in text
    assert re.search(r"worker-0 +Completed +0 +0 +(warm|cold)", text), text
    logs = katuna("logs", "toy").stdout.splitlines()
    assert logs == [f"{who} | {line}" for who in ("master-0", "worker-0") for line in _printed(2)]
    for one in (("toy", "--replica", "worker-0"), ("toy/worker-0",), ("toy/toy-worker-0",)):
        assert katuna("logs", *one).stdout.splitlines() == _printed(2)
    unknown = katuna("logs", "toy", "--replica", "worker-7")
    assert unknown.returncode == 2
    assert "master-0, worker-0" in unknown.stderr
    for verb in ("best", "trials", "report", "export"):
        answer = katuna(verb, "toy")
        assert answer.returncode == 2
        assert answer.stderr.count("\n") == 1
        assert "`katuna show toy`" in answer.stderr
    over = katuna("resume", "toy")
    assert (over.returncode, "nothing to resume" in over.stdout) == (0, True)
    budget = katuna("resume", "toy", "--max-trials", "3")
    assert (budget.returncode, "--max-trials" in budget.stderr) == (2, True)
    assert "toy is not running" in katuna("stop", "toy").stdout
    assert katuna("rm", "toy").returncode == 0
    assert not (tmp_path / "runs" / "toy").exists()


def _printed(steps: int) -> list[str]:
    return ["from step 0", *(f"step={step} loss={1 / step:.4f}" for step in range(1, steps + 1))]


def test_how_each_container_was_started_is_an_annotation_of_the_job(tmp_path: Path) -> None:
    write_job(tmp_path, STEPS, "1", "0", workers=1)
    assert katuna("train", "job.yaml", "--set", "metadata.annotations={mine: kept}").returncode == 0
    shown = katuna("show", "toy", "-o", "json").stdout
    annotations = json.loads(shown)["metadata"]["annotations"]
    why = "cold: interpreter option -I" if sys.platform == "linux" else f"cold: no warm starts on {sys.platform}"
    assert json.loads(annotations.pop("katuna/starts")) == dict.fromkeys(("toy-master-0/pytorch", "toy-worker-0/pytorch"), why)
    assert annotations == {"mine": "kept"}
    Path("shown.json").write_text(shown)
    linted = katuna("lint", "shown.json")
    assert (linted.returncode, "error" in linted.stdout) == (0, False), linted.stdout


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("logs t", ["toy"]),
        ("logs toy/", ["toy/master-0", "toy/worker-0"]),
        ("logs ./runs/toy/w", ["./runs/toy/worker-0"]),
        ("logs nothing/", []),
        ("logs toy --replica ", ["master-0", "worker-0"]),
        ("logs -f toy --replica w", ["worker-0"]),
        ("logs --replica ", []),
    ],
)
def test_completion_knows_the_replicas_of_a_job(tmp_path: Path, words: str, found: list[str]) -> None:
    write_job(tmp_path, STEPS, "1", "0", workers=1, spec={"runPolicy": {"suspend": True}})
    assert katuna("train", "job.yaml").returncode == 0
    environment = {
        "_KATUNA_COMPLETE": "bash_complete",
        "COMP_WORDS": f"katuna {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    assert katuna(env=environment).stdout.split() == [f"plain,{word}" for word in found]


def test_a_search_beside_a_job_is_still_a_search(tmp_path: Path) -> None:
    write_experiment(tmp_path, maxTrialCount=1, parallelTrialCount=1)
    write_job(tmp_path, STEPS, "1", "0", name="job")
    assert katuna("tune", "experiment.yaml").returncode == katuna("train", "job.yaml").returncode == 0
    assert {row["name"]: row["kind"] for row in objects("ls")} == {"toy": "Experiment", "job": "PyTorchJob"}
    assert "--replica" in katuna("logs", "toy", "--replica", "master-0").stderr


@LINUX
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("program", [FOREVER, STUBBORN], ids=["willing", "stubborn"])
def test_a_signal_ends_all_replicas_and_leaves_a_job_that_goes_on(tmp_path: Path, signum: int, code: int, program: str) -> None:
    mark = f"mark-{uuid.uuid4()}"
    write_job(tmp_path, program, workers=1, env={"MARK": mark})
    process = spawn("train", "job.yaml")
    run = tmp_path / "runs" / "toy"
    await_line(run / "log", "loss")
    await_line(run / "logs" / "toy-worker-0.log", "loss")
    os.killpg(process.pid, signum)
    if program is STUBBORN:
        time.sleep(0.3)
        os.killpg(process.pid, signum)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == code, errors
    assert "go on with `katuna resume toy`" in errors
    assert "Traceback" not in errors
    assert await_none(mark, within_s=1.0) == []
    assert "Interrupted" in katuna("ls").stdout


@LINUX
def test_a_job_whose_katuna_was_killed_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4()}"
    write_job(tmp_path, STEPS, "40", "0.1", workers=1, env={"MARK": mark})
    process = spawn("train", "job.yaml")
    run = tmp_path / "runs" / "toy"
    await_line(run / "log", "step=2 ")
    process.kill()
    process.communicate(timeout=30)
    assert await_none(mark, within_s=5.0) == [], "the guards end what katuna left"
    assert "Interrupted" in katuna("ls").stdout
    last = objects("show", "toy")["status"]["conditions"][-1]
    assert (last["type"], last["status"], last["reason"]) == ("Running", "False", "KatunaStopped")
    for rank in ("0", "1"):
        (run / f"checkpoints-{rank}").write_text("38")
    resumed = katuna("resume", "toy")
    assert resumed.returncode == 0, (resumed.stdout, resumed.stderr)
    assert "master-0 | from step 38" in resumed.stdout
    assert "worker-0 | from step 38" in resumed.stdout
    assert "step=2 " not in resumed.stdout, "what was shown before is not shown again"
    kinds = [event["event"] for event in journal_events(run)]
    assert kinds.count("Resumed") == 1
    assert (run / "log").read_text().count("from step") == 2


def test_stop_from_a_second_shell_and_logs_that_follow(tmp_path: Path) -> None:
    write_job(tmp_path, STEPS, "600", "0.1", workers=1)
    process = spawn("train", "job.yaml")
    await_line(tmp_path / "runs" / "toy" / "logs" / "toy-worker-0.log", "step=1 ")
    following = spawn("logs", "-f", "toy")
    assert "Running" in katuna("ls").stdout
    busy = katuna("resume", "toy")
    assert (busy.returncode, f"pid {process.pid}" in busy.stderr) == (2, True)
    assert katuna("rm", "-y", "toy").returncode == 2
    stopped = katuna("stop", "toy")
    assert stopped.returncode == 0, stopped.stderr
    assert "katuna resume toy" in stopped.stdout
    process.communicate(timeout=10)
    assert process.returncode == 143
    seen, _ = following.communicate(timeout=10)
    assert "master-0 | step=1 loss=1.0000" in seen
    assert "worker-0 | step=1 loss=1.0000" in seen


def test_stop_waits_as_long_as_the_replicas_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), sys.exit(0)))\nprint('x', flush=True)"
    write_job(tmp_path, slow + "\nwhile True: time.sleep(0.1)", pod={"terminationGracePeriodSeconds": 20})
    process = spawn("train", "job.yaml")
    await_line(tmp_path / "runs" / "toy" / "log", "x")
    monkeypatch.setattr("katuna.cli.stop.PATIENCE_S", 0.0)
    assert CliRunner().invoke(stop.command, ["toy"]).output == "toy has stopped; go on with `katuna resume toy`\n"
    process.communicate(timeout=10)


SHOWS = "import os\nprint('plain', os.environ['PLAIN'], 'length', len(os.environ['TOKEN']), flush=True)"


def documents(secret: str) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
    env = [
        {"name": "PLAIN", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "plain"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
    ]
    volumes = {"volumes": [{"name": "keys", "secret": {"secretName": "keys"}}]}
    container = {"env": env, "volumeMounts": [{"name": "keys", "mountPath": "/etc/keys"}]}
    job = pytorchjob(
        SHOWS + "\nprint(len(open(os.environ['KEYS'] + '/token').read()))",
        container=container,
        pod=volumes,
        env={"KEYS": "/etc/keys"},
    )
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"plain": "visible"}}
    hidden = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": secret}}
    return job, config, hidden


def test_a_secret_reaches_its_process_and_no_file_of_the_run(tmp_path: Path) -> None:
    secret = f"s3cr3t-{uuid.uuid4()}"
    job, config, hidden = documents(secret)
    Path("job.yaml").write_text(yaml.safe_dump_all([job, config]))
    Path("keys.yaml").write_text(yaml.safe_dump(hidden))
    done = katuna("train", "job.yaml", "--values", "keys.yaml")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert f"plain visible length {len(secret)}" in done.stdout
    told = [done.stdout, done.stderr, *(katuna(*verb).stdout for verb in (("show",), ("show", "-o", "json"), ("logs", "toy")))]
    told.append(katuna("train", "job.yaml", "--values", "keys.yaml", "--dry-run").stdout)
    told.append(katuna("train", "job.yaml", "--values", "keys.yaml", "--dry-run", "-o", "json").stdout)
    kept = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert kept
    assert [path for path in kept if secret.encode() in path.read_bytes()] == []
    assert not any(secret in text for text in told)
    assert b"visible" in (tmp_path / "runs" / "toy" / "job.yaml").read_bytes()


def test_a_secret_within_lists_is_kept_in_no_file_of_the_run(tmp_path: Path) -> None:
    secret = f"s3cr3t-{uuid.uuid4()}"
    job, config, hidden = documents(secret)
    Path("job.yaml").write_text(yaml.safe_dump_all([job, config]))
    inner = {"apiVersion": "v1", "kind": "List", "items": [hidden]}
    Path("keys.yaml").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [inner]}))
    done = katuna("train", "job.yaml", "--values", "keys.yaml")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert f"length {len(secret)}" in done.stdout
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and secret.encode() in path.read_bytes()] == []


def test_a_secret_that_is_missing_or_in_the_jobs_own_file_is_refused_without_its_value(tmp_path: Path) -> None:
    job, config, hidden = documents("s3cr3t-value")
    Path("job.yaml").write_text(yaml.safe_dump_all([job, config]))
    assert "keys" in refused("job.yaml")
    Path("job.yaml").write_text(yaml.safe_dump_all([job, config, hidden]))
    message = refused("job.yaml")
    assert "--values" in message
    assert "s3cr3t-value" not in message


def test_a_dry_run_shows_no_secret_that_the_command_line_holds(tmp_path: Path) -> None:
    job, config, hidden = documents("s3cr3t-value")
    job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["args"] = ["--token=$(TOKEN)"]  # type: ignore[index]
    Path("job.yaml").write_text(yaml.safe_dump_all([job, config]))
    Path("keys.yaml").write_text(yaml.safe_dump(hidden))
    for form in ("text", "json"):
        done = katuna("train", "job.yaml", "--values", "keys.yaml", "--dry-run", "-o", form)
        assert done.returncode == 0, done.stderr
        assert "--token=(secret)" in done.stdout
        assert "s3cr3t-value" not in done.stdout + done.stderr


@pytest.mark.parametrize("lists", [["List", "List"], ["List", "SecretList"], ["SecretList"]], ids="/".join)
def test_a_secret_in_a_list_of_the_jobs_own_file_is_refused(lists: list[str]) -> None:
    job, config, hidden = documents("s3cr3t-value")
    held: dict[str, object] = hidden
    for kind in reversed(lists):
        held = {"apiVersion": "v1", "kind": kind, "items": [held]}
    Path("job.yaml").write_text(yaml.safe_dump_all([job, config, held]))
    message = refused("job.yaml")
    assert "--values" in message
    assert "s3cr3t-value" not in message


def test_a_list_of_secrets_is_kept_in_no_file_of_the_run_and_a_list_beside_is_read_by_show() -> None:
    job, config, hidden = documents("s3cr3t-value")
    Path("job.yaml").write_text(yaml.safe_dump(job))
    Path("plain.yaml").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [config]}))
    del hidden["kind"]
    Path("keys.yaml").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "SecretList", "items": [hidden]}))
    done = katuna("train", "job.yaml", "--values", "keys.yaml", "--values", "plain.yaml")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert [path for path in Path("runs").rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()] == []
    assert objects("show", "toy")["status"]["conditions"][-1]["type"] == "Succeeded"


def test_a_dry_run_shows_no_path_that_a_secret_is_part_of() -> None:
    job, config, hidden = documents("s3cr3t-value")
    pod = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]  # type: ignore[index]
    pod["volumes"] = [{"name": "e", "emptyDir": {}}]
    pod["containers"][0] |= {
        "command": ["bash", "-c", "ls /d"],
        "volumeMounts": [{"name": "e", "mountPath": "/d", "subPathExpr": "$(TOKEN)/x"}],
    }
    Path("job.yaml").write_text(yaml.safe_dump_all([job, config]))
    Path("keys.yaml").write_text(yaml.safe_dump(hidden))
    done = katuna("train", "job.yaml", "--values", "keys.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "/(secret)/x" in done.stdout
    assert "s3cr3t-value" not in done.stdout + done.stderr


def test_resume_reads_a_secret_where_it_was(tmp_path: Path) -> None:
    job, config, hidden = documents("s3cr3t-value")
    job["spec"]["runPolicy"] = {"suspend": True}  # type: ignore[index]
    Path("job.yaml").write_text(yaml.safe_dump(job))
    Path("settings.yaml").write_text(yaml.safe_dump(config))
    Path("keys.yaml").write_text(yaml.safe_dump(hidden))
    suspended = katuna("train", "job.yaml", "settings.yaml", "--values", "keys.yaml")
    assert suspended.returncode == 0, suspended.stderr
    assert "Suspended" in suspended.stdout
    assert [path.name for path in (tmp_path / "runs" / "toy" / "beside").iterdir()] == ["001-settings.yaml"]
    Path("keys.yaml").rename("elsewhere.yaml")
    gone = katuna("resume", "toy")
    assert (gone.returncode, "keys.yaml" in gone.stderr) == (2, True)
    Path("elsewhere.yaml").rename("keys.yaml")
    resumed = katuna("resume", "toy")
    assert resumed.returncode == 0, (resumed.stdout, resumed.stderr)
    assert "plain visible length 12" in resumed.stdout


def test_a_file_may_hold_a_secret_and_what_is_none(tmp_path: Path) -> None:
    """What else it holds is kept: the run can be shown and resumed."""
    reads = "import os; print(os.environ['PLAIN'], len(os.environ['TOKEN']))"
    env = [
        {"name": "PLAIN", "valueFrom": {"configMapKeyRef": {"name": "plain", "key": "word"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
    ]
    write_job(tmp_path, reads, container={"env": env}, spec={"runPolicy": {"suspend": True}})
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "plain"}, "data": {"word": "seen"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": "s3cret-value"}}
    for items in (
        yaml.safe_dump_all([config_map, secret]),
        yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [config_map, secret]}),
    ):
        Path("values.yaml").write_text(items)
        assert katuna("train", "job.yaml", "--values", "values.yaml").returncode == 0
        assert "Suspended" in katuna("ls").stdout
        done = katuna("resume", "toy")
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert "master-0 | seen 12" in done.stdout
        assert objects("show", "toy")["status"]["conditions"][-1]["type"] == "Succeeded"
        assert not any(b"s3cret" in path.read_bytes() for path in Path("runs").rglob("*") if path.is_file())
        assert katuna("rm", "toy", "--yes").returncode == 0


def test_the_best_of_a_search_over_two_replicas_is_trained_again_with_both(tmp_path: Path) -> None:
    program = "import os, sys; print(f'accuracy={float(sys.argv[1]) * int(os.environ[\"WORLD_SIZE\"]):.6f}')"
    path = write_experiment(tmp_path, maxTrialCount=2, parallelTrialCount=1)
    manifest = yaml.safe_load(path.read_text())
    template = manifest["spec"]["trialTemplate"]
    template["primaryContainerName"] = "pytorch"
    template["trialSpec"] = {
        key: value
        for key, value in pytorchjob(program, "${trialParameters.lr}", workers=1).items()
        if key in ("apiVersion", "kind", "spec")
    }
    path.write_text(yaml.safe_dump(manifest))
    done = katuna("tune", path)
    assert done.returncode == 0, (done.stdout, done.stderr)
    best = objects("best")["status"]["observation"]["metrics"][0]["max"]
    line = katuna("best", "-o", "command").stdout.strip()
    again = subprocess.run(["/bin/bash", "-c", line], capture_output=True, text=True, check=True, cwd="/")
    assert f"master-0 | accuracy={best}" in again.stdout
    assert "worker-0 started" in again.stdout


def test_what_takes_long_at_the_start_is_said(tmp_path: Path) -> None:
    """The imports of PyTorch take more than a second on every machine."""
    write_job(tmp_path, "", container={"command": ["python", "slow.py"]})
    Path("slow.py").write_text("import torch\nprint('loss=0.5')\n")
    done = katuna("train", "job.yaml")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.count("Python starts, once for all replicas") == 1
    quick = katuna("train", "job.yaml", "--cold")
    assert "Python starts" not in quick.stdout


def test_null_takes_a_field_out_and_a_text_may_be_empty(tmp_path: Path) -> None:
    write_job(tmp_path, "import os; print(repr(os.environ['WORD']))", workers=1, env={"WORD": "full"})
    first = "spec.pytorchReplicaSpecs.Master.template.spec.containers[pytorch].env[WORD].value="
    done = katuna("train", "job.yaml", "--set", "spec.pytorchReplicaSpecs.Worker=null", "--set", first)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "master-0 | ''" in done.stdout
    assert "worker" not in done.stdout


def test_several_jobs_in_one_file_need_a_name(tmp_path: Path) -> None:
    jobs = [pytorchjob("print('loss=1')", name="first"), pytorchjob("print('loss=2')", name="second")]
    Path("job.yaml").write_text(yaml.safe_dump_all(jobs))
    assert "--name" in refused("job.yaml")
    assert "second" in refused("job.yaml", "--name", "secnd")
    done = katuna("train", "job.yaml", "--name", "second")
    assert done.returncode == 0, done.stderr
    assert "master-0 | loss=2" in done.stdout
    assert Path("runs/second/job.yaml").read_text() == Path("job.yaml").read_text()


def test_set_and_nproc_change_the_run_and_not_the_file(tmp_path: Path) -> None:
    program = "import os; print(os.environ['WORLD_SIZE'], os.environ['PET_NPROC_PER_NODE'])"
    before = write_job(tmp_path, program, workers=1).read_bytes()
    change = "spec.pytorchReplicaSpecs.Worker.replicas=2"
    done = katuna("train", "job.yaml", "--set", change, "--nproc", "2")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "worker-1 | 6 2" in done.stdout
    assert f"other than the file says: --nproc 2 --set {change}" in done.stdout
    assert Path("job.yaml").read_bytes() == before == Path("runs/toy/job.yaml").read_bytes()
    assert objects("show")["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2
    assert "--set" in katuna("show").stdout


TYPOS = {
    "option": (("--nprocs", "2"), "--nproc"),
    "nproc": (("--nproc", "two"), "--nproc"),
    "nproc of nothing": (("--nproc", "0"), "--nproc"),
    "set without a value": (("--set", "spec.nprocPerNode"), "PATH=VALUE"),
    "set of no field": (("--set", "spec.pytorchReplicaSpecs.Worke.replicas=2"), "Worke"),
    "set of no number": (("--set", "spec.pytorchReplicaSpecs.Master.replicas=two"), "replicas"),
    "set of the kind": (("--set", "kind=TFJob"), "kind"),
    "set of the API": (("--set", "apiVersion=v1"), "apiVersion"),
    "set of nothing": (("--set", "spec.runPolicy.backoffLimit="), "null takes the field out"),
    "map": (("--map", "opt=./here"), "--map"),
    "map of nothing": (("--map", "/opt/nowhere=./here"), "/opt/nowhere"),
    "entrypoint": (("--entrypoint", "registry.example/toi:1=python x.py"), "registry.example/toy:1"),
    "python": (("--python", "registry.example/toi:1=python3"), "registry.example/toy:1"),
    "pass-env": (("--pass-env", "NO_SUCH_VARIABLE"), "NO_SUCH_VARIABLE"),
    "pass-env of the job": (("--pass-env", "RANK"), "RANK"),
    "device": (("--device", "gpu"), "cuda"),
    "restarts": (("--restarts", "operator"), "as-operator"),
    "claim": (("--claim", "data"), "NAME=FOLDER"),
    "claim of nothing": (("--claim", "data=./here"), "data"),
    "data": (("--data", "./nowhere"), "nowhere"),
    "data of an unset variable": (("--data", ""), "--data"),
    "name": (("--name", "tai"), "toy"),
    "values": (("--values", "nosuch.yaml"), "nosuch.yaml"),
    "output": (("-o", "yaml"), "json"),
    "output alone": (("-o", "json"), "--dry-run"),
}


@pytest.mark.parametrize("case", TYPOS)
def test_a_mistake_in_an_option_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, expected = TYPOS[case]
    write_job(tmp_path, "pass")
    with pytest.raises(SystemExit) as ended:
        main(["train", "job.yaml", *arguments])
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert expected in told.err
    assert not Path("runs").exists()


def test_an_experiment_is_refused_with_the_verb_for_it(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    assert "katuna tune" in refused("experiment.yaml")


def test_dry_run_runs_nothing_and_prints_one_object(tmp_path: Path) -> None:
    write_job(tmp_path, 'print("loss=1")', workers=1, env={"PLAIN": "visible"})
    done = katuna("train", "job.yaml", "--dry-run", "-o", "json")
    assert done.returncode == 0, done.stderr
    replicas = json.loads(done.stdout)["replicas"]
    assert [replica["pod"] for replica in replicas] == ["toy-master-0", "toy-worker-0"]
    container = replicas[1]["containers"][0]
    assert container["name"] == "pytorch"
    assert container["env"]["RANK"] == "1"
    assert container["argv"][-1] == 'print("loss=1")'
    text = katuna("train", "job.yaml", "--dry-run")
    assert text.returncode == 0, text.stderr
    for word in ("master-0", "worker-0", "PLAIN=visible", "RANK=1", "WORLD_SIZE=2", 'print("loss=1")'):
        assert word in text.stdout
    assert not Path("runs").exists()


def test_ten_thousand_lines_a_second_are_shown_or_counted_and_all_in_the_file(tmp_path: Path) -> None:
    program = "import sys\nfor n in range(300_000): sys.stdout.write(f'line {n} of a chatty trainer\\n')"
    write_job(tmp_path, program, workers=1)
    began = time.monotonic()
    done = katuna("train", "job.yaml", timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 40
    for replica in ("master-0", "worker-0"):
        mine = [line for line in done.stdout.splitlines() if line.startswith(f"{replica} | ")]
        left_out = sum(int(match[1]) for line in mine if (match := re.search(r"\.\.\. (\d+) lines left out here", line)))
        shown = [line for line in mine if " lines left out here" not in line]
        assert all(re.fullmatch(rf"{replica} \| line \d+ of a chatty trainer", line) for line in shown), "no line is torn"
        assert len(shown) + left_out == 300_000
        assert shown[-1] == f"{replica} | line 299999 of a chatty trainer"
    assert (tmp_path / "runs" / "toy" / "log").read_text().count("\n") == 300_000


def test_a_line_without_an_end_is_shown_before_its_container_is_said_to_be_over(tmp_path: Path) -> None:
    write_job(tmp_path, "import os, sys, time; sys.stdout.write('half a line'); time.sleep(int(os.environ['RANK']))", workers=1)
    lines = katuna("train", "job.yaml").stdout.splitlines()
    over = next(number for number, line in enumerate(lines) if line.startswith("master-0 completed"))
    assert lines.index("master-0 | half a line") < over


def test_a_signal_that_killed_a_rank_is_named_and_a_new_beginning_is_called_so(tmp_path: Path) -> None:
    write_job(tmp_path, "import os; os.kill(os.getpid(), 9)", restart="OnFailure", spec={"runPolicy": {"backoffLimit": 1}})
    done = katuna("train", "job.yaml")
    assert done.returncode == 1
    assert (
        "ended: Error, exit code 137: it was killed by SIGKILL (signal 9); perhaps out of memory; toy/log is empty" in done.stdout
    )
    assert re.findall(r"^master-0 started(.*), pid", done.stdout, re.MULTILINE) == ["", " again (restart 1)"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("verb", ["train", "tune"])
def test_no_room_for_what_is_shown_ends_nothing(tmp_path: Path, verb: str) -> None:
    file = (write_job(tmp_path, STEPS, "2", "0") if verb == "train" else write_experiment(tmp_path)).name
    with Path("/dev/full").open("w") as output:
        done = subprocess.run([*KATUNA, verb, file], stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("output: No space left on device; ") == 1
    assert objects("ls")[0]["state"] == "Succeeded"


def test_all_that_is_in_the_way_is_one_list(tmp_path: Path) -> None:
    write_job(tmp_path, STEPS, container={"command": ["python", "nowhere.py"], "workingDir": "/in/the/image"})
    message = refused("job.yaml", "--claim", "data=./data", "--pass-env", "NOT_SET_HERE").splitlines()
    assert message[0] == "error: 3 things are in the way; nothing was started:"
    assert [line[:2] for line in message[1:]] == ["- "] * 3


def test_what_a_replica_prints_follows_the_word_that_it_has_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(tmp_path, STEPS, spec={"runPolicy": {"suspend": True}})
    run = train("job.yaml")
    screen = ReplicaScreen()
    take = screen.watch(run)
    (run.path / "log").write_text("fast\n")
    screen.look()
    take(ContainerStarted(1.0, 0, "toy-master-0", "pytorch", 0, {"pid": 7, "start": "warm"}), run.search)
    screen.look()
    assert capsys.readouterr().out.splitlines()[-2:] == ["master-0 started, pid 7 (warm)", "master-0 | fast"]


def test_the_pod_of_a_batch_job_is_called_by_its_name(tmp_path: Path) -> None:
    container = {"name": "main", "image": "registry.example/toy:1", "command": ["sh", "-c", "echo x; exit 3"]}
    spec = {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "toy"}, "spec": spec}
    Path("job.yaml").write_text(yaml.safe_dump(manifest))
    done = katuna("train", "job.yaml")
    assert done.returncode == 1, done.stderr
    assert "toy-0 | x" in done.stdout.splitlines()
    assert "toy-0 ended: Error, exit code 3; the last lines of toy/log:" in done.stdout


def test_a_long_log_takes_few_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[str] = []
    monkeypatch.setattr("click.echo", lambda text, **_: blocks.append(text))
    (tmp_path / "log").write_text("x\n" * (2 * logs.AT_ONCE + 1))
    logs._print(Lines(tmp_path / "log"), "it | ")
    assert ["".join(blocks), len(blocks)] == ["it | x\n" * (2 * logs.AT_ONCE + 1), 3]


def test_what_a_replica_prints_steers_no_terminal(tmp_path: Path) -> None:
    write_job(tmp_path, r"print('\x1b[31mred\x1b[0m \x1b[2J\x07 end'); print('\r10%\r20%\r100%'); print('x' * 9000)")
    done = katuna("train", "job.yaml")
    assert "master-0 | red \\x1b[2J\\x07 end" in done.stdout
    assert "\x1b" not in done.stdout
    assert "master-0 | 100%" in done.stdout
    assert "10%" not in done.stdout
    assert f"master-0 | {'x' * 9000}" in done.stdout.splitlines(), "a long line is whole"


def test_the_job_of_the_repository_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    short = "spec.pytorchReplicaSpecs.Master.template.spec.containers[0].args=[--epochs=1]"
    done = katuna("train", "training_jobs/digits.yaml", "--set", short, timeout=110)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert re.search(r"^master-0 \| .*\w=\d", done.stdout, re.MULTILINE)
    assert re.search(r"^last metrics .*\w=\d", done.stdout, re.MULTILINE)
    run = tmp_path / "runs" / "digits"
    assert (run / "job.yaml").read_bytes() == (root / "training_jobs" / "digits.yaml").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_master_and_a_worker_train_to_the_loss_curve_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """training_jobs/digits-ddp.yaml as it is, and its command as one process, whose batch is that of both replicas. Sums of floats in
    another order grow apart over the steps: the first epoch's loss is the same to 1 in 100,000, the others' to 5 in 1,000."""
    root = Path(__file__).parents[2]
    file = root / "training_jobs" / "digits-ddp.yaml"
    monkeypatch.chdir(root)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shared = katuna("train", file, timeout=280)
    assert shared.returncode == 0, (shared.stdout, shared.stderr)
    replicas = yaml.safe_load(file.read_text())["spec"]["pytorchReplicaSpecs"]
    (container,) = replicas["Master"]["template"]["spec"]["containers"]
    alone = subprocess.run([sys.executable, *container["command"][1:]], capture_output=True, text=True, check=True)
    first, second = (
        re.findall(r"^(?:master-0 \| )?epoch=\d+ train-loss=(\S+)", output, re.MULTILINE)
        for output in (shared.stdout, alone.stdout)
    )
    assert len(first) == len(second) == 8
    assert float(first[0]) == pytest.approx(float(second[0]), rel=1e-5)
    assert list(map(float, first)) == pytest.approx(list(map(float, second)), rel=5e-3)
    assert (tmp_path / "runs" / "digits-ddp" / "export" / "model.onnx").is_file()
