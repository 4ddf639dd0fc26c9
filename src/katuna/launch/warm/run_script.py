"""What `python SCRIPT` or `python -m MODULE` does, done by a process that runs already: a forked child becomes that program.

Standard library only: whatever else is there was imported before the fork, and is looked up in `sys.modules`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader, all_suffixes
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

FLUSH_FAILED = 120
"""The exit code of an interpreter that could not write its last output."""


@dataclass(frozen=True)
class Program:
    """A Python command line that a fork can honour: `target` is a script's path or, for `-m`, a module's name."""

    target: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False
    unbuffered: bool = False

    @classmethod
    def of(cls, argv: Sequence[str]) -> Program:
        """Raises ValueError, with the reason, for what only an interpreter of its own can do."""
        words = list(argv[1:])
        unbuffered = False
        while words and words[0] == "-u":
            unbuffered = True
            del words[0]
        if words[:1] == ["-m"] and len(words) > 1:
            return cls(words[1], tuple(words[2:]), is_module=True, unbuffered=unbuffered)
        if not words or words[0].startswith("-"):
            raise ValueError(f"interpreter option {words[0]}" if words else "no script")
        return cls(words[0], tuple(words[1:]), unbuffered=unbuffered)


def hiding(folder: str | Path, names: Set[str]) -> str:
    """One of the modules `names` that Python would import from this folder, which goes before all other places; "" for none.

    A folder in it without an `__init__` is found after all else, and so hides nothing.
    """
    suffixes = all_suffixes()
    try:
        entries = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return ""
    found = set()
    for entry in entries:
        name, dot, rest = entry.partition(".")
        if name in names and (
            dot + rest in suffixes
            or (not dot and any(os.path.exists(f"{folder}/{name}/__init__{suffix}") for suffix in suffixes))  # noqa: PTH110
        ):
            found.add(name)
    return min(found, default="")


class Inherited:
    """What the process that was forked knew before: its import path, its modules, and how many threads libraries would use."""

    def __init__(self, path: Sequence[str]) -> None:
        self.path = tuple(path)
        self.modules = frozenset(sys.modules)
        self.cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch = sys.modules.get("torch")
        self.torch_threads: int = torch.get_num_threads() if torch else 0
        self.libraries: Sequence[Any] = ()
        if "numpy" in sys.modules or torch:
            from threadpoolctl import ThreadpoolController

            self.libraries = ThreadpoolController().lib_controllers


def become(program: Program, argv: Sequence[str], env: Mapping[str, str], before: Inherited) -> None:
    """Makes this process, whose working folder and output are set, what a new interpreter would be before it runs the program."""
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    _open_stdio(unbuffered=program.unbuffered or bool(env.get("PYTHONUNBUFFERED")))
    _restore_signals()
    _set_threads(env, before)
    _make_new()
    sys.executable = os.path.abspath(shutil.which(argv[0], path=env.get("PATH")) or sys.executable)  # noqa: PTH100
    sys.orig_argv[:] = argv
    sys.argv[:] = ["-m" if program.is_module else program.target, *program.arguments]
    first, *given = places(program, env, os.getcwd())  # noqa: PTH109
    sys.path[:] = [first, *dict.fromkeys([*given, *before.path])]


def places(program: Program, env: Mapping[str, str], folder: str) -> list[str]:
    """What goes before all else in a program's import path: its own folder, or the working `folder`, and PYTHONPATH."""
    first = folder if program.is_module else os.path.dirname(os.path.realpath(os.path.join(folder, program.target)))  # noqa: PTH118, PTH120
    given = env["PYTHONPATH"].split(os.pathsep) if env.get("PYTHONPATH") else []
    return [first, *(os.path.abspath(os.path.join(folder, entry)) for entry in given)]  # noqa: PTH100, PTH118


def run(program: Program, before: Inherited) -> None:
    """Runs it as `__main__` and ends this process as an interpreter ends."""
    code = _execute(program)
    _finish(code, before)


