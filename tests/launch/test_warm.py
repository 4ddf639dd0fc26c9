"""A trial that is forked is what it would have been with an interpreter of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from starts import Bench, is_warm

from katuna.launch.process import ColdStarter
from katuna.launch.warm.starter import WarmStarter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="warm starts are for Linux")


@pytest.fixture(scope="module")
def torch_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    starter = WarmStarter()
    bench = Bench(starter, tmp_path_factory.mktemp("torch"))
    libraries = "pandas, pyarrow, safetensors.torch, scipy.stats, sklearn.ensemble, torch, torchvision, torch.utils.tensorboard"
    trial = bench.run("python", bench.script(f"import {libraries}\nprint(torch.cuda.is_initialized())", "all.py"))
    assert is_warm(trial), "importing all of these starts no thread: otherwise the server would not be fit"
    assert trial.text == "False\n"
    yield bench
    starter.close()


# The same program

MIRROR = """
import ctypes, json, os, signal, sys, threading
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
streams = {}
for name in ("stdin", "stdout", "stderr"):
    stream = getattr(sys, name)
    streams[name] = [stream.name, stream.mode, stream.encoding, stream.errors, stream.line_buffering, stream.write_through,
                     type(stream.buffer).__name__, stream is getattr(sys, "__%s__" % name), stream.newlines, stream.fileno()]
