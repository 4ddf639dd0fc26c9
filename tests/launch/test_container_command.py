from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from launch_jobs import a_job

from katuna.errors import InputRefused
from katuna.launch.command import command, inherited, option_problems, problems
from katuna.launch.local_options import LocalOptions
from katuna.launch.process import Command
from katuna.manifest.build import job_from_manifest
from katuna.manifest.own_paths import map_paths

BIN = Path(sys.executable).parent
ENVIRON = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/me",
    "LC_ALL": "C.UTF-8",
    "SECRET": "s3cret",
    "WANDB_MODE": "offline",
    "RANK": "7",
    "MASTER_ADDR": "10.0.0.1",
    "PET_NNODES": "9",
    "CUDA_VISIBLE_DEVICES": "3",
    "PYTHONPATH": "/elsewhere",
}


def built(
    *argv: str,
    options: LocalOptions | None = None,
    args: list[str] | None = None,
    environ: dict[str, str] | None = None,
    **container: Any,
) -> Command:
    manifest = a_job(*argv, container={**({"args": args} if args else {}), **container})
    if not argv:
        del manifest["spec"]["template"]["spec"]["containers"][0]["command"]
    job = job_from_manifest(manifest, "main", trial="t")
    return command(
        job,
        job.replicas[0],
        options or LocalOptions(),
        environ or ENVIRON,
        port=1234,
        defaults={"OMP_NUM_THREADS": "2"},
        extra={"KATUNA": "1"},
    )


def complaints(given: Command, **container: Any) -> list[tuple[str, str]]:
    job = job_from_manifest(a_job(*given.argv[:1], container=container), "main", trial="t")
    return list(problems(job.replicas[0], given))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/opt/app", "/here"),
        ("/opt/app/x.py", "/here/x.py"),
        ("--data=/opt/app/x", "--data=/here/x"),
        ("PYTHONPATH:/opt/app:/opt/app/lib", "PYTHONPATH:/here:/here/lib"),
        ("cd /opt/app && python '/opt/app/a b.py'", "cd /here && python '/here/a b.py'"),
        ("/opt/application", "/opt/application"),
        ("/opt/app-2/x", "/opt/app-2/x"),
        ("/opt/app.py", "/opt/app.py"),
        ("/data/opt/app", "/data/opt/app"),
        ("s3://bucket/opt/app", "s3://bucket/opt/app"),
        ("../opt/app", "../opt/app"),
        ("/opt/app/data/x", "/elsewhere/x"),
        ("/optXapp", "/optXapp"),
    ],
)
def test_maps_whole_path_components(text: str, expected: str) -> None:
    assert map_paths(text, {"/opt/app": "/here", "/opt/app/data": "/elsewhere"}) == expected


def test_what_was_mapped_is_not_mapped_again() -> None:
    assert map_paths("/a/x /b/x", {"/a": "/b", "/b": "/c"}) == "/b/x /c/x"


def test_maps_argv_working_dir_and_env(tmp_path: Path) -> None:
    options = LocalOptions(maps=(("/opt/app/", "trainers"),), cwd=str(tmp_path))
    env = [{"name": "DATA", "value": "/opt/app/data"}]
    given = built("python", "/opt/app/train.py", options=options, workingDir="/opt/app", env=env)
    assert given.argv == (sys.executable, f"{tmp_path}/trainers/train.py")
    assert given.folder == tmp_path / "trainers"
    assert given.env["DATA"] == f"{tmp_path}/trainers/data"


@pytest.mark.parametrize("program", ["python", "python3", "python3.9", "/no/such/bin/python", "/no/such/bin/python3.12"])
def test_python_is_this_interpreter(program: str) -> None:
    assert built(program, "train.py").argv == (sys.executable, "train.py")


@pytest.mark.parametrize("program", ["python2", "pythonw", "ipython", "./venv/bin/python", "/bin/sh", "torchrun"])
def test_other_programs_are_themselves(program: str) -> None:
    assert built(program, "train.py").argv[0] == program


def test_an_interpreter_that_exists_at_its_path_is_used(tmp_path: Path) -> None:
    own = tmp_path / "python3"
    own.touch()
    assert built(str(own), "train.py").argv[0] == str(own)


