"""Ranks as real processes: joining, agreeing, losing one another."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import ranks
from katuna.runtime.world import Place, World, built_for, device_for, joined, lost, place_in, why, world

RANK = Path(__file__).with_name("rank.py")
HERE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "23456"}
NONE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NONE:
        monkeypatch.delenv(name, raising=False)


def test_without_an_environment_a_process_is_alone() -> None:
    with world("cpu") as here:
        assert here == World(0, 0, 1, torch.device("cpu"), "")
        value = torch.ones(2)
        total = here.sum(value)
        total += 1
        assert value.tolist() == [1, 1]
        assert here.mean(value).tolist() == [1, 1]
        assert (here.agree(True), here.agree(False)) == (True, False)
        here.barrier()
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, Place()),
        (HERE, Place()),
        ({**HERE, "RANK": "0", "WORLD_SIZE": "1"}, Place()),
        ({**HERE, "RANK": "1", "WORLD_SIZE": "4"}, Place(1, 0, 4, ("127.0.0.1", 23456))),
        ({**HERE, "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Place(3, 1, 4, ("127.0.0.1", 23456))),
    ],
)
def test_the_environment_of_torchrun_and_of_pytorchjobs(environ: dict[str, str], place: Place) -> None:
    assert place_in(environ) == place


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RANK": "0"}, "WORLD_SIZE is not set"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2; it must be below WORLD_SIZE, which is 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT are not set; they say where rank 0 listens"),
        ({**HERE, "RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({**HERE, "RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "65536"}, "MASTER_PORT is 65536; it must be from 1 to 65535"),
        ({**HERE, "RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "0"}, "MASTER_PORT is 0; it must be from 1 to 65535"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        place_in(environ)


def test_a_gpu_that_is_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="error: --device cuda is not usable here; these are: cpu"), world("cuda"):
        pass
    assert device_for("auto", Place()) == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
@pytest.mark.parametrize("visible", ["0", "GPU-1b2c,GPU-3d4e", "MIG-5f6a"])
def test_a_gpu_that_was_given_and_cannot_be_used_is_never_trained_without(
    monkeypatch: pytest.MonkeyPatch, wanted: str, visible: str
) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(SystemExit) as ended:
        device_for(wanted, Place())
    assert str(ended.value) == (
        f"error: this process was given a GPU (CUDA_VISIBLE_DEVICES is {visible}) that PyTorch cannot use: The NVIDIA driver on "
        "your system is too old (found version 11040); mend that, or take --device cpu"
    )
    assert device_for("cpu", Place()) == torch.device("cpu")


@pytest.mark.parametrize("visible", ["", "-1", "none", "NoDevFiles"])
def test_a_process_that_was_given_no_gpu_trains_on_the_cpu(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_for("auto", Place()) == torch.device("cpu")


def test_a_job_that_asks_for_no_gpu_is_told_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("KATUNA_TRIAL_DIR", "/runs/digits")
    with pytest.raises(SystemExit, match=r"its job asks for none, .* write `resources: \{limits: \{nvidia.com/gpu: 1\}\}`"):
        device_for("cuda", Place())


def test_each_local_rank_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert device_for("auto", Place(3, 1, 4)) == torch.device("cuda:1")
    assert device_for("cuda", Place(3, 0, 4)) == torch.device("cuda:0")
    assert taken == [torch.device("cuda:1"), torch.device("cuda:0")]
    with pytest.raises(SystemExit, match="LOCAL_RANK is 2, but 2 CUDA devices are visible"):
        device_for("cuda", Place(2, 2, 4))


def test_two_processes_add_agree_and_stop_in_the_same_step() -> None:
    done = ranks.run([RANK, "collectives", "60"], 2)
    for rank, (code, out, err) in enumerate(done):
        own = [rank + 1.0, 10.0 * (rank + 1)]
        assert out.splitlines() == [
            f"{rank} 2 0 gloo {rank == 0}",
            f"[3.0, 30.0] [1.5, 15.0] {own}",
            "False True True",
            "6 SIGTERM",  # which rank 1 alone got in step 5
        ]
        assert (code, err) == (143, "")


@pytest.mark.parametrize("training", ["train", "train_sharded"])
def test_no_thread_of_gloos_outlives_the_block(training: str) -> None:
    """One that met the end of the interpreter aborted the process."""
    assert ranks.run([RANK, training, "60"], 2) == [(0, "\n", "")] * 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_ranks_that_shared_a_model_end_well() -> None:
    """Of 20 that FSDP2 had sharded a model for, up to 4 were aborted after their good end."""
    ends = [end for _ in range(50) for end in ranks.run([RANK, "train_sharded", "60"], 2)]
    assert ends == [(0, "\n", "")] * 100


def test_a_lost_peer_ends_the_process_with_one_line() -> None:
    with ExitStack() as stack:
        survivor, victim = ranks.start(stack, [RANK, "lose_a_peer", "60"], 2)
        assert ranks.ended(victim)[0] == -9
        code, out, err = ranks.ended(survivor, timeout=30)
    assert (code, out) == (1, "")
    assert err.startswith("error: rank 0 of 2 lost a peer: connection ")
    assert err.count("\n") == 1


def test_a_peer_that_hangs_ends_the_process_with_one_line() -> None:
    with ExitStack() as stack:
        waiting, _ = ranks.start(stack, [RANK, "hang", "60", "2"], 2)
        code, out, err = ranks.ended(waiting, timeout=50)
    assert (code, out) == (1, "")
    assert err == "error: rank 0 of 2 lost a peer: one did not answer for 2 s\n"


NCCL = "NCCL error in: NCCLUtils.cpp:94, {}, NCCL version 2.28.9\n{}\nLast error:\n{}"
DUPLICATE = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 3b000"


@pytest.mark.parametrize(
    ("error", "is_lost", "says"),
    [
        (torch.distributed.DistBackendError(NCCL.format("invalid usage", "ncclInvalidUsage: ...", DUPLICATE)), False, DUPLICATE),
        (
            torch.distributed.DistBackendError(NCCL.format("remote error", "ncclRemoteError: ...", "socket closed by 10.0.0.1")),
            True,
            "socket closed by 10.0.0.1",
        ),
        (RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [::1]:7"), True, "connection closed by peer"),
        (RuntimeError("The size of tensor a (3) must match; see /data/nccl-tests/x"), False, ""),
    ],
)
def test_a_peer_is_lost_only_when_it_was(error: RuntimeError, is_lost: bool, says: str) -> None:
    assert lost(error) == is_lost
    assert not says or why(error) == says


def test_two_processes_leave_an_evaluation_after_the_same_batch() -> None:
    done = ranks.run([RANK, "leave_an_evaluation", "60"], 2)
    assert done == [(143, "4 SIGTERM\n", "")] * 2


def test_a_peers_own_error_is_shown_where_it_happened() -> None:
    (first, second) = ranks.run([RANK, "fail", "60"], 2)
    assert second[0] == 1
    assert second[2].endswith("ValueError: of the trainer's own\n")
    assert first[0] == 1
    assert first[2].startswith("error: rank 0 of 2 lost a peer: ")
    assert first[2].count("\n") == 1


@pytest.mark.parametrize("way", ["fail_where_destroying_waits", "fail_where_the_end_waits"])
def test_a_rank_that_fails_leaves_without_waiting(way: str) -> None:
    """Who started the ranks ends the others when it hears of it."""
    with ExitStack() as stack:
        _, failing = ranks.start(stack, [RANK, way, "60"], 2)
        code, out, err = ranks.ended(failing, timeout=60)
    assert (code, out) == (1, "")
    assert err.count("ValueError: of the trainer's own\n") == 1
    assert way.endswith("end_waits") or err.endswith("ValueError: of the trainer's own\n")


def test_ranks_with_different_kinds_of_device_end_with_one_line() -> None:
    says = "error: the ranks have different kinds of device: ranks 0, 2 on cpu and rank 1 on cuda; ask for a GPU for each replica, .*\n"
    for code, out, err in ranks.run([RANK, "of_other_kinds", "60"], 3):
        assert (code, out) == (1, "")
        assert re.fullmatch(says, err), err


def test_a_rank_that_never_joins_ends_the_process_with_one_line() -> None:
    with ExitStack() as stack:
        (first,) = ranks.start(stack, [RANK, "collectives", "0.5"], 3, ranks=[0], PET_NPROC_PER_NODE="3")
        code, out, err = ranks.ended(first)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: ranks 1, 2 of 3 did not join within 0.5 s at 127.0.0.1:\d+; nprocPerNode is 3, which .*\n", err)


def test_all_who_joined_name_those_who_did_not(capfd: pytest.CaptureFixture[str]) -> None:
    at = ("127.0.0.1", int(ranks.free_port()))

    def join(rank: int, timeout_s: float) -> str:
        with pytest.raises(SystemExit) as ended:
            joined(Place(rank, 0, 4, at), at, timeout_s)
        return str(ended.value)

    with ThreadPoolExecutor(2) as pool:
        first, third = pool.submit(join, 0, 2), pool.submit(join, 2, 60)
        said = {first.result(), third.result().replace("within 60 s", "within 2 s")}
    assert said == {f"error: ranks 1, 3 of 4 did not join within 2 s at 127.0.0.1:{at[1]}"}
    assert capfd.readouterr().err == ""


def test_a_rank_0_that_never_joins_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    at = ("127.0.0.1", int(ranks.free_port()))
    with pytest.raises(SystemExit, match=r"^error: rank 1 of 2: rank 0 did not join within 0.3 s at 127.0.0.1:\d+$"):
        joined(Place(1, 0, 2, at), at, 0.3)
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        at = ("127.0.0.1", other.getsockname()[1])
        with pytest.raises(SystemExit, match="could not listen: address already in use"):
            joined(Place(0, 0, 2, at), at, 5)


def test_importing_the_runtime_loads_nothing_that_can_wait() -> None:
    names = ("arguments", "world", "parallel", "precision", "loader", "stop", "reporter")
    late = (
        "torch._dynamo",
        "torch.utils.tensorboard",
        "tensorboard",
        "torch.distributed.fsdp",
        "torch.profiler",
        "torchvision",
        "onnx",
    )
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        f"import {', '.join(f'katuna.runtime.{name}' for name in names)}\n"
        f"print([name for name in {late!r} if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ranks.environment())
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("capability", "built", "fits"),
    [
        ((8, 6), ["sm_75", "sm_80"], True),
        ((8, 0), ["sm_75", "sm_86"], False),
        ((3, 7), ["sm_75", "sm_80", "sm_90", "compute_90"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((12, 0), ["sm_100", "sm_120"], True),
        ((9, 0), ["sm_90a"], True),
        ((9, 0), ["gfx90a"], True),
        ((9, 0), [], True),
    ],
)
def test_which_gpus_a_pytorch_is_built_for(capability: tuple[int, int], built: list[str], fits: bool) -> None:
    assert built_for(capability, built) == fits


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_gpu_that_pytorch_was_not_built_for_is_one_line(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """torch warns in a page, and its first kernel raises "no kernel image is available"."""

    def capability(device: object) -> tuple[int, int]:
        warnings.warn("Found GPU0 Tesla K80 which is of cuda capability 3.7 ...", UserWarning, stacklevel=1)
        return 3, 7

    made_up = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_capability": capability,
        "get_device_name": lambda device: "Tesla K80",
        "get_arch_list": lambda: ["sm_75", "sm_90"],
        "set_device": lambda device: pytest.fail("it was begun with"),
    }
    for name, value in made_up.items():
        monkeypatch.setattr(torch.cuda, name, value)
    with pytest.raises(SystemExit) as refused:
        device_for(wanted, Place())
    assert refused.value.code == (
        "error: this PyTorch was not built for the GPU here, Tesla K80 of compute capability 3.7, but for sm_75, sm_90; "
        "install one that was, or take --device cpu"
    )