def _execute(program: Program) -> int:
    """The exit code; minus SIGINT for a KeyboardInterrupt that nobody caught."""
    main = ModuleType("__main__")
    vars(main).update(__builtins__=sys.modules["builtins"], __annotations__={})
    sys.modules["__main__"] = main
    if "__mp_main__" in sys.modules:
        # As multiprocessing has it, which was imported with another main.
        sys.modules["__mp_main__"] = main
    try:
        if program.is_module:
            import runpy

            runpy._run_module_as_main(program.target)  # type: ignore[attr-defined]
        else:
            name = os.path.join(os.getcwd(), program.target)  # noqa: PTH109, PTH118
            vars(main).update(__file__=name, __cached__=None, __loader__=SourceFileLoader("__main__", name))
            try:
                source = Path(name).read_bytes()
            except OSError as error:
                print(f"{sys.executable}: can't open file {name!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)  # noqa: T201
                return 2
            try:
                exec(compile(source, name, "exec", dont_inherit=True), vars(main))  # noqa: S102
            finally:
                # An interpreter does so too, before it waits for threads; a failure is told at the end.
                _flush_quietly()
    except SystemExit as end:
        return _exit_code(end.code)
    except BaseException as error:  # noqa: BLE001
        _tell(error)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return (code if abs(code) <= sys.maxsize else -1) & 0xFF
    for text in (code, "\n"):
        with contextlib.suppress(Exception):
            print(text, end="", file=sys.stderr)  # noqa: T201
    return 1


def _tell(error: BaseException) -> None:
    """Through sys.excepthook as ever, without the frames above the program's own."""
    trace: TracebackType | None = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
    if sys.version_info >= (3, 12):
        sys.last_exc = error
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def _finish(code: int, before: Inherited) -> None:
    """Ends the process: threads, exit handlers, finalizers and buffers as at an interpreter's end. Buffers are first written without
    waiting for a finalizer: a garbage collection may well finalize a file before what buffers for it.

    What the C library runs at exit is left out: for libtorch's destructors that is half a second, in which nothing happens.
    """
    for step in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
        _attempt(step)
    written = _flush_stdio()
    _flush_files()
    for name in {*sys.modules} - before.modules | {"__main__", "__mp_main__"}:
        sys.modules.pop(name, None)
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)
    gc.collect()
    written = written and _flush_stdio()
    _flush_files()
    ctypes.CDLL(None).fflush(None)
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code if written else FLUSH_FAILED)


def _attempt(step: Callable[[], object]) -> None:
    try:
        step()
    except BaseException as error:  # noqa: BLE001
        _tell(error)


def _flush_quietly() -> None:
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(Exception):
            stream.flush()


def _flush_stdio() -> bool:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception as error:  # noqa: BLE001
            if stream is sys.stdout:
                said = "".join(traceback.format_exception_only(error))
                sys.stderr.write(f"Exception ignored in: {stream!r}\n{said}")
            return False
    return True


def _flush_files() -> None:
    for thing in gc.get_objects():
        if issubclass(type(thing), io.IOBase):
            with contextlib.suppress(Exception):
                thing.flush()


def _open_stdio(*, unbuffered: bool) -> None:
    """New streams, as an interpreter opens them, in the encoding that this one found."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, f"__{name}__")
        mode = "w" if number else "r"
        raw = io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"
        buffer: Any = (raw if unbuffered else io.BufferedWriter(raw)) if number else io.BufferedReader(raw)
        lines = (number == 2 or os.isatty(number)) and not unbuffered
        stream = io.TextIOWrapper(buffer, old.encoding, old.errors, "\n", line_buffering=lines, write_through=unbuffered)
        stream.mode = mode  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _restore_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    # As an interpreter has it: a write to a closed pipe, or past a limit, is an OSError.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


def _set_threads(env: Mapping[str, str], before: Inherited) -> None:
    """The effect that these variables have when the libraries are loaded."""
    openmp, mkl, blas = (int(env.get(name) or 0) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"))
    for library in before.libraries:
        if library.internal_api == "openblas":
            library.set_num_threads(min(blas or openmp or before.cpus, before.cpus))
        elif library.user_api == "openmp" and openmp:
            # PyTorch takes no more than MKL would, which is the number of cores.
            library.set_num_threads(min(openmp, before.torch_threads or openmp))
    if mkl and before.torch_threads:
        sys.modules["torch"].set_num_threads(min(mkl, before.torch_threads))


def _make_new() -> None:
    """State that modules keep and that must be this process's own. Python's `random` sees to itself after a fork."""
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    mtrand = sys.modules.get("numpy.random.mtrand")
    if mtrand:
        mtrand.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()
    if process := sys.modules.get("multiprocessing.process"):
        process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]  # noqa: PTH109
        process.current_process().authkey = os.urandom(32)
    if tempfile := sys.modules.get("tempfile"):
        tempfile.tempdir = None  # type: ignore[attr-defined]
    if logging := sys.modules.get("logging"):
        logging._startTime = time.time_ns() if sys.version_info >= (3, 13) else time.time()  # type: ignore[attr-defined]