def test_an_image_may_have_an_interpreter_of_its_own(tmp_path: Path) -> None:
    own = tmp_path / "python3"
    own.touch()
    options = LocalOptions(pythons={"example/image": "env/bin/python"}, cwd=str(tmp_path))
    for program in ("python", str(own)):
        given = built(program, "train.py", options=options)
        assert given.argv[0] == f"{tmp_path}/env/bin/python"
        assert given.env["PATH"].startswith(f"{tmp_path}/env/bin:")
    assert built("python", options=options, image="other").argv[0] == sys.executable


def test_an_interpreter_may_be_a_name_in_path(tmp_path: Path) -> None:
    own = tmp_path / "bin" / "python3.99"
    own.parent.mkdir()
    own.touch(mode=0o755)
    options = LocalOptions(pythons={"example/image": "python3.99"}, cwd=str(tmp_path))
    environ = {**ENVIRON, "PATH": f"/usr/bin:{own.parent}"}
    given = built("python", "train.py", options=options, environ=environ)
    assert given.argv[0] == str(own)
    assert given.env["PATH"] == f"{own.parent}:/usr/bin:{own.parent}"
    missing = built("python", "train.py", options=options)
    assert missing.argv[0] == "python3.99"
    assert missing.env["PATH"] == ENVIRON["PATH"]


def test_an_entrypoint_stands_for_the_images(tmp_path: Path) -> None:
    options = LocalOptions(
        entrypoints={"example/image": ("python", "/app/train.py")}, maps=(("/app", "here"),), cwd=str(tmp_path)
    )
    assert built(options=options, args=["--lr=0.1"]).argv == (sys.executable, f"{tmp_path}/here/train.py", "--lr=0.1")
    assert built("sh", "-c", "true", options=options).argv == ("sh", "-c", "true")


def test_a_container_without_a_command_is_refused_with_the_way_out() -> None:
    given = built(args=["--lr=0.1"])
    assert given.argv == ()
    ((message, hint),) = complaints(given)
    assert "container 'main' has no command" in message
    assert "'example/image'" in message
    assert hint.startswith("--entrypoint example/image=")


def test_references_expand_in_argv_with_the_unmapped_value(tmp_path: Path) -> None:
    env = [{"name": "WHERE", "value": "/opt/app"}]
    options = LocalOptions(maps=(("/opt/app", str(tmp_path)),))
    assert built("sh", options=options, args=["$(WHERE)/x"], env=env).argv == ("sh", f"{tmp_path}/x")


# Environment


def test_only_a_short_list_is_inherited() -> None:
    given = built("true")
    assert given.env == {
        "HOME": "/home/me",
        "LC_ALL": "C.UTF-8",
        "KATIB_TRIAL_NAME": "t",
        "KATUNA": "1",
        "OMP_NUM_THREADS": "2",
        "PATH": f"{BIN}:/usr/bin:/bin",
    }


def test_what_is_passed_comes_along_unless_the_job_sets_it() -> None:
    options = LocalOptions(pass_env=("WANDB_MODE", "NOT_SET"))
    assert built("true", options=options).env["WANDB_MODE"] == "offline"
    assert "NOT_SET" not in built("true", options=options).env
    given = built("true", options=options, env=[{"name": "WANDB_MODE", "value": "online"}])
    assert given.env["WANDB_MODE"] == "online"


def test_what_is_passed_goes_over_the_defaults_and_under_the_jobs_own() -> None:
    options = LocalOptions(pass_env=("OMP_NUM_THREADS", "KATUNA"))
    environ = {**ENVIRON, "OMP_NUM_THREADS": "5", "KATUNA": "0"}
    given = built("true", options=options, environ=environ)
    assert (given.env["OMP_NUM_THREADS"], given.env["KATUNA"]) == ("5", "1")
    given = built("true", options=options, environ=environ, env=[{"name": "OMP_NUM_THREADS", "value": "8"}])
    assert given.env["OMP_NUM_THREADS"] == "8"


