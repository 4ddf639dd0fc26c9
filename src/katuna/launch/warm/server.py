"""The server of warm starts: a process that has imported what trials import, and is forked for each of them.

Run as `python server.py REQUESTS KATUNA MODULES PADDING` by starter.py: a socket, a pidfd of katuna, what to import. Not with -I:
a trial's own children would get that flag from it. One process for each purpose:

    server   imports; starts no thread and touches no CUDA, or says so and ends; then keeps READY pairs of idle processes
    guard    forked from the server, waits at REQUESTS; the one that gets a request becomes that trial's guard (guard.py)
    trial    forked from its guard, in advance too; becomes the program (run_script.py)

So the two forks (each 10 to 40 ms for an address space with PyTorch in it) are over before anybody waits for them. At REQUESTS:

    out  `ready`, or `unfit WHY` and the end
    in   a trial's token, with file descriptors: the guard's socket to katuna, the trial's log, and locks to hold

A guard whose trial has a module of its own named as one that is here already says `"event": "hidden", "name": NAME` to katuna,
and does not take it on.

All ends when katuna's end of REQUESTS is closed, or katuna is gone; trials that run have their guards to see to that.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import weakref

if __name__ == "__main__":
    # Python's own entry for a script is this folder, whose names are no trial's to find.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120

from katuna.launch import guard, layers
from katuna.launch.guard import TOKEN_VARIABLE
from katuna.launch.warm.run_script import Inherited, Program, become, hiding, places, run

if __name__ == "__main__":
    del sys.path[0]

READY = 2
"""Idle pairs: for a job of two replicas, or two slots that come free at once; a third start waits for its forks."""
ROOM = 4096
"""The length of PADDING, in which a trial's token and command line are written: `/proc` shows a fork those of its parent."""
CUDA_CHECK_S = 60


class WarmGuard(guard.Guard):
    """A guard whose trial is there already, waiting at `channel`, and whose parent is not katuna."""

    def __init__(self, body: bytes, pending: bytes, trial: int, channel: socket.socket, log: int, katuna: int) -> None:
        super().__init__(guard.Spec(body), pending)
        self.body, self.trial, self.channel, self.log, self.katuna = body, trial, channel, log, katuna

    def start(self) -> bytes:
        self.main = self.trial
        failed = b""
        with self.channel:
            try:
                socket.send_fds(self.channel, [b"%d\n" % len(self.body)], [self.log])
                self.channel.sendall(self.body)
                while chunk := self.channel.recv(64):
                    failed += chunk
            except OSError:
                # Its process has just died: its end tells.
                return b""
        if failed:
            os.waitpid(self.main, 0)
        return failed

    def has_katuna(self) -> bool:
        return is_there(self.katuna)


def is_there(pidfd: int) -> bool:
    return not select.select([pidfd], [], [], 0)[0]


# The server


def load(modules: list[str]) -> None:
    """Imports what is there of `modules`, what the first optimizer would import, and `tabulate`, which PyTorch imports at exit."""
    for name in modules:
        attempt(name)
    if torch := sys.modules.get("torch"):
        torch.optim.AdamW([torch.nn.Parameter(torch.empty(0))])
        attempt("tabulate")


