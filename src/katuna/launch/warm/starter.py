"""Which trials start warm, and katuna's side of it: a trial is asked of a server (server.py) and forked, or starts cold.

Nothing here waits: a request lies in a socket until the server has imported what it must. The first trial so starts as late as
it would cold, whose time goes into the same imports, and the others find a server that is ready; trials started cold meanwhile would
share the processors with it and delay both. Whatever comes to nothing before a guard has said `taken` starts cold.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from katuna.errors import is_shortage
from katuna.launch.command import inherited
from katuna.launch.process import Claim, Command, GuardedProcess, Handle
from katuna.launch.warm.imports import hidden, needs, source
from katuna.launch.warm.run_script import Program

FORKSERVER = Path(__file__).with_name("server.py")
ROOM = 4096
"""Bytes for a trial's command line as `ps` shows it, see server.py."""
READY_TIMEOUT_S = 60.0
TAKEN_TIMEOUT_S = 10.0
"""For a server that is ready: how long it may take no trial while one is asked of it."""
LAST_WORDS_S = 1.0
"""After the end of a server: how long a request may seem to be in somebody's hands still."""
MOST_SERVERS = 3
"""Programs that import other libraries get a server of their own, up to so many."""
MOST_SPEC_BYTES = 65536
"""What a socket takes at once on every Linux, however many small pieces it came in."""

OWN_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Else these libraries start threads when they are loaded. Trials set the first by a call."""

BY_CALL = frozenset(
    {"PYTHONUNBUFFERED", "PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES"}
)
AT_START = re.compile(
    r"(LD|LC|GLIBC|GLIBCXX|MALLOC|JE|PYTHON|OMP|GOMP|KMP|MKL|MKLDNN|DNNL|ONEDNN|OPENBLAS|GOTO|BLIS|ACC_DEVICE|GFORTRAN|I_MPI|OMPI|MPI"
    r"|CUDA|CUBLASLT|CUDNN|CUTEDSL|CUTLASS|NVRTC|NV|NVPL|LIBNVVM|CASK|PTXAS|HIP|ROCR|HSA|LLVM|TRITON|INDUCTOR|FX|PARTITIONER|PT2"
    r"|COMPILE_STROBELIGHT|DUMP_AOTI|TORCH|PYTORCH|ATEN|AOT|AOTINDUCTOR|KINETO|NPY|NUMPY|SCIPY|SKLEARN|JOBLIB|LOKY|PANDAS|ARROW|AZURE"
    r"|PILLOW|FREETYPE|PROTOCOL_BUFFERS|SYMPY|MPMATH|NETWORKX|FSSPEC|TQDM|PSUTIL|OPENSSL|SSL|XDG)_.*"
    r"|CUBLAS_(?!WORKSPACE_CONFIG$).*|ENABLE_.*(TMA|AUTOWS|PYTORCH).*|(PYTHON|TORCH(?!ELASTIC)).*|CC|CXX|SSLKEYLOGFILE"
    r"|INTEL_LIBITTNOTIFY64|FAKE_ALLOW_META|LOG_(AUTOTUNE_RESULTS|TLPARSE)|UNSAFE_SKIP_FSDP_MODULE_GUARDS|SOURCE_DATE_EPOCH|HOME|LANG"
)
"""Environment that the loader, the interpreter or a library reads when it starts and never again."""
BEFORE_ALL = re.compile(r"(LD|LC|GLIBC|MALLOC|PYTHON)_.*|PYTHON.*|LANG")
"""Those of them that are read before a program runs: it can write them for its children alone."""
UNSAID = "a Secret is part of its command or paths, so the reason is not quoted"


class WarmStarter:
    """Implements `process.Starter`: forks where that is the same as a new interpreter, else as ColdStarter, saying why."""

    def __init__(self) -> None:
        self._servers: list[Server] = []

    def start(
        self, name: str, command: Command, log: Path, held: Claim, *, locks: Sequence[int], deadline_s: float, grace_s: float
    ) -> GuardedProcess:
        how: Server | str
        try:
            how = self._server(command)
        except (ValueError, OSError) as reason:
            if isinstance(reason, OSError) and is_shortage(reason):
                raise
            how = UNSAID if command.hides else str(reason)
        return WarmProcess(how, name, command, log, held, locks=locks, deadline_s=deadline_s, grace_s=grace_s)

    def close(self) -> None:
        for server in self._servers:
            server.end()
        self._servers.clear()

    def _server(self, command: Command) -> Server:
        """Raises ValueError or OSError with the reason why this command has to start cold."""
        program = program_of(command)
        paths = _paths(command)
        file = source(program, command.folder, paths, command.trees)
        if file is None:
            raise ValueError(f"{program.target} is not found as a Python file")
        own = command.folder if program.is_module else (command.folder / program.target).resolve().parent
        for folder in {own, file.resolve().parent, *map(Path, paths)}:
            for tree in command.trees(folder):
                if name := hidden(tree):
                    raise ValueError(f"{folder} has a module {name} of its own")
        needed = needs(file, [str(tree) for path in paths for tree in command.trees(path)])
        for name, variable in needed.writes:
            if AT_START.fullmatch(variable) and not BEFORE_ALL.fullmatch(variable):
                raise ValueError(f"{name} sets {variable} itself")
        modules = needed.modules
        env = {**inherited(command.env), "PATH": command.env.get("PATH", os.defpath)}
        for server in self._servers:
            if packages(modules) <= packages(server.modules) or len(self._servers) == MOST_SERVERS:
                break
        else:
            server = Server(modules, env)
            self._servers.append(server)
        server.check(command.env)
        return server


def program_of(command: Command) -> Program:
    """Raises ValueError, with the reason, for a command that no fork of this interpreter can honour."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        raise ValueError(f"no warm starts on {sys.platform}")
    found = Path(os.path.abspath(command.folder / (shutil.which(command.argv[0], path=command.env.get("PATH")) or "")))  # noqa: PTH100
    mine = Path(os.path.abspath(sys.executable))  # noqa: PTH100
    if found.parent != mine.parent or found.resolve() != mine.resolve():
        raise ValueError(f"{command.argv[0]} is not katuna's own Python")
    program = Program.of(command.argv)
    if program.is_module and program.target in ("torch.distributed.run", "torch.distributed.launch"):
        raise ValueError("torchrun starts processes of its own")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if not re.fullmatch(r"[1-9][0-9]{0,3}|", command.env.get(name, "")):
            # Its value may be a Secret's, and the reason is kept and shown.
            raise ValueError(f"{name} is no plain number")
    return program


