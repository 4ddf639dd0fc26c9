"""The guard of one trial process: whatever happens, when the guard is gone nothing that it started is left.

Run by BOOT with NAME TOKEN FD... in a session of its own, so that what ends katuna's process group does not reach it; or forked from the server of warm starts (server.py), which changes how its trial begins and how it sees that katuna is there.
The file descriptors are locks that stay held until the guard is gone. It imports next to nothing (`signal` and `json` would
double the time that it takes to start). Its standard input is a socket to katuna:

    in   LENGTH newline, then a Spec of that length (`encode`); later, any number of `stop SECONDS` lines
    out  {"event": "taken", "pid": N}                                   a forked guard with this pid has taken the trial on
         {"event": "started", "pid": N}                                 the trial runs
         {"event": "failed", "errno": N, "stage": "fork" | "files" | "chdir" | "exec"}   it could not be started
         {"event": "exited", "code": N, "signal": N, "core": 0 | 1, "cause": WORD, "left": N}

Its output is the trial's log, which the trial inherits. Each message has `at` too, the time in seconds since the epoch, as katuna
may be busy when it comes; of `exited` the moment at which the main process ended. `code` is as a container has it (128 + signal). `cause` says what the guard did before the trial
ended: nothing (""), "stop" or "deadline" as told, or "orphaned" as katuna was gone. `left` counts the processes that outlived the
trial's main process and that the guard then ended.

On Linux every descendant is found, also one that forked twice and called setsid, because the guard is child subreaper.
Elsewhere the trial's process group is what can be reached.

Where the guard itself is SIGKILLed, the trial's main process dies with it (Linux), and katuna ends the trial's process group and
whatever has TOKEN in its environment or arguments. Out of reach is then a process that has left the group and emptied its
environment: nothing tells it from a daemon of the user's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

if __name__ == "guard":
    # Run by BOOT: importing the package would take longer than all the rest.
    import layers  # type: ignore[import-not-found]
else:
    from katuna.launch import layers

BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); import guard; del sys.path[0]; guard.main()"
"""What `python -I -S -c` is given, with the folder of this file as its first argument: a module is compiled once, a script each time."""

LINUX = sys.platform == "linux"
TOKEN_VARIABLE = "KATUNA_TRIAL_TOKEN"  # noqa: S105
SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGXFSZ = 1, 2, 9, 13, 15, 25
SIG_DFL, SIG_IGN = 0, 1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

ORPHAN_GRACE_S = 1.0
LEFTOVER_GRACE_S = 1.0
SETTLE_S = 0.3
"""How long helpers such as multiprocessing's resource tracker may take to notice that the main process has ended."""
AGAIN_S = 0.02
LOOK_S = 1.0
"""How often to see that katuna still is the parent: the socket alone would not tell if a child of katuna had inherited it."""

libc = ctypes.CDLL(None)
libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
if LINUX:
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def encode(
    argv: Sequence[str],
    env: dict[str, str],
    *,
    folder: str,
    view: Sequence[layers.Step] = (),
    parent: int,
    deadline_s: float,
    grace_s: float,
) -> bytes:
    """The Spec as katuna sends it. `view` is what layers.py takes, `deadline_s` 0 means none. Raises ValueError for text that no
    process can be given."""
    mounts = layers.flat(view)
    texts = {
        "its working folder": folder,
        **{f"mount {word!r}": word for word in mounts},
        **{f"argv[{index}]": word for index, word in enumerate(argv)},
    }
    texts |= {f"the variable {name!r}": name + value for name, value in env.items()}
    for what, text in texts.items():
        # The kernel ends all of these texts at a NUL; here one would shift those behind it.
        if "\0" in text:
            raise ValueError(f"{what} holds a NUL character, which no process can be given")
    numbers = [str(each) for each in (parent, deadline_s, grace_s, len(mounts), len(argv))]
    fields = [*numbers, folder, *mounts, *argv, *(f"{k}={v}" for k, v in env.items())]
    body = b"\0".join(os.fsencode(field) for field in fields)
    return b"%d\n" % len(body) + body


