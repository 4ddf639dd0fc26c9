"""Who can reach the processes of a run: which of their sockets listen where, while the ranks of real jobs are at work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from katuna.launch.guard import descendants
from katuna.launch.meeting import Meeting, Stores
from toy_jobs import pytorchjob

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

PATIENCE_S = 100.0
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
OPEN = "listens on all interfaces"

WAIT = """
import os, pathlib, time
open(os.path.join(os.environ["KATUNA_TRIAL_DIR"], "met-" + os.environ["RANK"]), "w").write(str(total))
while not os.path.exists(os.path.join(os.environ["KATUNA_TRIAL_DIR"], "go")):
    time.sleep(0.05)
"""
PLAIN = (
    """
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
value = torch.ones(1)
dist.all_reduce(value)
total = int(value)
"""
    + WAIT
)
WORLD = """
import torch
from katuna.runtime.world import world
with world("cpu") as here:
    total = int(here.sum(torch.ones(1)))
""" + "\n".join(f"    {line}" for line in WAIT.splitlines())


def job(*command: str, workers: int = 1, **changes: Any) -> dict[str, Any]:
    return pytorchjob("", workers=workers, container={"command": list(command)}, **changes)


def elastic() -> dict[str, Any]:
    policy = {"rdzvBackend": "c10d", "minReplicas": 2, "maxReplicas": 2, "nProcPerNode": 1}
    made = job("torchrun", "program.py", spec={"elasticPolicy": policy})
    replica = made["spec"]["pytorchReplicaSpecs"].pop("Master")
    made["spec"]["pytorchReplicaSpecs"]["Worker"] = {**replica, "replicas": 2, "restartPolicy": "OnFailure"}
    return made


def trainjob() -> dict[str, Any]:
    trainer = {"numNodes": 1, "numProcPerNode": 2, "image": "i", "command": ["torchrun", "program.py"]}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "toy"},
        "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": trainer},
    }


@contextmanager
def met(folder: Path, manifest: dict[str, Any], program: str, *options: str, ranks: int = 2) -> Iterator[subprocess.Popen[str]]:
    """A job whose ranks have met and wait; it is let go on then, and has to succeed."""
    (folder / "job.yaml").write_text(yaml.safe_dump(manifest))
    (folder / "program.py").write_text(program)
    environ = {**os.environ, "KATUNA_HOME": str(folder / "runs")}
    command = [sys.executable, "-m", "katuna", "train", "job.yaml", *options]
    with (
        (folder / "said").open("w") as said,
        subprocess.Popen(command, cwd=folder, env=environ, stdout=said, stderr=said, text=True) as katuna,
    ):
        try:
            await_files(katuna, folder, [f"runs/toy/met-{rank}" for rank in range(ranks)])
            yield katuna
            (folder / "runs/toy/go").touch()
            assert katuna.wait(PATIENCE_S) == 0, (folder / "said").read_text()
        finally:
            katuna.kill()


def await_files(katuna: subprocess.Popen[str], folder: Path, names: Sequence[str]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not all((folder / name).is_file() for name in names):
        assert time.monotonic() < give_up, (folder / "said").read_text()
        assert katuna.poll() is None, (folder / "said").read_text()
        time.sleep(0.05)


def listening(pid: int) -> set[str]:
    """The addresses, in the kernel's spelling, at which a process and those below it listen."""
    found = set()
    for each in (pid, *descendants(pid)):
        rows = [
            line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{each}/net/{name}").read_text().splitlines()[1:]
        ]
        listens = {f"socket:[{row[9]}]": row[1].partition(":")[0] for row in rows if row[3] == "0A"}
        for fd in Path(f"/proc/{each}/fd").iterdir():
            try:
                found.add(listens[str(fd.readlink())])
            except (KeyError, OSError):
                continue
    return found


def said(folder: Path) -> str:
    return (folder / "said").read_text()


