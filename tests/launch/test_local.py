from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from launch_jobs import PATIENCE_S, ALauncher, a_job, a_launcher, a_request, run_one, the_end, until

from katuna.launch import guard
from katuna.launch.local_options import LocalOptions
from katuna.manifest.experiment import Collector
from katuna.manifest.yamltext import Source, parse
from katuna.search.contracts import TrialRequest
from katuna.search.trials import Exited, Reported, Started


def environment(folder: Path, launcher: ALauncher, **container: object) -> dict[str, str]:
    run_one(launcher, a_request(0, "env", "-0", container=container))
    launcher.close()
    return dict(line.split("=", 1) for line in (folder / "t0" / "log").read_text().split("\0") if line)


def test_a_trial_knows_its_name_and_folder(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "RANK": "3", "MASTER_PORT": "1", "AWS_SECRET_ACCESS_KEY": "x", "KEPT": "1"}
    found = environment(tmp_path, a_launcher(tmp_path, environ=environ, options=LocalOptions(pass_env=("KEPT",))))
    assert found["KATUNA_TRIAL_DIR"] == str(tmp_path / "t0")
    assert found["KATIB_TRIAL_NAME"] == "t0"
    assert found["PYTHONUNBUFFERED"] == "1"
    assert found["KEPT"] == "1"
    assert {"RANK", "MASTER_PORT", "AWS_SECRET_ACCESS_KEY"}.isdisjoint(found)


def test_parallel_trials_share_the_cpus(tmp_path: Path) -> None:
    cpus = len(os.sched_getaffinity(0))
    assert environment(tmp_path, a_launcher(tmp_path, parallel=1))["OMP_NUM_THREADS"] == str(cpus)
    assert environment(tmp_path / "b", a_launcher(tmp_path / "b", parallel=10 * cpus))["OMP_NUM_THREADS"] == "1"
    own = environment(tmp_path / "c", a_launcher(tmp_path / "c"), env=[{"name": "OMP_NUM_THREADS", "value": "7"}])
    assert own["OMP_NUM_THREADS"] == "7"


def test_secrets_are_not_on_any_command_line(tmp_path: Path) -> None:
    seen: list[str] = []

    def look(event: object) -> None:
        if isinstance(event, Started):
            for key in ("pid", "guard"):
                seen.append(Path(f"/proc/{event.process[key]}/cmdline").read_bytes().decode())

    launcher = a_launcher(
        tmp_path, environ={"PATH": os.environ["PATH"], "TOKEN": "hunter2"}, options=LocalOptions(pass_env=("TOKEN",))
    )
    request = a_request(
        0, "sh", "-c", "sleep 0.3; [ $TOKEN = hunter2 ]", container={"env": [{"name": "OTHER", "value": "hunter3"}]}
    )
    assert the_end(run_one(launcher, request, look)).code == 0
    assert len(seen) == 2
    assert all("hunter" not in text or "[ $TOKEN" in text for text in seen)
    assert "hunter" not in seen[1]
    launcher.close()


def test_the_rendered_job_lies_in_the_trials_folder(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path)
    manifest = a_job("true", "--lr=1e-5", "1e-5", "0x1f", "null", "yes", "ñ", "a: b", "x" * 300, name="t0")
    run_one(launcher, TrialRequest(0, "t0", manifest))
    text = (tmp_path / "t0" / "job.yaml").read_text(encoding="utf-8")
    documents, findings = parse(Source("job.yaml", text))
    assert findings == []
    assert documents[0].value == manifest
    assert yaml.safe_load(text) == manifest
    launcher.close()


def test_attempts_share_a_log_and_not_their_metrics(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path)
    script = f"if [ -e {tmp_path}/again ]; then echo accuracy=0.2; else touch {tmp_path}/again; echo loss=nan; exit 200; fi"
    events = run_one(launcher, a_request(0, "sh", "-c", script, backoffLimit=1))
    assert [event.attempt for event in events if isinstance(event, Started)] == [1, 2]
    assert [report.value for event in events if isinstance(event, Reported) for report in event.reports] == ["nan", "0.2"]
    assert (tmp_path / "t0" / "log").read_text() == "loss=nan\n\n--- katuna: attempt 2 ---\naccuracy=0.2\n"
    launcher.close()