seen = {
    "name": __name__, "file": globals().get("__file__"), "package": __package__, "spec": bool(__spec__), "doc": __doc__,
    "globals": sorted(globals()), "main": sys.modules["__main__"].__dict__ is globals(),
    "argv": sys.argv, "orig_argv": sys.orig_argv[1:], "path": sys.path, "executable": sys.executable, "prefix": sys.prefix,
    "flags": [flag for flag in dir(sys.flags) if flag[0] != "_" and flag not in ("unbuffered", "count", "index")
              and getattr(sys.flags, flag)],
    "environ": {k: v for k, v in os.environ.items() if k != "KATUNA_TRIAL_TOKEN"},
    "c": [os.fsdecode(getenv(k) or b"") for k in (b"MINE", b"OPENBLAS_NUM_THREADS", b"HOME")],
    "cwd": os.getcwd(), "leads": os.getsid(0) == os.getpid() == os.getpgid(0), "files": sorted(os.listdir("/proc/self/fd"))[:3],
    "links": [os.readlink("/proc/self/fd/%d" % fd) for fd in range(3)], "more": len(os.listdir("/proc/self/fd")),
    "stdin": sys.stdin.read(), "streams": streams, "umask": os.umask(0o22),
    "signals": {str(n): str(signal.getsignal(n)).partition(" at ")[0] for n in signal.valid_signals()},
    "masks": [line for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn", "SigCgt"))],
    "threads": [thread.name for thread in threading.enumerate()], "tasks": len(os.listdir("/proc/self/task")),
    "depth": sys.getrecursionlimit(), "bytecode": sys.dont_write_bytecode,
}
print(json.dumps(seen))
"""

CALLS: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "script": (("python", "sub/mirror.py", "a", "--b=c d", "ñ"), {"env": {"MINE": "1=2"}}),
    "absolute": (("python", "{folder}/sub/../sub/mirror.py"), {}),
    "dotted": (("python3", "./mirror.py", "-m", "x"), {"cwd": "sub"}),
    "linked": (("python", "link.py"), {}),
    "unbuffered": ((sys.executable, "-u", "sub/mirror.py"), {}),
    "unbuffered by the environment": (("python", "sub/mirror.py"), {"env": {"PYTHONUNBUFFERED": "1"}}),
    "import path": (("python", "sub/mirror.py"), {"env": {"PYTHONPATH": "{folder}/other:nearby::{folder}/other"}}),
    "module": (("python", "-m", "sub.mirror", "a"), {}),
    "package": (("python", "-u", "-m", "package", "-u"), {"env": {"PYTHONPATH": "nearby"}}),
    "threads": (("python", "sub/mirror.py"), {"env": {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}}),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_program_sees_what_it_would_in_an_interpreter_of_its_own(both: tuple[Bench, Bench], tmp_path: Path, call: str) -> None:
    both[0].script(MIRROR, "sub/mirror.py")
    both[0].script(MIRROR, "nearby/package/__main__.py")
    (tmp_path / "link.py").symlink_to("sub/mirror.py")
    argv, options = CALLS[call]
    argv = tuple(word.replace("{folder}", str(tmp_path)) for word in argv)
    env = {name: value.replace("{folder}", str(tmp_path)) for name, value in options.get("env", {}).items()}
    cold, warm_one = (bench.run(*argv, **{**options, "env": env}) for bench in both)
    assert is_warm(warm_one), warm_one.process.how
    seen, expected = (json.loads(trial.text.replace(str(trial.folder), "")) for trial in (warm_one, cold))
    # `files` were counted while one was open; what else differs would be a mistake.
    assert seen == expected


ENDS = {
    "returns": "print('x')",
    "exit code": "import sys; print('x'); sys.exit(7)",
    "exit code beyond a byte": "import sys; sys.exit(-1)",
    "exit code beyond an int": "import sys; sys.exit(2**40 + 3)",
    "exit code beyond a long": "import sys; sys.exit(2**70)",
    "exit message that cannot be told": "class E:\n    def __str__(self): raise ValueError\nraise SystemExit(E())",
    "exit message": "import sys; sys.exit('stopped: ñ')",
    "exit true": "raise SystemExit(True)",
    "exception": "def f():\n    raise ValueError('no')\ntry:\n    f()\nexcept ValueError as error:\n    raise KeyError(1) from error",
    "syntax error": "print('x')\nif:\n",
    "own excepthook": "import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n1 / 0",
    "interrupted": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass",
    "terminated": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nwhile True: pass",
    "caught": "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(9)",
    "os._exit": "import os\nprint('lost')\nos._exit(5)",
    "segmentation fault": "import ctypes\nctypes.string_at(0)",
    "abort": "import os\nos.abort()",
    "exit handlers": "import atexit, sys\natexit.register(print, 'one')\natexit.register(print, 'two')\nprint('x')\nsys.exit(3)",
    "the last exception": "import atexit, sys\natexit.register(lambda: print(sys.last_type, sys.last_value, bool(sys.last_traceback)))\n1 / 0",
    "the main thread": "import os, threading\nprint(threading.main_thread().native_id == os.getpid())",
    "ended by a thread": "import os, threading, time\nprint('x')\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), os._exit(3))).start()",
    "ended by an exit handler": "import atexit, os\natexit.register(lambda: os._exit(3))\nprint('x')",
    "a failing exit handler": "import atexit\natexit.register(lambda: print('after'))\nprint('x')",
    "threads": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\nprint('main')",
    "a daemon": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\nprint('main')",
    "an executor": "from concurrent.futures import ThreadPoolExecutor\n"
    "ThreadPoolExecutor().submit(lambda: print('job'))\nprint('main')",
    "open file": "f = open('left-open', 'w')\nf.write('kept')\nprint('x')",
    "finalizer": "import os\nclass C:\n    def __del__(self): print('gone', os.path.sep)\nc = C()\nd = C(); d.me = d",
    "finalizer elsewhere": "import elsewhere\nprint('x')",
    "full disk": "import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nprint('x')",
    "no output": "import sys\nsys.stdout.close()",
    "forked": "import os\nif os.fork() == 0:\n    raise SystemExit(4)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))",
    "processes": "import multiprocessing as m, os\ndef job(): print('job', os.getcwd() == HERE)\nHERE = os.getcwd()\n"
    "if __name__ == '__main__':\n    for way in ('fork', 'spawn'):\n        p = m.get_context(way).Process(target=job); p.start(); p.join()\n"
    "    m.Process(target=job).start()",
    "warning": "import warnings\nwarnings.warn('careful')",
    "logging": "import logging\nlogging.warning('w')\nlogging.getLogger('x').error('e')",
    "missing import": "import no_such_module",
    "replaced": "import os, sys\nprint('x', flush=True)\nos.execv('/bin/sh', ['sh', '-c', 'echo $MINE; exit 6'])",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_program_ends_as_with_an_interpreter_of_its_own(both: tuple[Bench, Bench], end: str) -> None:
    name = both[0].script(ENDS[end])
    both[0].script(
        "class C:\n    def __del__(self): print('gone')\nc = C()\nf = open('left-open', 'w')\nf.write('x')", "elsewhere.py"
    )
    results = []
    for bench in both:
        trial = bench.run("python", name, env={"MINE": "mine"})
        left = bench.folder / "left-open"
        results.append(
            (trial.end, trial.said["exited"]["left"], sorted(trial.text.splitlines()), left.exists() and left.read_text())
        )
        left.unlink(missing_ok=True)
    assert is_warm(trial), trial.process.how
    assert results[1] == results[0]


def test_output_comes_before_the_failure_that_it_led_to(both: tuple[Bench, Bench]) -> None:
    name = both[0].script("print('x')\n1 / 0")
    cold, warm_one = (bench.run("python", name).text for bench in both)
    assert warm_one == cold
    assert cold.startswith("x\nTraceback")


def test_a_modules_failure_is_told_as_ever(both: tuple[Bench, Bench]) -> None:
    both[0].script("1 / 0", "pack/run.py")
    for module in ("pack.run", "pack.run.deeper"):
        cold, warm_one = (bench.run("python", "-m", module) for bench in both)
        assert (warm_one.end, warm_one.text) == (cold.end, cold.text)
    assert warm_one.process.how["why"] == "pack.run.deeper is not found as a Python file"


def test_random_numbers_are_each_trials_own(torch_bench: Bench) -> None:
    name = torch_bench.script(
        "import os, random, secrets, tempfile, numpy, torch, multiprocessing as m\n"
        "print(random.random(), torch.initial_seed(), torch.rand(()).item(), numpy.random.rand(), numpy.random.default_rng().random(), secrets.token_hex(), "
        "next(tempfile._get_candidate_names()), m.current_process().authkey.hex(), tempfile.gettempdir())"
    )
    where = str(torch_bench.folder)
    trials = [torch_bench.run("python", name, env={"TMPDIR": where} if at else {}) for at in (0, 1)]
    assert all(map(is_warm, trials))
    lines = [trial.text.split() for trial in trials]
    assert all(one != other for one, other in zip(*lines, strict=True)), lines
    assert lines[1][-1] == where


# PyTorch, in one server for several tests


def test_a_spawned_process_returns_what_the_program_defines(torch_bench: Bench) -> None:
    text = (
        "import sys\nthere = 'multiprocessing' in sys.modules\nimport multiprocessing as m\nclass C: pass\ndef work(): return C()\n"
        "if __name__ == '__main__':\n    with m.get_context('spawn').Pool(1) as pool:\n"
        "        print(there, type(pool.apply_async(work).get(20)) is C)"
    )
    trial = torch_bench.run("python", torch_bench.script(text))
    assert is_warm(trial)
    assert trial.text == "True True\n"


TORCH = """
import os, random, sys
import numpy as np
import torch
from threadpoolctl import threadpool_info
print(torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled(),
      torch.get_default_dtype(), torch.cuda.is_initialized())
print(torch.__config__.parallel_info())
for pool in sorted((i["filepath"], i["num_threads"]) for i in threadpool_info()): print("pool", *pool)
torch.manual_seed(0)
network = torch.nn.Linear(300, 200)
optimizer = torch.optim.Adam(network.parameters())
for _ in range(3):
    loss = network(torch.randn(64, 300)).square().mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
print(loss.item(), np.ones((300, 300)).dot(np.ones(300)).sum(), len(os.listdir("/proc/self/task")) > 1)
"""


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"OMP_NUM_THREADS": "1"}, marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}, marks=pytest.mark.slow),
        pytest.param({"OMP_NUM_THREADS": "3"}, marks=pytest.mark.slow),
        pytest.param({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_pytorch_computes_the_same_with_as_many_threads(torch_bench: Bench, env: dict[str, str]) -> None:
    name = torch_bench.script(TORCH)
    trial = torch_bench.run("python", name, env=env)
    assert is_warm(trial), trial.process.how
    cold = Bench(ColdStarter(), torch_bench.folder, 1000 + torch_bench.count).run("python", name, env=env)
    assert trial.end == cold.end == (0, 0)
    warm_lines, cold_lines = trial.text.splitlines(), cold.text.splitlines()
    # The server has loaded libraries that this program does not use.
    assert {line for line in cold_lines if line.startswith("pool ")} <= set(warm_lines)
    printed = [[line for line in lines if not line.startswith("pool ")] for lines in (warm_lines, cold_lines)]
    assert printed[0] == printed[1]


def test_a_trial_harms_no_other(torch_bench: Bench) -> None:
    calm = torch_bench.script(
        "import os, torch\ntorch.manual_seed(1)\n"
        "print(torch.rand(2).tolist(), torch.get_num_threads(), 'MINE' in os.environ, os.getcwd())",
        "calm.py",
    )
    before = torch_bench.run("python", calm).text
    wild = {
        "leaks": "import torch\nkept = [torch.ones(1000, 1000) for _ in range(20)]\nopen('x', 'w')\nimport os; os._exit(0)",
        "changes": "import os, torch\nos.environ['MINE'] = '1'; os.chdir('/'); torch.manual_seed(5); torch.set_num_threads(3)\n"
        "torch.set_default_dtype(torch.float64); torch.rand = None",
        "crashes": "import ctypes, torch\nctypes.string_at(0)",
        "eats": "import resource, torch\nresource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n[torch.empty(2**28) for _ in range(99)]",
        "ends others": "import os, signal, torch\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.killpg(0, signal.SIGTERM)\n"
        "if os.fork() == 0:\n    os.setsid(); import time; time.sleep(600)",
    }
    for what, text in wild.items():
        trial = torch_bench.run("python", torch_bench.script(text, f"{what.split()[0]}.py"))
        assert is_warm(trial), trial.process.how
        assert trial.end == {"crashes": (139, 11), "eats": (1, 0)}.get(what, (0, 0)), (what, trial.text)
    after = torch_bench.run("python", calm)
    assert is_warm(after)
    assert after.text == before