def test_the_jobs_own_variables_go_over_the_defaults_and_under_the_launchers() -> None:
    given = built("true", env=[{"name": "OMP_NUM_THREADS", "value": "8"}, {"name": "KATUNA", "value": "0"}])
    assert (given.env["OMP_NUM_THREADS"], given.env["KATUNA"]) == ("8", "1")


def test_a_path_of_the_job_goes_behind_the_interpreters() -> None:
    assert built("true", env=[{"name": "PATH", "value": "/opt/conda/bin"}]).env["PATH"] == f"{BIN}:/opt/conda/bin"
    options = LocalOptions(maps=(("/opt/conda", "/here"),))
    given = built("true", options=options, env=[{"name": "PATH", "value": "/opt/conda/bin:/bin"}])
    assert given.env["PATH"] == f"{BIN}:/here/bin:/bin"


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "PET_NNODES", "TORCHELASTIC_RUN_ID"])
def test_replica_variables_cannot_be_passed(name: str) -> None:
    with pytest.raises(InputRefused, match=f"--pass-env {name}"):
        LocalOptions(pass_env=(name,))


@pytest.mark.parametrize("source", ["opt/app", "/", "", "//"])
def test_only_absolute_paths_are_mapped(source: str) -> None:
    with pytest.raises(InputRefused, match="--map"):
        LocalOptions(maps=((source, "x"),))


def test_options_survive_the_journal() -> None:
    options = LocalOptions((("/a", "b"),), {"i": ("python", "x y")}, {"i": "/p"}, ("A",), "cpu", "/w")
    again = LocalOptions.from_json(json.loads(json.dumps(options.as_json())))
    assert again == options
    assert dataclasses.fields(options) and len(options.as_json()) == len(dataclasses.fields(options))  # noqa: PT018


def test_a_device_is_one_of_three() -> None:
    with pytest.raises(InputRefused, match="--device tpu"):
        LocalOptions(device="tpu")  # type: ignore[arg-type]


def test_inherited_is_what_it_says() -> None:
    assert set(inherited(ENVIRON)) == {"HOME", "LC_ALL"}


# Before anything runs


def mistakes(options: LocalOptions, **container: Any) -> list[tuple[str, str]]:
    """What is wrong with the options for two trials, the second of another image."""
    jobs = [
        job_from_manifest(a_job("python", "/opt/app/train.py", container={"image": image, **container}), "main", trial="t")
        for image in ("example/image", "example/other")
    ]
    return list(option_problems(options, jobs, ENVIRON))


@pytest.mark.parametrize("flag", ["entrypoint", "python"])
def test_an_image_that_is_not_the_jobs_is_named(flag: str) -> None:
    def given(image: str) -> LocalOptions:
        return LocalOptions(pythons={image: sys.executable}) if flag == "python" else LocalOptions(entrypoints={image: ("a",)})

    assert mistakes(given("example/image")) == mistakes(given("example/other")) == []
    ((message, hint),) = mistakes(given("exmple/image"))
    assert f"--{flag} exmple/image=" in message
    assert "example/image, example/other" in message
    assert hint == "did you mean example/image?"
    assert mistakes(given("nosuch"))[0][1] == ""


@pytest.mark.parametrize("python", ["python3.99", "/no/such/python", "bin/python", "/etc/passwd"])
def test_an_interpreter_that_is_not_there_is_named(python: str) -> None:
    ((message, _),) = mistakes(LocalOptions(pythons={"example/image": python}))
    assert f"--python example/image={python}: there is no such program here" in message


@pytest.mark.parametrize("source", ["/opt/app", "/opt/app/", "/opt", "/data", "/work", "/entry"])
def test_a_mapped_path_of_the_job_is_used(source: str) -> None:
    options = LocalOptions(maps=((source, "here"),), entrypoints={"example/image": ("/entry/run",)})
    env = [{"name": "ROOT", "value": "/data"}, {"name": "DATA", "value": "--x=$(ROOT)/x"}]
    command = [] if source == "/entry" else ["python", "/opt/app/train.py"]
    assert mistakes(options, env=env, workingDir="/work", command=command) == []