def attempt(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception:  # noqa: BLE001
        # It may be a class, or not installed: the trial's own import tells.
        return


def unfit(modules: list[str]) -> str:
    """Why this process may not be forked; "" when it may."""
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208
        return f"importing {', '.join(modules)} starts a thread"
    torch = sys.modules.get("torch")
    if torch and (torch.version.cuda or torch.version.hip) and os.path.exists("/dev/nvidiactl"):  # noqa: PTH110
        return "" if cuda_works_after_a_fork(torch) else "CUDA does not work here after a fork"
    return ""


def cuda_works_after_a_fork(torch: object) -> bool:
    """Whether a forked child can compute on a GPU. Written for machines that have one; not measured on any."""
    child = os.fork()
    if child == 0:
        signal.alarm(CUDA_CHECK_S)
        works = False
        try:
            cuda = torch.cuda  # type: ignore[attr-defined]
            works = not cuda.is_available() or (torch.ones(2, device="cuda") + 1).sum().item() == 4  # type: ignore[attr-defined]
        finally:
            os._exit(0 if works else 1)
    return os.waitpid(child, 0)[1] == 0


def serve(requests: int, katuna: int, before: Inherited) -> Program:
    """Keeps pairs ready. Returns in a trial's process alone, which has then become the program's."""
    server = os.getpid()
    idle: set[int] = set()
    poll = select.poll()
    poll.register(requests, 0)
    poll.register(katuna, select.POLLIN)
    while True:
        while len(idle) < READY:
            reader, writer = os.pipe()
            if os.fork() == 0:
                for other in (reader, *idle):
                    os.close(other)
                return be_a_pair(server, requests, katuna, writer, before)
            os.close(writer)
            idle.add(reader)
            poll.register(reader, select.POLLIN)
        for ready, _ in poll.poll():
            if ready not in idle:
                os._exit(0)
            if not os.read(ready, 1):
                # An idle process that dies is out of memory or worse: no forks from here any more.
                os._exit(1)
            poll.unregister(ready)
            idle.remove(ready)
            os.close(ready)


def be_a_pair(server: int, requests: int, katuna: int, note: int, before: Inherited) -> Program:
    """The guard's process ends in here; the trial's returns."""
    os.setsid()
    # Until it has taken a trial on: where the server is ended, so is what waits, even if it is stopped.
    guard.libc.prctl(guard.PR_SET_PDEATHSIG, guard.SIGKILL, 0, 0, 0)
    if os.getppid() != server:
        os._exit(1)
    guard.libc.signal(signal.SIGCHLD, signal.SIG_DFL)
    guard.stay()
    ours, theirs = socket.socketpair()
    this = os.getpid()
    trial = os.fork()
    if trial == 0:
        guard.stand_alone(this)
        ours.close()
        return await_program(theirs, before)
    theirs.close()
    try:
        taken = await_request(requests, katuna, ours)
        if taken:
            os.write(note, b"t")
            os.close(note)
            os.close(requests)
            lead(*taken, trial, ours, katuna)
    except Exception:  # noqa: BLE001
        # Into the trial's log, as a cold guard's would go.
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


# The guard


def await_request(requests: int, katuna: int, channel: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next request that no other process got; None when there will be none."""
    poll = select.poll()
    for fd in (requests, katuna, channel.fileno()):
        poll.register(fd, select.POLLIN)
    with socket.socket(fileno=os.dup(requests)) as at:
        while True:
            if any(fd != requests for fd, _ in poll.poll()):
                return None
            try:
                token, fds, _, _ = socket.recv_fds(at, 64, 64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            return (token, fds) if token else None


def lead(token: bytes, fds: list[int], trial: int, channel: socket.socket, katuna: int) -> None:
    """A trial from its Spec to its end. What others wait for is let go of first: the memory of this process takes a while."""
    control, log, *locks = fds
    show(token, b"guard")
    for number in (0, 1, 2):
        os.dup2(log if number else control, number)
    os.close(control)
    received = guard.receive()
    if received is None or hung_up():
        return
    if name := hidden(guard.Spec(received[0])):
        guard.say(f'"event": "hidden", "name": "{name}"')
        return
    guard.libc.prctl(guard.PR_SET_PDEATHSIG, 0, 0, 0, 0)
    guard.say(f'"event": "taken", "pid": {os.getpid()}')
    if hung_up():
        return
    WarmGuard(*received, trial, channel, log, katuna).run()
    for fd in (*locks, 0):
        os.close(fd)


def hidden(spec: guard.Spec) -> str:
    """A module that is here, for a library's sake, and in whose place the program would import one of its own; "" for none."""
    names = {name for name in sys.modules if "." not in name} - {"__main__", "__mp_main__"}
    folders = places(Program.of(spec.argv), spec.env, spec.folder)
    seen = (tree for folder in folders for tree in layers.trees(spec.view, folder))
    return next((name for tree in seen if (name := hiding(tree, names))), "")


def hung_up() -> bool:
    """Whether katuna wants this trial no more."""
    poll = select.poll()
    poll.register(0, 0)
    return bool(poll.poll(0))


def show(token: bytes, command: bytes) -> None:
    """Writes over this process's command line, where `ps` shows what it is and katuna finds it by its token."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        start, end = (int(word) for word in file.read().rpartition(b")")[2].split()[45:47])
    room = end - start
    text = command[: room - len(token) - 2] + b"\0" + token
    ctypes.memmove(start, text.ljust(room, b"\0"), room)


# The trial


def await_program(channel: socket.socket, before: Inherited) -> Program:
    """Waits for a Spec, and makes this process what it says."""
    close_all(but=channel.fileno())
    data, fds, _, _ = socket.recv_fds(channel, 65536, 1)
    size, _, body = data.partition(b"\n")
    while data and len(body) < int(size):
        data = channel.recv(65536)
        body += data
    if not data:
        os._exit(1)
    spec = guard.Spec(body)
    for number in (0, 1, 2):
        os.dup2(fds[0] if number else os.open(os.devnull, os.O_RDONLY), number)
    stage = "files"
    try:
        guard.see_files(spec)
        stage = "chdir"
        os.chdir(spec.folder)
    except OSError as error:
        channel.sendall(f"{stage} {error.errno}".encode())
        os._exit(127)
    channel.detach()
    close_all()
    show(spec.env[TOKEN_VARIABLE].encode(), b"\0".join(map(os.fsencode, spec.argv)))
    program = Program.of(spec.argv)
    become(program, spec.argv, spec.env, before)
    return program


def close_all(but: int = -1) -> None:
    """Closes every file descriptor from 3 on."""
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        if fd > 2 and fd != but:
            try:
                os.close(fd)
            except OSError:
                # The one that the folder was read through.
                continue


def main() -> tuple[Program, Inherited]:
    """Returns in a trial's process alone."""
    requests, katuna = int(sys.argv[1]), int(sys.argv[2])
    modules = sys.argv[3].split(",") if sys.argv[3] else []
    # While it imports it can look at nothing else. Later it looks itself: this would also end it with a thread of katuna's.
    guard.libc.prctl(guard.PR_SET_PDEATHSIG, guard.SIGKILL, 0, 0, 0)
    if not is_there(katuna):
        os._exit(1)
    show(b"", b"katuna: server of warm starts")
    path = list(sys.path)
    load(modules)
    why = unfit(modules)
    os.write(requests, f"unfit {why}".encode() if why else b"ready")
    if why:
        os._exit(1)
    guard.libc.prctl(guard.PR_SET_PDEATHSIG, 0, 0, 0, 0)
    before = Inherited(path)
    # What is there now is never garbage, and looking at it would copy its pages in every trial; nor has a trial to take down at
    # its exit what it did not set up (PyTorch registers hundreds of libraries).
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return serve(requests, katuna, before), before


if __name__ == "__main__":
    run(*main())