def differing(asked: Mapping[str, str], served: Mapping[str, str]) -> list[str]:
    """The variables that are read at a start and that a server with the environment `served` has not read so."""
    read = {name for name in {*asked, *served} if AT_START.fullmatch(name)} - BY_CALL
    return sorted(name for name in read if asked.get(name) != served.get(name))


def packages(modules: Iterable[str]) -> set[str]:
    """What decides whether a server will do; nearly all of them import numpy."""
    return {name.partition(".")[0] for name in modules} | {"numpy"}


def _paths(command: Command) -> list[str]:
    given = command.env.get("PYTHONPATH", "")
    return [str(command.folder / entry) for entry in given.split(os.pathsep)] if given else []


class Server:
    """One server process; it imports `modules` with the environment `env`. Raises OSError when it cannot be started."""

    def __init__(self, modules: frozenset[str], env: Mapping[str, str]) -> None:
        self.modules = modules
        self._asked = dict(env)
        self._why = ""
        self._ready = False
        self._began = time.monotonic()
        self._took_at = 0.0
        katuna = os.pidfd_open(os.getpid())
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            os.close(katuna)
            raise
        try:
            fds = (theirs.fileno(), katuna)
            self._process = subprocess.Popen(
                [sys.executable, str(FORKSERVER), *map(str, fds), ",".join(sorted(modules)), " " * ROOM],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,
                cwd="/",
                env={**env, **OWN_ENVIRONMENT},
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(katuna)
        ours.setblocking(False)
        self._socket = ours

    def check(self, env: Mapping[str, str]) -> None:
        """Raises ValueError, with the reason, where it cannot serve a trial with this environment."""
        if different := differing(env, self._asked):
            raise ValueError(f"{', '.join(different)} {'is' if len(different) == 1 else 'are'} read when Python starts")
        if why := self.why():
            raise ValueError(why)

    def why(self, asked_at: float = math.inf) -> str:
        """Why it serves no more; "" while it does. At `asked_at` a trial was asked of it that it has not taken so far."""
        while not self._why:
            try:
                word = self._socket.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                word = b""
            if word == b"ready":
                self._ready = True
                self._took_at = time.monotonic()
            else:
                self._why = word.decode().removeprefix("unfit ") or "the server of warm starts has ended"
        if not self._why and not self._ready and time.monotonic() > self._began + READY_TIMEOUT_S:
            self.end(f"the server of warm starts was not ready after {READY_TIMEOUT_S:g} s")
        if not self._why and self._ready and time.monotonic() > max(asked_at, self._took_at) + TAKEN_TIMEOUT_S:
            self.end(f"the server of warm starts took no trial for {TAKEN_TIMEOUT_S:g} s")
        return self._why

    def took(self) -> None:
        """It has just taken a trial: others may wait their turn."""
        self._took_at = time.monotonic()

    @property
    def is_ready(self) -> bool:
        return not self.why() and self._ready

    def ask(self, token: str, fds: Sequence[int]) -> None:
        """Raises OSError when it is gone, or too many requests wait already."""
        socket.send_fds(self._socket, [token.encode()], fds)

    def end(self, why: str = "the server of warm starts was ended") -> None:
        """Trials that it has forked go on."""
        self._why = self._why or why
        self._socket.close()
        self._process.kill()
        self._process.wait()


class _Asked:
    """A guard that is not there yet."""

    pid = 0

    def kill(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> int:  # noqa: ARG002
        return 0


class _Forked:
    """A guard that is no child of this process, and that may be gone by now."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            # Then it is found by its token.
            self._pidfd = -1

    def kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """1: how it ended cannot be known."""
        if self._pidfd >= 0 and not select.select([self._pidfd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("guard", timeout or 0.0)
        return 1

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)


class WarmProcess(GuardedProcess):
    """A GuardedProcess that a server forks, or that starts cold for the reason given, also when the server fails it."""

    def __init__(self, server: Server | str, *given: Any, **options: Any) -> None:
        self._server = server
        self._how = {"start": "warm"}
        self._said = ""
        self._hides = ""
        self._stopped = False
        self._asked_at = time.monotonic()
        self._lost_at = 0.0
        super().__init__(*given, **options)

    @property
    def how(self) -> Mapping[str, str]:  # type: ignore[override]
        """True once it has started."""
        return self._how

    def _new_guard(self, control: socket.socket, output: int) -> Handle:
        if isinstance(self._server, Server) and len(self._spec) > MOST_SPEC_BYTES:
            self._server = "its command and environment are too long"
        if isinstance(self._server, Server):
            try:
                self._server.ask(self._token, [control.fileno(), output, *self._kept])
            except OSError as error:
                self._server = self._server.why() or str(error)
            else:
                return _Asked()
        self._how = {"start": "cold", "why": self._server}
        return self._cold_guard(control, output)

    def read(self) -> list[dict[str, Any]]:
        messages = super().read()
        # What it said is heard first: katuna may have been stopped for a while.
        if isinstance(self._guard, _Asked) and isinstance(self._server, Server) and self._server.why(self._asked_at):
            messages += super().read()
            self._lost_at = self._lost_at or time.monotonic()
            if isinstance(self._guard, _Asked) and not self.over and time.monotonic() > self._lost_at + LAST_WORDS_S:
                # Some process holds the request and will not take it: one that does after all finds nobody there.
                messages += self._never_started()
        return messages

    def stop(self, grace_s: float) -> None:
        self._stopped = True
        super().stop(grace_s)
        if isinstance(self._guard, _Asked) and isinstance(self._server, Server) and not self._server.is_ready:
            # Nobody waits for imports in order to stop.
            self._server.end()

    def kill(self) -> None:
        self._stopped = True
        super().kill()

    def _hear(self, message: Mapping[str, Any]) -> bool:
        self._said = message["event"]
        if self._said == "taken":
            self._guard = _Forked(message["pid"])
        if self._said == "hidden":
            self._hides = message["name"]
        if self._said in ("taken", "hidden"):
            assert isinstance(self._server, Server)
            self._server.took()
            return False
        return super()._hear(message)

    def _finish(self) -> list[dict[str, Any]]:
        if isinstance(self._guard, _Asked):
            return self._never_started()
        if not isinstance(self._guard, _Forked):
            return super()._finish()
        if self._said in ("exited", "failed"):
            # Nothing is left, and the guard's own end need not be waited for.
            self.over = True
            self._socket.close()
        else:
            super()._finish()
        self._guard.close()
        return []

    def _never_started(self) -> list[dict[str, Any]]:
        if self._stopped:
            self.over = True
            self._socket.close()
            end = {"event": "exited", "code": 143, "signal": 15, "core": 0, "cause": "stop", "left": 0}
            return [{**end, "at": time.time()}]
        assert isinstance(self._server, Server)
        hides = f"it has a module {self._hides} of its own" if self._hides else ""
        self._server = hides or self._server.why() or "the server of warm starts did not answer"
        try:
            fresh, self._guard = self._connected(self._new_guard)
        except OSError:
            self.over = True
            self._socket.close()
            raise
        with fresh:
            # The same number as before, for whoever waits at it.
            os.dup2(fresh.fileno(), self._socket.fileno(), inheritable=False)
        return []