@pytest.mark.parametrize("source", ["/nowhere", "/opt/ap", "/app", "/entry"])
def test_a_mapped_path_that_occurs_nowhere_is_named(source: str) -> None:
    ((message, hint),) = mistakes(LocalOptions(maps=((source, "here"),), entrypoints={"example/image": ("/entry/run",)}))
    assert f"--map {source}=here: {source} occurs nowhere" in message
    assert hint


def test_a_variable_that_is_passed_and_not_set_is_named() -> None:
    ((message, hint),) = mistakes(LocalOptions(pass_env=("SECRET", "NOT_SET")))
    assert message == "--pass-env NOT_SET: it is not set in this shell"
    assert hint == "export it or leave the option out"


def test_a_secret_that_is_passed_and_not_set_is_named() -> None:
    env = [{"name": name, "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}} for name in ("SECRET", "TOKEN")]
    ((message, hint),) = mistakes(LocalOptions(pass_env=("SECRET", "TOKEN")), env=env)
    assert message.startswith("--pass-env TOKEN: it is not set in this shell, and the job takes its value from it")
    assert hint == "export it"


def test_a_command_that_is_not_there_is_named() -> None:
    ((message, hint),) = complaints(built("no-such-command"))
    assert "container 'main': command 'no-such-command' is not found here" in message
    assert hint


def test_an_interpreter_of_the_options_that_is_not_there_is_their_mistake() -> None:
    options = LocalOptions(pythons={"example/image": "/no/such/python"})
    ((message, hint),) = complaints(built("python", "train.py", options=options), command=["python", "train.py"])
    assert "'/no/such/python'" in message
    assert "--python" in hint


def test_a_missing_path_of_the_image_suggests_a_map() -> None:
    ((message, hint),) = complaints(built("/opt/app/run.sh"))
    assert "'/opt/app/run.sh'" in message
    assert "--map /opt/app=" in hint


def test_a_missing_working_folder_is_named() -> None:
    ((message, hint),) = complaints(built("true", workingDir="/opt/app"), workingDir="/opt/app")
    assert "workingDir '/opt/app'" in message
    assert "--map /opt/app=" in hint


@pytest.mark.parametrize(
    ("argv", "missing"),
    [
        (["/opt/app/train.py"], "/opt/app/train.py"),
        (["-u", "-W", "ignore", "-X", "utf8", "-Wd", "train.py", "--x"], "train.py"),
        (["-m", "train"], ""),
        (["-c", "pass"], ""),
        (["-um", "train"], ""),
        (["-"], ""),
        ([], ""),
        (["-V"], ""),
    ],
)
def test_a_script_that_is_not_there_is_named(argv: list[str], missing: str) -> None:
    found = complaints(built("python", *argv))
    assert [repr(missing) in message for message, _ in found] == ([True] if missing else [])


def test_a_script_in_the_working_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    assert complaints(built("python", "train.py", workingDir=str(tmp_path))) == []
    program = tmp_path / "run.sh"
    program.touch()
    assert len(complaints(built("./run.sh", workingDir=str(tmp_path)))) == 1
    program.chmod(0o755)
    if os.access(program, os.X_OK):
        assert complaints(built("./run.sh", workingDir=str(tmp_path))) == []


def test_messages_say_the_command_as_it_may_be_shown(tmp_path: Path) -> None:
    """Word for word: which word is the script is seen in the one that runs."""
    job = job_from_manifest(a_job("python"), "main", trial="t")
    given = Command((sys.executable, "-u", "/real/x.py"), {"PATH": "/bin"}, tmp_path)
    told = Command(("python", "-u", "(secret)"), {}, tmp_path)
    ((message, _),) = problems(job.replicas[0], given, told)
    assert message == "container 'main': script '(secret)' does not exist here"
    assert list(problems(job.replicas[0], given, told, lambda path, _: ("", "") if path == "/real/x.py" else None)) == []
    ((message, hint),) = problems(
        job.replicas[0], given, told, lambda path, _: ("is not made", "why") if path == "/real/x.py" else None
    )
    assert (message, hint) == ("container 'main': script '(secret)' is not made", "why")