def test_ranks_that_begin_again_meet_anew(tmp_path: Path) -> None:
    """All of a job together, at another port."""
    fall = """
import os, signal
mark = os.path.join(os.environ["KATUNA_TRIAL_DIR"], "fell-" + os.environ["RANK"])
if not os.path.exists(mark):
    open(mark, "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    manifest = job("python", "program.py", restart="ExitCode")
    with met(tmp_path, manifest, PLAIN.replace(WAIT, fall + WAIT), "--restarts", "as-operator") as katuna:
        assert listening(katuna.pid) <= LOOPBACK
    assert (tmp_path / "runs/toy/fell-0").exists()
    assert (tmp_path / "runs/toy/met-1").read_text() == "2"


def test_a_store_is_empty_after_a_rank_0_that_failed_and_closed_once_its_process_has_gone() -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    stores = Stores()
    meeting = Meeting(stores)

    def client() -> Any:
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(TCPStore, "127.0.0.1", meeting.port, None, False, timedelta(seconds=PATIENCE_S))
            while not made.done():
                meeting.look()
                time.sleep(0.01)
            return made.result()

    try:
        first = client()
        first.set("left", "behind")
        assert client().check(["left"])
        meeting.forget()
        give_up = time.monotonic() + PATIENCE_S
        while client().check(["left"]):
            assert time.monotonic() < give_up
        port = meeting.port
        stores.close()
        meeting.look()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    finally:
        meeting.close()
        stores.close()


def dry(folder: Path) -> str:
    """What is said of the same job where nothing runs."""
    command = [sys.executable, "-m", "katuna", "train", "job.yaml", "--dry-run"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("how", ["warm", "cold"])
@pytest.mark.parametrize("program", [PLAIN, WORLD], ids=["env", "world"])
def test_ranks_meet_on_the_loopback_address_alone(tmp_path: Path, program: str, how: str) -> None:
    options = ["--cold"] if how == "cold" else []
    with met(tmp_path, job("python", "program.py"), program, *options) as katuna:
        assert listening(katuna.pid) <= LOOPBACK
        assert listening(katuna.pid), "they do meet somewhere"
    assert f"({how}" in said(tmp_path)
    assert OPEN not in said(tmp_path) + dry(tmp_path)
    assert (tmp_path / "runs/toy/met-0").read_text() == "2"


@pytest.mark.parametrize(
    ("manifest", "ranks"),
    [
        (job("torchrun", "program.py", workers=0, spec={"nprocPerNode": "2"}), 2),
        (job("torchrun", "program.py"), 2),
        (trainjob(), 2),
    ],
    ids=["one-replica", "two-replicas", "trainjob"],
)
def test_so_does_torchrun_with_a_static_rendezvous(tmp_path: Path, manifest: dict[str, Any], ranks: int) -> None:
    with met(tmp_path, manifest, PLAIN, ranks=ranks) as katuna:
        assert listening(katuna.pid) <= LOOPBACK
    assert OPEN not in said(tmp_path)


@pytest.mark.parametrize(
    "manifest",
    [
        elastic(),
        job("torchrun", "--standalone", "program.py", workers=0, spec={"nprocPerNode": "2"}),
        job("python", "program.py", env={"TORCHELASTIC_USE_AGENT_STORE": "False"}),
    ],
    ids=["elastic", "standalone", "as-asked"],
)
def test_where_torch_listens_itself_the_run_says_so(tmp_path: Path, manifest: dict[str, Any]) -> None:
    with met(tmp_path, manifest, PLAIN) as katuna:
        assert not listening(katuna.pid) <= LOOPBACK, "torch has a way by now: take it"
    assert said(tmp_path).count(OPEN) == 1
    assert said(tmp_path).count(OPEN) == dry(tmp_path).count(OPEN)


@pytest.mark.parametrize("options", [[], ["--cold"], ["--in-place"]], ids=["warm", "cold", "in-place"])
@pytest.mark.parametrize("manifest", [elastic(), job("python", "program.py")], ids=["elastic", "plain"])
def test_a_private_network_has_lo_alone(tmp_path: Path, manifest: dict[str, Any], options: list[str]) -> None:
    with met(tmp_path, manifest, PLAIN, "--private-network", *options) as katuna:
        mine = Path("/proc/self/net/dev").read_text()
        others = [each for each in descendants(katuna.pid) if in_the_trial(each)]
        networks = {Path(f"/proc/{each}/ns/net").readlink() for each in others}
        assert len(networks) == 1
        assert networks != {Path("/proc/self/ns/net").readlink()}
        assert interfaces(Path(f"/proc/{others[0]}/net/dev").read_text()) == ["lo"] != interfaces(mine)
    assert OPEN not in said(tmp_path)


def in_the_trial(pid: int) -> bool:
    return b"program.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


def interfaces(text: str) -> list[str]:
    return [line.partition(":")[0].strip() for line in text.splitlines()[2:]]


NO_NAMESPACES = [sys.executable, str(Path(__file__).parents[1] / "isolation/no_mounts.py")]
AS_NOBODY = [sys.executable, str(Path(__file__).parents[1] / "isolation/as_nobody.py")]
PROBE = "from katuna.launch.network import refusal; print(refusal())"


@pytest.mark.parametrize("before", [[], AS_NOBODY], ids=["as-we-are", "as-nobody"])
def test_an_ordinary_user_has_private_networks_too(before: list[str]) -> None:
    if before and os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    done = subprocess.run([*before, sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("verb", ["train", "train --dry-run"])
def test_where_namespaces_are_refused_so_is_a_private_network(tmp_path: Path, verb: str) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job("python", "-c", "pass")))
    command = [*NO_NAMESPACES, sys.executable, "-m", "katuna", *verb.split(), "job.yaml", "--private-network"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("--private-network: this machine refuses it (a network namespace: Operation not permitted)") == 1
    assert not (tmp_path / "runs").exists()