class Spec:
    def __init__(self, body: bytes) -> None:
        fields = [os.fsdecode(field) for field in body.split(b"\0")]
        self.parent = int(fields[0])
        self.deadline_s = float(fields[1])
        self.grace_s = float(fields[2])
        mounts, words = int(fields[3]), int(fields[4])
        self.folder = fields[5]
        self.view = layers.steps(fields[6 : 6 + mounts])
        self.argv = fields[6 + mounts : 6 + mounts + words]
        self.env = dict(field.split("=", 1) for field in fields[6 + mounts + words :])


class Guard:
    def __init__(self, spec: Spec, pending: bytes) -> None:
        self.spec = spec
        self.pending = pending
        self.main = 0
        self.status: int | None = None
        self.ended_at = 0.0
        self.cause = ""
        self.kill_at = float("inf")

    def run(self) -> None:
        failed = self.start()
        if failed:
            stage, number = failed.decode().split()
            say(f'"event": "failed", "errno": {number}, "stage": "{stage}"')
            return
        say(f'"event": "started", "pid": {self.main}')
        self.watch()
        left = self.clear()
        assert self.status is not None
        signal = os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0
        code = 128 + signal if signal else os.WEXITSTATUS(self.status)
        core = int(os.WCOREDUMP(self.status))
        end = f'"event": "exited", "code": {code}, "signal": {signal}, "core": {core}, "cause": "{self.cause}", "left": {left}'
        say(end, self.ended_at)

    def start(self) -> bytes:
        """Forks and executes the trial. Returns b"", or the stage that failed and its errno."""
        guard = os.getpid()
        try:
            reader, writer = os.pipe()
            self.main = os.fork()
        except OSError as error:
            return f"fork {error.errno}".encode()
        if self.main == 0:
            become_trial(self.spec, guard, writer)
        os.close(writer)
        failed = b""
        while chunk := os.read(reader, 16):
            failed += chunk
        os.close(reader)
        if failed:
            os.waitpid(self.main, 0)
        return failed

    def watch(self) -> None:
        """Returns when the main process has ended; until then carries out deadlines, stop commands and katuna's death."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        ended = os.pidfd_open(self.main) if hasattr(os, "pidfd_open") else -1
        if ended >= 0:
            poll.register(ended, select.POLLIN)
        deadline = time.monotonic() + self.spec.deadline_s if self.spec.deadline_s else float("inf")
        # A command may have come along with the Spec.
        self.carry_out()
        while self.status is None:
            now = time.monotonic()
            wait_s = min(LOOK_S if ended >= 0 else 0.05, max(0.0, min(deadline, self.kill_at) - now))
            ready = [fd for fd, _ in poll.poll(int(wait_s * 1000) + 1)]
            self.reap()
            if self.status is not None:
                break
            if 0 in ready and not self.obey():
                poll.unregister(0)
            if not self.has_katuna():
                self.end("orphaned", ORPHAN_GRACE_S)
            if time.monotonic() >= deadline:
                deadline = float("inf")
                self.end("deadline", self.spec.grace_s)
            if time.monotonic() >= self.kill_at:
                self.signal_all(SIGKILL)
                self.kill_at = time.monotonic() + AGAIN_S

    def has_katuna(self) -> bool:
        return os.getppid() == self.spec.parent

    def obey(self) -> bool:
        """Reads commands; False at the end of file, which means that katuna is gone."""
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        if not data:
            self.end("orphaned", ORPHAN_GRACE_S)
            return False
        self.pending += data
        self.carry_out()
        return True

    def carry_out(self) -> None:
        *commands, self.pending = self.pending.split(b"\n")
        for command in commands:
            self.end("stop", float(command.split()[1]))

    def end(self, cause: str, grace_s: float) -> None:
        """Asks the trial's group to end, once, and kills everything after the grace period. A later call can only hasten that."""
        kill_at = time.monotonic() + grace_s
        if not self.cause:
            self.cause = cause
            send(os.killpg, self.main, SIGTERM)
        self.kill_at = min(self.kill_at, kill_at)

    def clear(self) -> int:
        """Ends what outlived the main process and returns, once nothing is left, how many those were."""
        settled = time.monotonic() + (0 if self.cause else SETTLE_S)
        while self.reap() and time.monotonic() < settled:
            time.sleep(AGAIN_S)
        left = self.signal_all(SIGTERM) if self.remain() else 0
        kill_at = min(self.kill_at, time.monotonic() + LEFTOVER_GRACE_S)
        while self.remain():
            if time.monotonic() >= kill_at:
                self.signal_all(SIGKILL)
            time.sleep(AGAIN_S)
        return left

    def remain(self) -> bool:
        """Whether any process of the trial is left. Without a subreaper only those in its process group are known."""
        if self.reap():
            return True
        return not LINUX and send(os.killpg, self.main, 0)

    def reap(self) -> bool:
        """Collects ended children; False when there is none left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == self.main:
                    self.status = status
                    self.ended_at = time.time()
                if pid == 0:
                    return True
        except ChildProcessError:
            return False

    def signal_all(self, number: int) -> int:
        """Sends a signal to every descendant. Returns how many there were."""
        found = descendants(os.getpid()) if LINUX else []
        for pid in found:
            send(os.kill, pid, number)
        return len(found) if LINUX else int(send(os.killpg, self.main, number))


def send(kill: Callable[[int, int], None], target: int, number: int) -> bool:
    """Whether there was a process to signal."""
    try:
        kill(target, number)
    except OSError:
        return False
    return True


def become_trial(spec: Spec, guard: int, writer: int) -> None:
    """The child's way from fork to exec; never returns."""
    stage = "exec"
    try:
        stand_alone(guard)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        stage = "files"
        see_files(spec)
        stage = "chdir"
        os.chdir(spec.folder)
        stage = "exec"
        os.execvpe(spec.argv[0], spec.argv, spec.env)  # noqa: S606
    except OSError as error:
        os.write(writer, f"{stage} {error.errno}".encode())
    finally:
        os._exit(127)


