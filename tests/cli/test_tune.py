"""`katuna tune` and what can go wrong with it: each fault gives one clear message and its exit code, and nothing recorded is lost."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from searches import KATUNA, await_line, await_none, experiment_yaml, is_refused, journal_events, katuna, spawn, write_experiment

FOREVER = "import time\nprint('accuracy=0.5', flush=True)\nwhile True: time.sleep(1)"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('accuracy=0.5', flush=True)\nwhile True: time.sleep(1)"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


refused = partial(is_refused, "tune")


def test_a_search_from_a_file_to_a_winner(tmp_path: Path) -> None:
    write_experiment(tmp_path, maxTrialCount=6)
    done = katuna("tune", "experiment.yaml")
    assert done.returncode == 0, done.stderr
    assert "images are not pulled" in done.stdout
    assert done.stdout.count("images are not pulled") == 1
    assert done.stdout.count(" started: toy-") == 6
    assert "Succeeded: Experiment has succeeded because max trial count has reached (6 succeeded)" in done.stdout
    assert len(re.findall(r"^ +0\.\d+  toy-", done.stdout, re.MULTILINE)) == 5
    run = tmp_path / "runs" / "toy"
    assert (run / "experiment.yaml").read_text() == Path("experiment.yaml").read_text()
    assert yaml.safe_load((run / "defaulted.yaml").read_text())["spec"]["resumePolicy"] == "Never"
    assert len(list(run.glob("trials/*/job.yaml"))) == 6


def test_the_same_seed_gives_the_same_search_and_another_another(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    for seed in ("5", "5", "6"):
        assert katuna("tune", "experiment.yaml", "--seed", seed).returncode == 0
    first, second, third = (
        sorted(
            (event["number"], event["name"], str(event["assignments"]))
            for event in journal_events(run)
            if event["event"] == "Asked"
        )
        for run in (tmp_path / "runs" / "toy", tmp_path / "runs" / "toy-2", tmp_path / "runs" / "toy-3")
    )
    assert first == second
    assert first != third


def test_dry_run_prints_what_would_run_and_runs_nothing(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    done = katuna("tune", "experiment.yaml", "--dry-run", "-n", "2")
    assert done.returncode == 0, done.stderr
    experiment, *jobs = yaml.safe_load_all(done.stdout)
    assert experiment["spec"]["resumePolicy"] == "Never"
    assert [job["kind"] for job in jobs] == ["Job", "Job"]
    assert not Path("runs").exists()
    assert katuna("tune", "experiment.yaml").returncode == 0
    asked = [event["name"] for event in journal_events(tmp_path / "runs" / "toy") if event["event"] == "Asked"]
    assert [job["metadata"]["name"] for job in jobs] == asked[:2]


def test_a_config_map_beside_the_experiment_is_its_template(tmp_path: Path) -> None:
    whole = yaml.safe_load(experiment_yaml())
    template = whole["spec"]["trialTemplate"].pop("trialSpec")
    condition = 'status.conditions.#(type=="Complete")#|#(status=="True")#'
    whole["spec"]["trialTemplate"] |= {
        "configMap": {"configMapName": "templates", "configMapNamespace": "team", "templatePath": "toy.yaml"},
        "successCondition": condition,
        "failureCondition": condition.replace("Complete", "Failed"),
    }
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "templates", "namespace": "team"},
        "data": {"toy.yaml": yaml.safe_dump(template)},
    }
    Path("experiment.yaml").write_text(yaml.safe_dump(whole))
    assert "templates" in refused("experiment.yaml")
    Path("templates.yaml").write_text(yaml.safe_dump(document))
    unquoted = refused("experiment.yaml", "templates.yaml")
    assert "command[5]: must be text, not the number 0.01" in unquoted, "a YAML template types what it is given"
    assert "write the placeholder in quotes" in unquoted
    document["data"] = {"toy.yaml": yaml.safe_dump(template).replace("${trialParameters.lr}", '"${trialParameters.lr}"')}
    Path("templates.yaml").write_text(yaml.safe_dump(document))
    done = katuna("tune", "experiment.yaml", "templates.yaml")
    assert done.returncode == 0, done.stderr
    assert "4 succeeded" in done.stdout


def test_timeout_ends_the_search_in_good_order(tmp_path: Path) -> None:
    one_ends = "import os, time\nprint('accuracy=0.5', flush=True)\ntry: os.mkdir('ended')\nexcept OSError: time.sleep(100)"
    write_experiment(tmp_path, one_ends, maxTrialCount=50)
    began = time.monotonic()
    done = katuna("tune", "experiment.yaml", "--timeout", "2s", "--shared-files")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 30
    assert "--timeout has passed" in done.stdout
    assert "2 stopped)" in done.stdout


def damaged(change: dict[str, Any] | None = None, **spec: Any) -> str:
    whole = yaml.safe_load(experiment_yaml(**spec))
    whole |= change or {}
    return yaml.safe_dump(whole)


def with_one_more_parameter(name: str) -> str:
    """One that nothing in the trial refers to."""
    whole = yaml.safe_load(experiment_yaml())
    more = {"name": name, "parameterType": "double", "feasibleSpace": {"min": "0.1", "max": "0.2"}}
    whole["spec"]["parameters"].append(more)
    return yaml.safe_dump(whole)


REFUSED = {
    "malformed": ("a: [1,\nb: }", r"experiment\.yaml:2:"),
    "empty": ("", r"experiment\.yaml: error\[empty-file\]: .*empty"),
    "wrong kind": (damaged({"kind": "Experimen"}), r"kind.*did you mean"),
    "wrong version": (damaged({"apiVersion": "kubeflow.org/v1alpha3"}), r"apiVersion"),
    "misspelt field": (damaged(maxTrialCounts=3), r"maxTrialCounts.*did you mean.*maxTrialCount"),
    "two of one name": (experiment_yaml() + "---\n" + experiment_yaml(), r"second Experiment is named"),
    "several": (experiment_yaml() + "---\n" + experiment_yaml(name="other"), r"several Experiments"),
    "unused parameter": (with_one_more_parameter("momentum"), r"momentum"),
    "undeclared placeholder": (
        damaged(command=["python", "-c", "pass", "${trialParameters.lr}", "${trialParameters.width}"]),
        r"width",
    ),
    "empty space": (
        damaged(parameters=[{"name": "lr", "parameterType": "double", "feasibleSpace": {"min": "0.9", "max": "0.1"}}]),
        r"feasibleSpace",
    ),
    "duplicate key": ("a: 1\na: 2\n", r"experiment\.yaml:2:1"),
    "unknown algorithm": (damaged(algorithm={"algorithmName": "tpee"}), r"did you mean.*tpe"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_its_place(case: str) -> None:
    text, expected = REFUSED[case]
    Path("experiment.yaml").write_text(text)
    message = refused("experiment.yaml")
    assert re.search(expected, message, re.IGNORECASE), message


def test_all_errors_of_a_file_come_together() -> None:
    Path("experiment.yaml").write_text(
        damaged(maxTrialCount="four", parallelTrialCount=0, objective={"type": "maximise", "objectiveMetricName": "a"})
    )
    message = refused("experiment.yaml")
    assert "spec.maxTrialCount" in message
    assert "spec.parallelTrialCount" in message or "spec.objective.type" in message
    assert int(re.search(r"(\d+) errors?; nothing was started", message)[1]) >= 2  # type: ignore[index]


def test_a_file_that_is_not_there_or_not_text() -> None:
    assert "nosuch.yaml: No such file" in refused("nosuch.yaml")
    Path("experiment.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused("experiment.yaml")


def test_a_command_that_does_not_exist_is_found_before_anything_runs(tmp_path: Path) -> None:
    write_experiment(tmp_path, command=["no-such-command", "${trialParameters.lr}"])
    message = refused("experiment.yaml")
    assert "no-such-command" in message
    assert message.count("error:") == 1


def test_a_script_of_the_image_is_found_where_map_says(tmp_path: Path) -> None:
    write_experiment(tmp_path, command=["python", "/opt/app/train.py", "${trialParameters.lr}"])
    assert "--map /opt/app=" in refused("experiment.yaml")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.py").write_text("import sys\nprint(f'accuracy={sys.argv[1]}')")
    done = katuna("tune", "experiment.yaml", "--map", "/opt/app=./mine")
    assert done.returncode == 0, done.stderr


def test_an_image_without_a_command_needs_its_entrypoint(tmp_path: Path) -> None:
    whole = yaml.safe_load(experiment_yaml())
    container = whole["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    del container["command"]
    container["args"] = ["${trialParameters.lr}"]
    Path("experiment.yaml").write_text(yaml.safe_dump(whole))
    assert "--entrypoint registry.example/toy:1=" in refused("experiment.yaml")
    Path("train.py").write_text("import sys\nprint(f'accuracy={sys.argv[1]}')")
    done = katuna("tune", "experiment.yaml", "--entrypoint", "registry.example/toy:1=python train.py")
    assert done.returncode == 0, done.stderr


def test_gpus_that_are_not_here_are_refused_with_the_way_out(tmp_path: Path) -> None:
    whole = yaml.safe_load(experiment_yaml())
    container = whole["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"limits": {"nvidia.com/gpu": 64}}
    Path("experiment.yaml").write_text(yaml.safe_dump(whole))
    assert "--device cpu" in refused("experiment.yaml")
    done = katuna("tune", "experiment.yaml", "--device", "cpu")
    assert done.returncode == 0, done.stderr


FAULTS = {
    "exits 1": ("import sys; print('accuracy=0.5'); sys.exit('out of data')", "Failed", r"exited with code 1.*out of data"),
    "killed by signal 9": ("import os; os.kill(os.getpid(), 9)", "Failed", r"SIGKILL|signal 9"),
    "NaN": ("print('accuracy=nan')", "MetricsUnavailable", r"accuracy=nan"),
    "another metric": ("print('acuracy=0.5')", "MetricsUnavailable", r"acuracy=0\.5"),
    "silent": ("pass", "MetricsUnavailable", r"never reported"),
    "a decimal comma": ("print('accuracy=0,45')", "Succeeded", r"warning: accuracy was read as 0, .*accuracy=0,45"),
    "a longer name": ("print('train/accuracy=0.5')", "Succeeded", r"warning: accuracy was read from train/accuracy"),
    "10 MB without newline": ("print('x' * 10_000_000, end=''); print(); print('accuracy=0.5')", "Succeeded", ""),
    "invalid UTF-8": (r"import sys; sys.stdout.buffer.write(b'\xff\xfe accuracy=0.5\n')", "Succeeded", ""),
    "terminal escapes": (r"import sys; print('\x1b[2J\x1b]0;title\x07'); sys.exit('\x1b[31mboom')", "Failed", r"\\x1b\[31mboom"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_trial_ends_with_its_reason(tmp_path: Path, fault: str) -> None:
    program, state, reason = FAULTS[fault]
    write_experiment(tmp_path, program, maxTrialCount=1, parallelTrialCount=1)
    done = katuna("tune", "experiment.yaml")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    listed = katuna("trials")
    assert state in listed.stdout
    assert re.search(reason, listed.stdout), listed.stdout
    assert "\x1b" not in listed.stdout


def test_a_hanging_trial_ends_at_its_deadline(tmp_path: Path) -> None:
    write_experiment(
        tmp_path, STUBBORN, maxTrialCount=1, parallelTrialCount=1, job={"activeDeadlineSeconds": 1, "backoffLimit": 0}
    )
    whole = yaml.safe_load(Path("experiment.yaml").read_text())
    whole["spec"]["trialTemplate"]["trialSpec"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    Path("experiment.yaml").write_text(yaml.safe_dump(whole))
    done = katuna("tune", "experiment.yaml")
    assert done.returncode == 0, done.stderr
    assert "DeadlineExceeded" in katuna("trials", "-o", "yaml").stdout


def test_backoff_limit_retries_and_without_one_the_first_failure_is_final(tmp_path: Path) -> None:
    program = "import os, sys; f = os.environ['KATUNA_TRIAL_DIR'] + '/tries'; open(f, 'a').write('x'); sys.exit(1) if len(open(f).read()) < 3 else print('accuracy=0.5')"
    write_experiment(tmp_path, program, name="retried", maxTrialCount=1, parallelTrialCount=1, job={"backoffLimit": 2})
    assert "1 succeeded" in katuna("tune", "experiment.yaml").stdout
    write_experiment(tmp_path, program, name="final", maxTrialCount=1, parallelTrialCount=1)
    assert "1 failed" in katuna("tune", "experiment.yaml").stdout


def test_a_failed_search_has_exit_code_1(tmp_path: Path) -> None:
    write_experiment(tmp_path, "import sys; sys.exit(3)", maxFailedTrialCount=2)
    done = katuna("tune", "experiment.yaml")
    assert done.returncode == 1
    assert "Failed: Experiment has failed because max failed count has reached" in done.stdout
    assert "katuna logs toy/" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("program", [FOREVER, STUBBORN], ids=["willing", "stubborn"])
def test_a_signal_stops_all_and_leaves_a_search_that_goes_on(tmp_path: Path, signum: int, code: int, program: str) -> None:
    mark = f"mark-{uuid.uuid4()}"
    path = write_experiment(tmp_path, program, env={"MARK": mark})
    process = spawn("tune", "experiment.yaml")
    assert process.stdout is not None
    journal = tmp_path / "runs" / "toy" / "journal.jsonl"
    await_line(journal, '"Reported"', times=2)
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
    folder_copy = tmp_path / "runs" / "toy" / "experiment.yaml"
    folder_copy.write_text(path.read_text().replace("while True", "while False"))
    resumed = katuna("resume", "toy")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed: 0 trials done before; 2 begin again" in resumed.stdout
    assert "4 succeeded" in resumed.stdout


def test_stop_ends_a_search_from_outside(tmp_path: Path) -> None:
    write_experiment(tmp_path, FOREVER)
    process = spawn("tune", "experiment.yaml")
    await_line(tmp_path / "runs" / "toy" / "journal.jsonl", '"Started"', times=2)
    assert "Running" in katuna("ls").stdout
    busy = katuna("resume", "toy")
    assert busy.returncode == 2
    assert f"pid {process.pid}" in busy.stderr
    assert katuna("rm", "-y", "toy").returncode == 2
    stopped = katuna("stop", "toy")
    assert (stopped.returncode, stopped.stdout) == (0, "toy has stopped; go on with `katuna resume toy`\n")
    process.communicate(timeout=30)
    assert process.returncode == 143


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_child_that_outlives_its_trial_is_ended(tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4()}"
    program = (
        "import os, time\nprint('accuracy=0.5', flush=True)\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(100)\n    os._exit(0)\n"
    )
    write_experiment(tmp_path, program, env={"MARK": mark})
    done = katuna("tune", "experiment.yaml")
    assert done.returncode == 0, done.stderr
    assert "4 succeeded" in done.stdout
    assert await_none(mark, within_s=0.5) == []


def test_resume_refuses_what_can_no_longer_run_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(FOREVER)
    write_experiment(tmp_path, command=["python", "train.py", "${trialParameters.lr}"], maxFailedTrialCount=1)
    process = spawn("tune", "experiment.yaml")
    journal = tmp_path / "runs" / "toy" / "journal.jsonl"
    await_line(journal, '"Started"', times=2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    before = journal.read_bytes()
    (tmp_path / "train.py").rename(tmp_path / "elsewhere.py")
    done = katuna("resume", "toy", "--code", "new")
    assert done.returncode == 2, done.stdout
    assert "train.py" in done.stderr
    assert journal.read_bytes() == before
    (tmp_path / "train.py").write_text(FOREVER.replace("while True", "while False"))
    assert "4 succeeded" in katuna("resume", "toy", "--code", "new").stdout


def test_resume_from_another_folder_runs_where_the_search_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text(FOREVER)
    write_experiment(tmp_path, command=["python", "train.py", "${trialParameters.lr}"])
    process = spawn("tune", "experiment.yaml")
    await_line(tmp_path / "runs" / "toy" / "journal.jsonl", '"Started"', times=2)
    katuna("stop", "toy")
    process.communicate(timeout=30)
    (tmp_path / "train.py").write_text(FOREVER.replace("while True", "while False"))
    monkeypatch.chdir("/")
    assert "4 succeeded" in katuna("resume", str(tmp_path / "runs" / "toy"), "--code", "new").stdout


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """`nohup katuna tune` outlives its terminal."""
    write_experiment(tmp_path, FOREVER)
    code = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from katuna.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "tune", "experiment.yaml"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    journal = tmp_path / "runs" / "toy" / "journal.jsonl"
    await_line(journal, '"Started"', times=2)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_a_reader_that_leaves_does_not_end_the_search(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    process = subprocess.Popen([*KATUNA, "tune", "experiment.yaml"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0, errors
    assert b"Traceback" not in errors
    assert "Succeeded" in katuna("ls").stdout


def test_files_are_kept_as_given_each_for_itself(tmp_path: Path) -> None:
    given = b"\xef\xbb\xbf" + experiment_yaml().replace("\n", "\r\n").encode()
    beside = b"%YAML 1.1\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata: {a: b}\n"
    (tmp_path / "experiment.yaml").write_bytes(given)
    (tmp_path / "config.yaml").write_bytes(beside)
    done = katuna("tune", "config.yaml", "experiment.yaml")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "toy"
    assert (run / "experiment.yaml").read_bytes() == given
    assert [path.read_bytes() for path in (run / "beside").iterdir()] == [beside]
    assert katuna("show", "toy").returncode == 0


def test_a_secret_is_not_taken_into_the_run_folder() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "hunter2"}}
    Path("experiment.yaml").write_text(experiment_yaml() + "---\n" + yaml.safe_dump(secret))
    message = refused("experiment.yaml")
    assert "must not keep a Secret" in message
    assert "hunter2" not in message


def test_a_timeout_before_any_value_is_a_failure(tmp_path: Path) -> None:
    write_experiment(tmp_path, "import time; time.sleep(60)")
    done = katuna("tune", "experiment.yaml", "--timeout", "1s")
    assert done.returncode == 1
    assert "before any trial had a value" in done.stdout
    again = katuna("resume", "toy", "--timeout", "1s")
    assert again.returncode == 1, "it goes on, and ends so again"
    assert "resumed: 0 trials done before; 2 begin again" in again.stdout


def test_a_flipped_byte_is_refused_and_drop_after_goes_on(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    assert katuna("tune", "experiment.yaml").returncode == 0
    journal = tmp_path / "runs" / "toy" / "journal.jsonl"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged_bytes = b"".join([*lines[:7], lines[7].replace(b'"number": ', b'"number": 1', 1), *lines[8:]])
    journal.write_bytes(damaged_bytes)
    for verb in ("show", "trials", "resume"):
        done = katuna(verb, "toy")
        assert done.returncode == 2
        assert "journal.jsonl, line 8: the checksum does not match" in done.stderr
        assert "--drop-after 7" in done.stderr
    assert journal.read_bytes() == damaged_bytes
    again = katuna("resume", "toy", "--drop-after", "7")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "runs" / "toy" / "journal.jsonl.damaged-1").read_bytes() == damaged_bytes
    assert journal.read_bytes().startswith(b"".join(lines[:7]))
    assert "4 succeeded" in again.stdout


def test_a_full_disk_stops_the_search_and_loses_nothing(tmp_path: Path) -> None:
    """The kernel stops katuna's files from growing beyond 3 kB, as a full disk would; the trials' own logs stay below."""
    write_experiment(tmp_path, maxTrialCount=20)
    limited = "import resource, signal, sys; from katuna.cli import main; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", limited, "tune", "experiment.yaml"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert "katuna resume toy" in done.stderr
    before = [event for event in journal_events(tmp_path / "runs" / "toy") if event["event"] == "Exited"]
    again = katuna("resume", "toy")
    assert again.returncode == 0, again.stderr
    assert "20 succeeded" in again.stdout
    after = [event for event in journal_events(tmp_path / "runs" / "toy") if event["event"] == "Exited"]
    assert after[: len(before)] == before


def as_others(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """katuna without the privilege to write where the mode forbids it, which root has."""
    plain = [] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if plain and not shutil.which("setpriv"):
        pytest.skip("root may write anywhere, and there is no setpriv to take that from it")
    return subprocess.run([*plain, *KATUNA, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_a_read_only_run_folder_is_refused(tmp_path: Path) -> None:
    write_experiment(tmp_path, FOREVER)
    process = spawn("tune", "experiment.yaml")
    await_line(tmp_path / "runs" / "toy" / "journal.jsonl", '"Started"')
    katuna("stop", "toy")
    process.communicate(timeout=30)
    run = tmp_path / "runs" / "toy"
    for path, mode in ((run / "journal.jsonl", 0o400), (run / "lock", 0o400), (run, 0o500)):
        path.chmod(mode)
    refusal, look = as_others("resume", "toy"), as_others("show", "toy")
    run.chmod(0o700)
    assert refusal.returncode == 2
    assert "cannot be written: Permission denied" in refusal.stderr
    assert look.returncode == 0, "looking needs no right to write"
    assert "Interrupted" in look.stdout


def test_a_folder_where_no_run_can_be_made_is_refused(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    (tmp_path / "runs").mkdir(mode=0o500)
    done = as_others("tune", "experiment.yaml")
    assert done.returncode == 2
    assert "Permission denied; make room, or set KATUNA_HOME" in done.stderr


def test_secrets_are_neither_in_the_run_folder_nor_on_the_screen(tmp_path: Path) -> None:
    secret = f"secret-{uuid.uuid4()}"
    program = "import os; print('accuracy=0.5' if os.environ.get('TOKEN') else 'no token'); assert 'OTHER' not in os.environ"
    write_experiment(tmp_path, program)
    done = katuna("tune", "experiment.yaml", "--pass-env", "TOKEN", env={"TOKEN": secret, "OTHER": "x"})
    assert "4 succeeded" in done.stdout, done.stdout
    assert secret not in done.stdout + done.stderr + katuna("best", "-o", "command").stdout
    for path in (tmp_path / "runs").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def on_a_terminal(*arguments: str, kind: str) -> str:
    """What katuna shows on a terminal of 30 lines by 100."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    environment = {**os.environ, "TERM": kind}
    process = subprocess.Popen(
        [*KATUNA, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, process_group=0, env=environment
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # Linux ends a terminal so, when the last process has left it.
    os.close(ours)
    assert process.wait(30) == 0, shown.decode()
    return shown.decode()


def test_on_a_terminal_the_search_is_drawn_in_place(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfor step in range(8):\n    print(f'accuracy={0.1 * step:.1f} \\x1b[2J', flush=True); time.sleep(0.15)"
    )
    write_experiment(tmp_path, program, maxTrialCount=3)
    text = on_a_terminal("tune", "experiment.yaml", kind="xterm-256color")
    assert "Traceback" not in text
    assert "0/3 done" in text
    assert re.search(r"accuracy=0\.[1-7]", text)
    assert "best accuracy=0.7" in text
    assert "Succeeded" in text
    assert "\x1b[2J" not in text, "what a trial prints does not clear the screen"


def test_a_terminal_that_cannot_be_drawn_on_gets_plain_lines(tmp_path: Path) -> None:
    write_experiment(tmp_path, maxTrialCount=2)
    text = on_a_terminal("tune", "experiment.yaml", kind="dumb")
    assert "trial 1 started" in text
    assert "\x1b" not in text


def test_logs_follow_a_running_search_to_its_end(tmp_path: Path) -> None:
    program = "import time\nfor step in range(6):\n    print(f'step={step} accuracy=0.{step}', flush=True); time.sleep(0.2)"
    write_experiment(tmp_path, program, maxTrialCount=2)
    search = spawn("tune", "experiment.yaml")
    await_line(tmp_path / "runs" / "toy" / "journal.jsonl", '"Reported"')
    whole, one = spawn("logs", "-f", "toy"), spawn("logs", "-f", "toy/1")
    seen, _ = whole.communicate(timeout=30)
    seen_of_one, _ = one.communicate(timeout=30)
    search.communicate(timeout=30)
    steps = [f"step={step} accuracy=0.{step}" for step in range(6)]
    assert [line.removeprefix("[1] ") for line in seen.splitlines() if line.startswith("[1] ")] == steps
    assert seen_of_one.splitlines() == steps
    assert whole.returncode == one.returncode == 0


def test_each_choice_is_looked_at_before_a_search(tmp_path: Path) -> None:
    """Paths of the image among the choices: each may need a --map of its own, and one that is not here is found at once."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text("print('accuracy=0.5')")
    scripts = {"name": "lr", "parameterType": "categorical", "feasibleSpace": {"list": ["/opt/a.py", "/opt/b.py"]}}
    write_experiment(tmp_path, command=["python", "${trialParameters.lr}"], parameters=[scripts])
    one = ("--map", "/opt/a.py=./a.py")
    assert "/opt/b.py" in refused("experiment.yaml", *one)
    assert "4 succeeded" in katuna("tune", "experiment.yaml", *one, "--map", "/opt/b.py=./b.py").stdout


@pytest.mark.parametrize("hang_up", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_terminal_that_goes_away(tmp_path: Path, hang_up: signal.Handlers) -> None:
    """With hang-ups ignored (nohup, disown) the search goes on without its reader; else it is paused, with the signal's exit code."""
    write_experiment(tmp_path, "import time; time.sleep(1); print('accuracy=0.5')", parallelTrialCount=1, maxTrialCount=3)
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, hang_up)
        os.execvpe(KATUNA[0], [*KATUNA, "tune", "experiment.yaml"], {**os.environ, "TERM": "xterm"})  # noqa: S606
    await_line(tmp_path / "runs/toy/journal.jsonl", '"Started"')
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    kinds = [event["event"] for event in journal_events(tmp_path / "runs/toy")]
    assert (code, kinds[-1] == "Ended") == ((0, True) if hang_up is signal.SIG_IGN else (129, False))
