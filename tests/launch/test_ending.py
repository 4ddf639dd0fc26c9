"""A program that does not get its port is told whose ports these are, and what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_jobs import a_launcher, a_request, run_one, the_end

from katuna.search.trials import Exited
from searches import katuna
from toy_jobs import write_job

BINDS = "import socket, sys; taken = socket.socket(); taken.bind(('127.0.0.1', int(sys.argv[1])))"
ADVICE = (
    "trials and other programs on one machine share its ports, and on a cluster each pod has its own; let the trainer take port 0"
)


@pytest.fixture
def port() -> Iterator[str]:
    """A port that somebody has."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield str(holder.getsockname()[1])


def end_of(folder: Path, *argv: str, **more: object) -> Exited:
    launcher = a_launcher(folder)
    try:
        return the_end(run_one(launcher, a_request(0, *argv, **more)))
    finally:
        launcher.close()


def test_a_port_that_is_taken_is_explained(tmp_path: Path, port: str) -> None:
    end = end_of(tmp_path, "python", "-c", BINDS, port)
    assert end.code == 1
    assert f"code 1; it asked for a port that is in use: {ADVICE}" in end.message
    assert "parallelTrialCount: 1, resume --parallel 1" in end.message
    assert end.message.endswith("Address already in use")


def test_it_may_have_been_said_long_before_the_end(tmp_path: Path, port: str) -> None:
    end = end_of(tmp_path, "sh", "-c", f'python -c "$0" {port}; seq 9000; echo the end; exit 3', BINDS)
    assert ADVICE in end.message
    assert end.message.endswith("; its log ends: 9000 | the end")


@pytest.mark.parametrize("said", ["bind: Address Already In Use", "Error: listen EADDRINUSE: :::80", "failed (errno: 98 - ...)"])
def test_the_words_of_other_programs(tmp_path: Path, said: str) -> None:
    assert ADVICE in end_of(tmp_path, "sh", "-c", f"echo '{said}'; exit 1").message


@pytest.mark.parametrize("script", ["echo EADDRINUSE", "echo errno 980, step=98; exit 1"])
def test_nothing_is_said_of_a_success_nor_of_other_ends(tmp_path: Path, script: str) -> None:
    assert ADVICE not in end_of(tmp_path, "sh", "-c", script).message


def test_an_earlier_attempt_is_not_meant(tmp_path: Path) -> None:
    script = f"if [ -e {tmp_path}/again ]; then echo no; exit 3; fi; touch {tmp_path}/again; echo EADDRINUSE; exit 200"
    end = end_of(tmp_path, "sh", "-c", script, backoffLimit=1)
    assert (end.code, end.message) == (3, "it exited with code 3; its log ends: no")


def test_a_training_is_told_too(tmp_path: Path, port: str) -> None:
    write_job(tmp_path, BINDS, port)
    done = katuna("train", "job.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert f"it asked for a port that is in use: {ADVICE}" in done.stdout
