"""A trial that is forked is what it would have been with an interpreter of its own; whatever cannot be starts cold and says why."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from launch_jobs import PATIENCE_S, carriers, until

from katuna.launch import imports, warm
from katuna.launch.asmain import hiding
from katuna.launch.command import inherited
from katuna.launch.forkserver import READY
from katuna.launch.imports import needs
from katuna.launch.process import LOCK_NAME, ColdStarter, Command, GuardedProcess, Starter, claim
from katuna.launch.warm import Server, WarmStarter, differing

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="warm starts are for Linux")

STARTERS = {"cold": ColdStarter, "warm": WarmStarter}


@dataclass
class Trial:
    """A process under its guard, in a folder, until its end."""

    process: GuardedProcess
    folder: Path
    lock: Any
    said: dict[str, dict[str, Any]]

    @property
    def text(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        return int(self.said["started"]["pid"])

    def listen(self, until_event: str = "") -> Trial:
        """Reads on until this was said, or the end."""
        give_up = time.monotonic() + PATIENCE_S
        while not self.process.over and until_event not in self.said:
            assert time.monotonic() < give_up, (self.said, self.text)
            select.select([self.process], [], [], 0.1)
            self.said |= {message["event"]: message for message in self.process.read()}
        if self.process.over:
            self.lock.close()
        return self

    @property
    def end(self) -> tuple[int, int]:
        """Exit code and signal."""
        return self.said["exited"]["code"], self.said["exited"]["signal"]


@dataclass
class Bench:
    """Starts trials in folders of their own below `folder`; their files are in `folder` itself."""

    starter: Starter
    folder: Path
    count: int = 0

    def begin(
        self, *argv: str, env: Mapping[str, str] | None = None, cwd: str = "", deadline_s: float = 0.0, grace_s: float = 5.0
    ) -> Trial:
        self.count += 1
        own = self.folder / f"trial{self.count}"
        own.mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = Command(argv, {**inherited(os.environ), "PATH": path, **(env or {})}, self.folder / cwd)
        held = claim(own)
        process = self.starter.start("t", command, own / "log", held, locks=(), deadline_s=deadline_s, grace_s=grace_s)
        return Trial(process, own, held, {})

    def run(self, *argv: str, **options: Any) -> Trial:
        return self.begin(*argv, **options).listen()

    def script(self, text: str, name: str = "program.py") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name


@pytest.fixture(params=STARTERS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    starter = STARTERS[request.param]()
    yield Bench(starter, tmp_path)
    starter.close()


@pytest.fixture
def warm_bench(tmp_path: Path) -> Iterator[Bench]:
    starter = WarmStarter()
    yield Bench(starter, tmp_path)
    starter.close()


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


@pytest.fixture
def both(tmp_path: Path, warm_bench: Bench) -> tuple[Bench, Bench]:
    return Bench(ColdStarter(), tmp_path, 1000), warm_bench


def is_warm(trial: Trial) -> bool:
    return dict(trial.process.how) == {"start": "warm"}


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


# Under a guard, cold or warm


def test_output_is_there_before_the_end(bench: Bench) -> None:
    trial = bench.begin("python", bench.script("import time\nprint('now')\ntime.sleep(600)"), env={"PYTHONUNBUFFERED": "1"})
    trial.listen("started")
    assert until(lambda: trial.text == "now\n")
    trial.process.stop(5.0)
    assert trial.listen().end == (143, 15)
    assert trial.said["exited"]["cause"] == "stop"


def test_who_does_not_stop_is_killed_after_the_grace_period(bench: Bench) -> None:
    text = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    trial = bench.begin("python", bench.script(text)).listen("started")
    assert until(lambda: trial.text)
    trial.process.stop(0.1)
    assert trial.listen().end == (137, 9)


def test_the_deadline_ends_a_trial(bench: Bench) -> None:
    trial = bench.begin("python", bench.script("import time\ntime.sleep(600)"), deadline_s=0.3).listen()
    assert trial.said["exited"]["cause"] == "deadline"
    assert trial.end == (143, 15)


def test_what_outlives_a_trial_is_ended(bench: Bench) -> None:
    text = (
        "import os, time\nfor again in range(2):\n    if os.fork():\n        break\n    os.setsid()\nelse:\n    time.sleep(600)"
    )
    trial = bench.run("python", bench.script(text))
    assert trial.end == (0, 0)
    assert trial.said["exited"]["left"] >= 1


def test_a_folder_that_does_not_exist_is_told(bench: Bench, tmp_path: Path) -> None:
    trial = bench.run("python", str(tmp_path / bench.script("")), cwd="nowhere")
    assert (trial.said["failed"]["stage"], trial.said["failed"]["errno"]) == ("chdir", 2)


def test_a_killed_guards_processes_are_found_by_their_token(bench: Bench) -> None:
    text = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\nos.environ.clear()\ntime.sleep(600)"
    trial = bench.begin("python", bench.script(text)).listen("started")
    token = (trial.folder / LOCK_NAME).read_text()
    assert until(lambda: len(carriers(token)) == 4), "the guard, the trial, its child and its grandchild"
    os.kill(trial.process.guard_pid, signal.SIGKILL)
    trial.listen()
    assert "exited" not in trial.said
    assert carriers(token) == []


DRIVER = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from test_warm import *
bench = Bench(STARTERS[{how!r}](), Path({folder!r}))
trial = bench.begin("python", "program.py", env={{"MARK": {mark!r}}}).listen({event!r})
print("there", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("event", ["started", "no"], ids=["running", "being started"])
def test_nothing_is_left_when_katuna_is_killed(bench: Bench, tmp_path: Path, event: str) -> None:
    mark = f"mark-{uuid.uuid4()}"
    how = "warm" if isinstance(bench.starter, WarmStarter) else "cold"
    library = "torch" if event == "no" else "numpy"
    bench.script(f"import os, time, {library}\n# {mark}\nif os.fork() == 0:\n    os.setsid()\ntime.sleep(600)")
    text = DRIVER.format(path=sys.path, how=how, folder=str(tmp_path), mark=mark, event=event)
    if event == "no":
        text = text.replace(".listen('no')", "")
    driver = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, start_new_session=True)
    assert driver.stdout is not None
    with driver.stdout:
        assert driver.stdout.readline() == b"there\n"
        below = [pid for pid in everyone() if how_started(pid, driver.pid)]
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert below
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() and alive(pid) for pid in below), within_s=2.0)
    assert carriers(mark) == []


def everyone() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def how_started(pid: int, ancestor: int) -> bool:
    """Whether `pid` comes from `ancestor`."""
    while pid > 1 and pid != ancestor:
        pid = parent(pid)
    return pid == ancestor


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# The server's own faults


def server_of(bench: Bench) -> Server:
    assert isinstance(bench.starter, WarmStarter)
    (server,) = bench.starter._servers
    return server


def below(pid: int) -> list[int]:
    return [one for one in everyone() if parent(one) == pid]


def kill_all(pids: Iterable[int]) -> None:
    """Some of them go with others."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_dead_server_means_cold_starts_and_no_more(warm_bench: Bench, tmp_path: Path) -> None:
    name = warm_bench.script("import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)")
    running = warm_bench.begin("python", name).listen("started")
    server = server_of(warm_bench)
    kill_all({server._process.pid, *below(server._process.pid)} - {running.process.guard_pid})
    assert until(server.why)
    (tmp_path / "go").touch()
    trial = warm_bench.run("python", name)
    assert trial.process.how == {"start": "cold", "why": "the server of warm starts has ended"}
    assert (trial.end, running.listen().end) == ((0, 0), (0, 0))
    assert is_warm(running)