def a_pytorch_job(policy: str, limit: int, *argv: str) -> TrialRequest:
    job = a_job(*argv, name="t0")
    template = job["spec"]["template"]
    spec = {
        "runPolicy": {"backoffLimit": limit},
        "pytorchReplicaSpecs": {"Master": {"replicas": 1, "restartPolicy": policy, "template": template}},
    }
    return TrialRequest(0, "t0", {**job, "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "spec": spec})


def test_exit_code_policy_retries_only_what_a_signal_ended(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path)
    for code, attempts in ((127, 1), (128, 3)):
        events = run_one(launcher, a_pytorch_job("ExitCode", 2, "sh", "-c", f"exit {code}"))
        assert sum(isinstance(event, Started) for event in events) == attempts
        assert the_end(events).code == code
    launcher.close()


def test_a_pytorch_job_has_a_port_of_its_own_on_this_machine(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path)
    bind = "import os, socket; s = socket.create_server((os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])))"
    code = f"{bind}; print('accuracy=' + os.environ['WORLD_SIZE'] + '.' + os.environ['RANK'])"
    events = run_one(launcher, a_pytorch_job("Never", 0, "python", "-S", "-c", code))
    assert [report.value for event in events if isinstance(event, Reported) for report in event.reports] == ["1.0"]
    launcher.close()


def test_a_failure_tells_of_its_own_attempt_alone(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path)
    script = f"if [ -e {tmp_path}/again ]; then exit 4; else touch {tmp_path}/again; echo first words; exit 5; fi"
    end = the_end(run_one(launcher, a_request(0, "sh", "-c", script, backoffLimit=1)))
    assert end.code == 4
    assert "first words" not in end.message
    assert "its log is empty" in end.message
    launcher.close()


def test_a_trial_that_starts_again_does_not_read_its_old_metrics(tmp_path: Path) -> None:
    for value in ("0.1", "0.2"):
        launcher = a_launcher(tmp_path)
        events = run_one(launcher, a_request(0, "echo", f"accuracy={value}"))
        assert [report.value for event in events if isinstance(event, Reported) for report in event.reports] == [value]
        launcher.close()
    assert "accuracy=0.1" in (tmp_path / "t0" / "log").read_text()


def test_own_filters_are_used(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, Collector(filters=(r"([\w|-]+)\s*is\s*([+-]?\d*(\.\d+)?)",)))
    events = run_one(launcher, a_request(0, "echo", "accuracy is 0.75, accuracy=0.5"))
    assert [report.value for event in events if isinstance(event, Reported) for report in event.reports] == ["0.75"]
    launcher.close()


def test_values_come_while_the_trial_runs(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path)
    script = f"for i in 1 2 3; do echo accuracy=$i; while [ ! -e {tmp_path}/go$i ]; do sleep 0.02; done; done"

    def answer(event: object) -> None:
        if isinstance(event, Reported):
            (tmp_path / f"go{event.reports[-1].value}").touch()

    events = run_one(launcher, a_request(0, "sh", "-c", script), answer)
    assert [report.value for event in events if isinstance(event, Reported) for report in event.reports] == ["1", "2", "3"]
    launcher.close()


def test_preflight_finds_what_cannot_start_and_runs_nothing(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path)
    requests = [a_request(number, "no-such-command") for number in range(3)]
    (finding,) = launcher.preflight(requests)
    assert finding.level == "error"
    assert "'no-such-command'" in finding.message
    assert launcher.preflight([a_request(0, "true")]) == []
    assert list(tmp_path.iterdir()) == []


def test_preflight_finds_options_that_match_no_trial(tmp_path: Path) -> None:
    options = LocalOptions(
        maps=(("/opt/app", "x"), ("/nowhere", "x")), entrypoints={"nosuch": ("a",)}, pass_env=("NOT_SET",), cwd=str(tmp_path)
    )
    launcher = a_launcher(tmp_path, options=options, environ={"PATH": os.environ["PATH"]})
    requests = [a_request(0, "true"), a_request(1, "true", "/opt/app/x")]
    found = [finding.message.split(":")[0] for finding in launcher.preflight(requests)]
    assert found == ["--entrypoint nosuch=...", "--map /nowhere=x", "--pass-env NOT_SET"]


@pytest.mark.parametrize(
    ("argv", "container", "what"),
    [
        (("echo", "a\0b"), {}, "argv[1]"),
        (("true",), {"workingDir": "x\0"}, "workingDir"),
        (("echo", "\ud800"), {}, "surrogates"),
    ],
)
def test_text_that_no_process_can_be_given_starts_nothing(
    tmp_path: Path, argv: tuple[str, ...], container: dict[str, str], what: str
) -> None:
    launcher = a_launcher(tmp_path)
    end = the_end(run_one(launcher, a_request(0, *argv, container=container)))
    assert (end.code, end.reason) == (None, "StartError")
    assert what in end.message
    assert the_end(run_one(launcher, a_request(0, "true"))).code == 0, "its folder is free again"
    launcher.close()


def test_the_guards_specification_takes_no_nul() -> None:
    def encoded(argv: list[str], env: dict[str, str], folder: str = "/") -> guard.Spec:
        return guard.Spec(guard.encode(argv, env, folder=folder, parent=1, deadline_s=0, grace_s=1).partition(b"\n")[2])

    spec = encoded(["a", "", "\udcff"], {"A": "b=c", "B": ""})
    assert (spec.argv, spec.env, spec.folder) == (["a", "", "\udcff"], {"A": "b=c", "B": ""}, "/")
    with pytest.raises(ValueError, match=r"argv\[1\] holds a NUL"):
        encoded(["a", "b\0c"], {})
    with pytest.raises(ValueError, match="the variable 'A' holds a NUL") as caught:
        encoded(["a"], {"A": "hunter\0"})
    assert "hunter" not in str(caught.value)
    with pytest.raises(ValueError, match="its working folder holds a NUL"):
        encoded(["a"], {}, "\0")


def test_a_job_that_substitution_broke_is_an_end_and_no_exception(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path)
    request = a_request(0, "true", container={"resources": {"limits": {"cpu": "many"}}})
    end = the_end(run_one(launcher, request))
    assert (end.code, end.reason) == (None, "StartError")
    assert len(launcher.preflight([request])) == 1
    launcher.close()


def test_a_folder_that_is_still_held_is_not_used(tmp_path: Path) -> None:
    launcher, other = a_launcher(tmp_path), a_launcher(tmp_path)
    launcher.start(a_request(0, "sleep", "600"))
    while not launcher.poll(1.0):
        pass
    end = the_end(run_one(other, a_request(0, "true")))
    assert (end.code, end.reason) == (None, "StartError")
    assert "still holds" in end.message
    launcher.close(0)
    other.close()


def test_a_trial_that_failed_just_before_its_stop_does_not_start_again(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path)
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 9"
    launcher.start(a_request(0, "sh", "-c", script, backoffLimit=5))
    started = launcher.poll(60.0)[-1]
    assert isinstance(started, Started)
    (tmp_path / "go").touch()
    # Its guard has gone, so all is said, and nobody has listened yet.
    assert until(lambda: "Z" in Path(f"/proc/{started.process['guard']}/stat").read_text().rpartition(")")[2][:3])
    launcher.stop(0, 5.0)
    end = launcher.poll(60.0)[-1]
    assert isinstance(end, Exited)
    assert end.code == 9
    launcher.close()


def test_a_trial_is_read_to_its_end_before_it_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both attempts write to one log."""
    monkeypatch.setattr("katuna.metrics.follow.READ_BYTES", 100)
    launcher, log = a_launcher(tmp_path), tmp_path / "t0" / "log"
    script = f"if [ -e {tmp_path}/again ]; then echo accuracy=0.2; exit; fi; touch {tmp_path}/again; yes accuracy=0.5 | head -n 2000; exit 200"
    sizes: list[int] = []

    def see(event: object) -> None:
        if isinstance(event, Reported):
            sizes.append(log.stat().st_size)

    events = run_one(launcher, a_request(0, "sh", "-c", script, backoffLimit=1), see)
    values = [report.value for event in events if isinstance(event, Reported) for report in event.reports]
    assert values == ["0.5"] * 2000 + ["0.2"]
    assert sizes[-2] == 2000 * len("accuracy=0.5\n"), "the second attempt had not begun"
    launcher.close()


def test_what_is_left_of_a_trial_that_has_ended_does_not_hold_up_its_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("katuna.metrics.follow.READ_BYTES", 100)
    launcher = a_launcher(tmp_path)
    value = "0." + "5" * 300
    launcher.start(a_request(0, "sh", "-c", f"yes accuracy={value} | head -n 20000"))
    events = list(launcher.poll(PATIENCE_S))
    started = events[-1]
    assert isinstance(started, Started)
    assert until(lambda: not Path(f"/proc/{started.process['pid']}").exists())
    for _ in range(20):
        events += launcher.poll(1.0)
    assert not any(isinstance(event, Exited) for event in events), "it is being read"
    launcher.stop(0, 3600.0)
    left = [event for _ in range(20) for event in launcher.poll(0.1)]
    assert isinstance(left[-1], Exited)
    values = [report.value for event in (*events, *left) if isinstance(event, Reported) for report in event.reports]
    assert len(values) < 1000
    assert set(values) == {value}, "half a line is none"
    launcher.close()


@pytest.mark.parametrize("made", ["mkfifo {}", "ln -s /dev/zero {}", "mkdir {}"])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_trial_may_make_of_its_log_what_it_likes(tmp_path: Path, made: str, retries: int) -> None:
    launcher, log = a_launcher(tmp_path), tmp_path / "t0" / "log"
    end = the_end(run_one(launcher, a_request(0, "sh", "-c", f"rm {log}; {made.format(log)}; exit 200", backoffLimit=retries)))
    assert (end.code, end.reason) == ((None, "StartError") if retries else (200, "Error"))
    assert ("it is no regular file" in end.message or "it is a link" in end.message) == bool(retries)
    launcher.close()