def see_files(spec: Spec) -> None:
    if spec.view:
        layers.enter(spec.view)


def stand_alone(guard: int) -> None:
    """For the child: a session of its own, signals as a program expects them, and no life beyond its guard's."""
    os.setsid()
    if LINUX:
        # Should the guard itself be killed, the main process at least goes with it.
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if os.getppid() != guard:
            os._exit(1)
    for number in (SIGHUP, SIGINT, SIGTERM, SIGPIPE, SIGXFSZ):
        libc.signal(number, SIG_DFL)


def descendants(ancestor: int) -> list[int]:
    """The processes below `ancestor`, from /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    below: list[int] = []
    generation = children.get(ancestor, [])
    while generation:
        below += generation
        generation = [child for pid in generation for child in children.get(pid, [])]
    return below


def say(fields: str, at: float = 0.0) -> None:
    try:
        os.write(0, f'{{"at": {at or time.time():.6f}, {fields}}}\n'.encode())
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET):
            raise


def receive() -> tuple[bytes, bytes] | None:
    """The body of the Spec and what came behind it; None when katuna died before it had sent all."""
    data, size = b"", -1
    while size < 0 or len(data) < size:
        chunk = os.read(0, 65536)
        if not chunk:
            return None
        data += chunk
        if size < 0 and b"\n" in data:
            head, _, data = data.partition(b"\n")
            size = int(head)
    return data[:size], data[size:]


def stay() -> None:
    """For the guard: it outlives what ends others, and whatever the trial leaves behind becomes its child."""
    for number in (SIGHUP, SIGINT, SIGTERM):
        libc.signal(number, SIG_IGN)
    if LINUX:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> None:
    for held in sys.argv[3:]:
        os.set_inheritable(int(held), False)
    stay()
    received = receive()
    if received:
        body, pending = received
        Guard(Spec(body), pending).run()