def test_a_server_that_dies_before_a_trial_has_begun_lets_it_start_cold_once(warm_bench: Bench) -> None:
    name = warm_bench.script("import numpy\nprint('once')")
    trials = [warm_bench.begin("python", name) for _ in range(2)]
    os.kill(server_of(warm_bench)._process.pid, signal.SIGKILL)
    for trial in trials:
        assert trial.listen().end == (0, 0)
        assert trial.process.how == {"start": "cold", "why": "the server of warm starts has ended"}
        assert trial.text == "once\n"


def test_a_server_that_is_never_ready_is_given_up(warm_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "READY_TIMEOUT_S", 0.2)
    trial = warm_bench.begin("python", warm_bench.script("import numpy"))
    os.kill(server_of(warm_bench)._process.pid, signal.SIGSTOP)
    assert trial.listen().end == (0, 0)
    assert trial.process.how == {"start": "cold", "why": "the server of warm starts was not ready after 0.2 s"}


def test_a_stop_waits_for_no_imports(warm_bench: Bench) -> None:
    trial = warm_bench.begin("python", warm_bench.script("import torch"))
    trial.process.stop(30.0)
    assert trial.listen().said["exited"]["cause"] == "stop"
    assert "started" not in trial.said
    assert trial.text == ""


def test_a_server_whose_imports_start_a_thread_forks_nothing(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()"
    )
    server = Server(frozenset({"busy"}), {"PYTHONPATH": str(tmp_path)})
    assert until(server.why)
    assert server.why() == "importing busy starts a thread"
    server.end()


