"""What makes a server of warm starts say that it may not be forked. A made-up torch stands in for one with a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="warm starts are Linux's")

PROGRAM = """
import os, signal, sys, threading, time, types
from katuna.launch.warm import server

class Number:
    def __init__(self, value): self.value = value
    def __add__(self, more): return Number(self.value + more)
    def sum(self): return self
    def item(self): return 2 * self.value

def fail(*_):
    raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

def crash(*_):
    os.kill(os.getpid(), signal.SIGSEGV)

def hang(*_):
    time.sleep(60)

def torch(ones, available=True, cuda="13.0"):
    there = types.SimpleNamespace(is_available=lambda: available)
    return types.SimpleNamespace(version=types.SimpleNamespace(cuda=cuda, hip=None), cuda=there, ones=ones)

right = lambda *_, device: Number(1)
wrong = lambda *_, device: Number(7)
exists = os.path.exists
os.path.exists = lambda path: DEVICE if path == "/dev/nvidiactl" else exists(path)
server.CUDA_CHECK_S = 1
sys.modules["torch"] = torch(TORCH)
if THREAD:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print(server.unfit(["torch", "polars"]))
"""
BROKEN = "CUDA does not work here after a fork"


@pytest.mark.parametrize(
    ("torch", "device", "says"),
    [
        ("right", True, ""),
        ("wrong", True, BROKEN),
        ("lambda *_, device: fail()", True, BROKEN),
        ("lambda *_, device: crash()", True, BROKEN),
        ("lambda *_, device: hang()", True, BROKEN),
        ("wrong, available=False", True, ""),
        ("wrong, cuda=None", True, ""),
        ("wrong", False, ""),
    ],
    ids=["works", "miscounts", "raises", "crashes", "hangs", "driver without a GPU", "torch for CPUs", "no driver"],
)
def test_a_gpu_that_does_not_work_after_a_fork_is_found_in_a_fork(torch: str, device: bool, says: str) -> None:
    assert answer(torch, device=device) == says


def test_an_import_that_starts_a_thread_is_found() -> None:
    assert answer("right", device=False, thread=True) == "importing torch, polars starts a thread"


def answer(torch: str, *, device: bool, thread: bool = False) -> str:
    program = PROGRAM.replace("TORCH", torch).replace("DEVICE", str(device)).replace("THREAD", str(thread))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