def test_a_spare_guard_that_dies_is_no_trials_end(warm_bench: Bench) -> None:
    name = warm_bench.script("print('x')")
    assert is_warm(warm_bench.run("python", name))
    server = server_of(warm_bench)
    kill_all(below(server._process.pid))
    assert until(server.why)
    trial = warm_bench.run("python", name)
    assert (trial.end, trial.text, is_warm(trial)) == ((0, 0), "x\n", False)


@pytest.mark.parametrize("who", ["the server", "its idle guards", "all"])
def test_a_server_that_stalls_lets_trials_start_cold(warm_bench: Bench, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    name = warm_bench.script("print('x')")
    assert is_warm(warm_bench.run("python", name))
    pid = server_of(warm_bench)._process.pid
    assert until(lambda: len(below(pid)) == READY)
    monkeypatch.setattr(warm, "TAKEN_TIMEOUT_S", 0.5)
    stopped = {"the server": [pid], "its idle guards": below(pid), "all": [pid, *below(pid)]}[who]
    for one in stopped:
        os.kill(one, signal.SIGSTOP)
    trials = [warm_bench.begin("python", name) for _ in range(READY + 1)]
    ended = [trial.listen() for trial in trials]
    assert [(trial.end, trial.text) for trial in ended] == [((0, 0), "x\n")] * (READY + 1)
    starts = Counter(trial.process.how.get("why", "warm") for trial in ended)
    late = 1 if who == "the server" else READY + 1
    assert starts["the server of warm starts took no trial for 0.5 s"] == late, starts
    assert starts["warm"] == READY + 1 - late
    assert until(lambda: not any(map(alive, stopped)))


def test_a_request_that_somebody_holds_and_does_not_take_starts_cold(warm_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process would that was stopped before it could be told to end with the server."""
    held: list[socket.socket] = []

    def pair(*kinds: int) -> tuple[socket.socket, socket.socket]:
        ours, theirs = real(*kinds)
        if kinds:
            held.append(theirs.dup())
        return ours, theirs

    real = socket.socketpair
    monkeypatch.setattr(socket, "socketpair", pair)
    name = warm_bench.script("print('x')")
    assert is_warm(warm_bench.run("python", name))
    pid = server_of(warm_bench)._process.pid
    assert until(lambda: len(below(pid)) == READY)
    os.kill(pid, signal.SIGSTOP)
    for one in below(pid):
        os.kill(one, signal.SIGSTOP)
    trials = [warm_bench.begin("python", name) for _ in range(2)]
    os.kill(pid, signal.SIGKILL)
    assert [(trial.listen().end, trial.text, is_warm(trial)) for trial in trials] == [((0, 0), "x\n", False)] * 2
    assert len(held) == 1
    held[0].close()


# What starts cold

COLD = {
    ("sh", "-c", "true"): "sh is not katuna's own Python",
    ("python",): "no script",
    ("python", "-c", "print(1)"): "interpreter option -c",
    ("python", "-O", "program.py"): "interpreter option -O",
    ("python", "-"): "interpreter option -",
    ("python", "-m", "torch.distributed.run", "program.py"): "torchrun starts processes of its own",
    ("python", "nearby"): "nearby is not found as a Python file",
    ("python", "nearby/json/program.py"): "{folder}/nearby/json has a module random of its own",
}


@pytest.mark.parametrize("argv", COLD, ids=" ".join)
def test_what_a_fork_cannot_be_starts_cold_and_says_why(warm_bench: Bench, tmp_path: Path, argv: tuple[str, ...]) -> None:
    for name in ("program.py", "nearby/__main__.py", "nearby/json/program.py", "nearby/json/random.py"):
        warm_bench.script("", name)
    trial = warm_bench.begin(*argv)
    assert trial.process.how == {"start": "cold", "why": COLD[argv].format(folder=tmp_path)}
    trial.process.stop(0)
    trial.listen()
    assert isinstance(warm_bench.starter, WarmStarter)
    assert not warm_bench.starter._servers, "no server for what is no Python"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("LD_PRELOAD", ""),
            ("MALLOC_ARENA_MAX", "1"),
            ("GLIBC_TUNABLES", ""),
            ("PYTHONHASHSEED", "0"),
            ("PYTHONOPTIMIZE", "1"),
        ),
        *(("OMP_PROC_BIND", "true"), ("KMP_AFFINITY", "none"), ("MKL_CBWR", "AVX2"), ("CUDA_LAUNCH_BLOCKING", "1")),
        *(
            ("TORCH_LOGS", ""),
            ("PYTORCH_CUDA_ALLOC_CONF", ""),
            ("TORCHDYNAMO_VERBOSE", "1"),
            ("HOME", "/nowhere"),
            ("LC_ALL", "C"),
        ),
        *(("TQDM_DISABLE", "1"), ("DNNL_VERBOSE", "1"), ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"), ("CXX", "clang++")),
    ],
)
def test_environment_that_is_read_at_a_start_starts_cold(warm_bench: Bench, name: str, value: str) -> None:
    trial = warm_bench.run("python", warm_bench.script("print('x')"), env={name: value})
    if name in ("HOME", "LC_ALL"):
        # The server has begun with what is katuna's own to pass on: the next trial is the one that differs.
        assert is_warm(trial)
        trial = warm_bench.run("python", "program.py")
    assert trial.process.how == {"start": "cold", "why": f"{name} is read when Python starts"}
    assert trial.end == (0, 0)


def test_environment_that_calls_can_honour_does_not_start_cold() -> None:
    own = {"HOME": "/h", "LANG": "C"}
    given = ("PYTHONUNBUFFERED", "PYTHONPATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RANK", "MASTER_ADDR", "NCCL_DEBUG")
    assert differing({**own, **dict.fromkeys((*given, "TORCHELASTIC_RUN_ID", "PET_NNODES"), "1")}, own) == []
    assert differing({"LANG": "C", "LD_AUDIT": ""}, own) == ["HOME", "LD_AUDIT"]


@pytest.mark.parametrize("value", ["0", "4,2", "many", "-1"])
def test_thread_counts_that_are_no_number_start_cold(warm_bench: Bench, value: str) -> None:
    trial = warm_bench.run("python", warm_bench.script("print('x')"), env={"OMP_NUM_THREADS": value})
    assert trial.process.how == {"start": "cold", "why": f"OMP_NUM_THREADS={value} is no plain number"}


WRITES = (
    *("os.environ['A'] = '1'", "environ['A'] += '1'", "del os.environ['A']", "os.environ.setdefault('A', '1')"),
    *("os.environ.update({'A': '1'})", "environ.update(A='1')", "os.environ.update(dict(A='1'))", "os.environ |= {'A': '1'}"),
    *("os.putenv('A', '1')", "def f():\n    os.environ['A']: str = '1'", "os.environ.pop('A')"),
)


@pytest.mark.parametrize("text", WRITES)
def test_what_a_program_writes_to_its_environment_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.py").write_text(f"import os\nfrom os import environ\nprint(environ['B'], os.environ.get('C'))\n{text}")
    assert needs(tmp_path / "x.py", []).writes == (("x.py", "A"),)


def test_relative_imports_are_followed(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__main__.py").write_text("from . import a\nfrom .inner import b")
    (package / "a.py").write_text("import scipy")
    (package / "inner" / "__init__.py").write_text("from .. import c")
    (package / "inner" / "b.py").write_text("import torch")
    (package / "c.py").write_text("import os\nos.environ['A'] = '1'")
    found = needs(package / "__main__.py", [])
    assert (found.modules, found.writes) == ({"scipy", "torch"}, (("c.py", "A"),))


def test_a_program_that_sets_what_a_library_reads_at_its_start_starts_cold(warm_bench: Bench) -> None:
    warm_bench.script("import os\nos.environ['OMP_NUM_THREADS'] = '1'", "nearby/helper.py")
    calls = {
        "import os\nos.environ['TORCH_LOGS'] = ''\nimport numpy": "program.py sets TORCH_LOGS itself",
        "import helper, numpy": "helper.py sets OMP_NUM_THREADS itself",
        "import os\nos.environ.update(PYTHONHASHSEED='0', MASTER_ADDR='localhost', CUBLAS_WORKSPACE_CONFIG=':16:8')": "",
        "import katuna.launch.warm": "",
    }
    for text, why in calls.items():
        trial = warm_bench.run("python", warm_bench.script(text), env={"PYTHONPATH": "nearby"})
        assert trial.process.how.get("why", "") == why
        assert trial.end == (0, 0)


def test_sources_are_read_again_only_when_they_have_changed(tmp_path: Path) -> None:
    def read() -> int:
        return imports._parsed.cache_info().misses

    (tmp_path / "x.py").write_text("import helper, katuna.metrics.line, numpy")
    (tmp_path / "helper.py").write_text("import scipy")
    first = read()
    before = needs(tmp_path / "x.py", []).modules
    assert read() >= first + 2
    again = read()
    assert needs(tmp_path / "x.py", []).modules == before
    assert read() == again
    (tmp_path / "helper.py").write_text("import torch")
    assert before ^ needs(tmp_path / "x.py", []).modules == {"scipy", "torch"}
    assert read() == again + 1
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "helper.py").write_text("import pandas")
    assert "pandas" in needs(tmp_path / "x.py", [str(tmp_path / "later")]).modules


def test_what_is_imported_for_its_effect_is_left_to_the_program(tmp_path: Path) -> None:
    text = "import sklearn\ndef f():\n    from sklearn.experimental import enable_halving_search_cv"
    (tmp_path / "x.py").write_text(text + "\nif TYPE_CHECKING:\n    import torch\nelse:\n    import scipy")
    assert needs(tmp_path / "x.py", []).modules == {"sklearn", "scipy"}


def test_a_module_that_a_library_would_take_for_its_own_starts_cold(warm_bench: Bench) -> None:
    # numpy's server has loaded it to set numbers of threads; nothing in the script's own imports tells.
    warm_bench.script("mine = 1", "nearby/threadpoolctl/__init__.py")
    name = warm_bench.script("import numpy, threadpoolctl\nprint(threadpoolctl.mine)")
    trials = [warm_bench.begin("python", name, env={"PYTHONPATH": "nearby"}) for _ in range(3)]
    for trial in trials:
        assert trial.listen().process.how == {"start": "cold", "why": "it has a module threadpoolctl of its own"}
        assert (trial.end, trial.text) == ((0, 0), "1\n")
    assert is_warm(warm_bench.run("python", warm_bench.script("import numpy", "other.py"))), "the server goes on"


def test_a_folder_without_modules_hides_none(warm_bench: Bench) -> None:
    for place in ("html", "profile", "code", "secrets", "torch", "threadpoolctl"):
        warm_bench.script("", f"{place}/data.txt")
    assert is_warm(warm_bench.run("python", warm_bench.script("import numpy\nimport profile\nprofile.run")))


@pytest.mark.parametrize("entry", ["x.py", "x.pyc", "x.so", "x.abi3.so", "x/__init__.py", "x/__init__.so"])
def test_all_that_python_imports_can_hide_a_module(tmp_path: Path, entry: str) -> None:
    path = tmp_path / entry
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert hiding(tmp_path, {"w", "x"}) == "x"
    assert hiding(tmp_path, {"w"}) == ""


def test_another_interpreter_starts_cold(warm_bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    trial = warm_bench.run(str(tmp_path / "bin" / "python"), warm_bench.script("print('x')"))
    assert trial.process.how["why"].endswith("is not katuna's own Python")
    assert trial.text == "x\n"


def test_a_trial_that_is_over_before_anybody_listens_is_told(warm_bench: Bench) -> None:
    name = warm_bench.script("print('done')", "quick.py")
    warm_bench.run("python", name)
    begun = [warm_bench.begin("python", name) for _ in range(5)]
    time.sleep(0.5)
    ended = [trial.listen() for trial in begun]
    assert all(map(is_warm, ended))
    assert [(trial.end, trial.text) for trial in ended] == [((0, 0), "done\n")] * 5
