"""Files of its own for one process and all that it starts: the mounts of a view, made in a mount namespace of their own (Linux).

A view is a list of steps, plain texts, so that it can travel to the process that makes it:

    own TARGET SOURCE                     SOURCE is seen at TARGET: an empty /tmp, for one
    layer TARGET UPPER INNER LOWER...     an overlay at TARGET: reads come from UPPER, then from each LOWER, writes go to UPPER
    keep PATH                             what lies at PATH is seen there still, whatever the steps before have put over it
    net PLACE                             the network is that of another process, whose /proc/PID/ns PLACE is
    lone                                  there is a network with `lo` alone, made for this process

INNER is an empty folder on the file system of UPPER, which the kernel needs. A LOWER may not lie below another folder of its step.
Where the process is not root it makes a user namespace too, in which it stays the user that it was. The guard of a trial imports
this file, so it imports next to nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Step = tuple[str, ...]

SEPARATOR = ""
"""Between steps, where a view is one flat list of words: no path is empty."""

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
CAPABILITY_VERSION = 0x20080522
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
MOUNTS = ("own", "layer", "keep")


def flat(view: Sequence[Step]) -> list[str]:
    """A view as words; `steps` is the inverse."""
    return [word for step in view for word in (*step, SEPARATOR)]


def steps(words: Sequence[str]) -> list[Step]:
    found: list[Step] = []
    current: list[str] = []
    for word in words:
        if word == SEPARATOR:
            found.append(tuple(current))
            current = []
        else:
            current.append(word)
    return found


def trees(view: Sequence[Step], path: str) -> Iterator[str]:
    """Every place in which a process with this view would look for `path`, an absolute path, the first one first."""
    around = [step for step in view if step[0] in MOUNTS[1:] and (path == step[1] or path.startswith(step[1] + "/"))]
    step = max(around, key=lambda each: len(each[1]), default=("keep", path))
    for tree in (step[2], *step[4:]) if step[0] == "layer" else step[1:2]:
        yield tree + path[len(step[1]) :]


def enter(view: Sequence[Step]) -> bool:
    """Makes the view this process's own. Only for a process with one thread. Raises OSError, whose `filename` says at which step.

    Whether it needed a user namespace, in which files of other users and groups cannot be written to through a layer (EOVERFLOW)."""
    with_user = any(_join(step[1]) for step in view if step[0] == "net")
    mounts = [step for step in view if step[0] in MOUNTS]
    is_lone = ("lone",) in view
    if mounts or is_lone:
        with_user |= _unshare((CLONE_NEWNS if mounts else 0) | (CLONE_NEWNET if is_lone else 0), has_all=with_user)
    # Each place is opened before a mount can hide it.
    held = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for step in mounts for path in _opened(step)}
    try:
        if mounts:
            _mount("none", "/", None, MS_REC | MS_SLAVE)
        for step in mounts:
            _make(step, held)
    finally:
        for fd in held.values():
            os.close(fd)
    if is_lone:
        _bring_up("lo")
    if with_user:
        _drop_capabilities()
    return with_user


def _join(place: str) -> bool:
    """Enters the network of a process. Whether its user namespace, another one than ours, had to be entered too."""
    user, net = (os.open(f"{place}/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("user", "net"))
    try:
        is_other = os.fstat(user).st_ino != os.stat("/proc/self/ns/user").st_ino  # noqa: PTH116
        if (is_other and _libc().setns(user, CLONE_NEWUSER)) or _libc().setns(net, CLONE_NEWNET):
            raise _error("the job's network")
    finally:
        os.close(user)
        os.close(net)
    return is_other


def _bring_up(name: str) -> None:
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sH14x", name.encode(), 0)
        _, flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | IFF_UP))


def _unshare(what: int, *, has_all: bool) -> bool:
    """Whether a user namespace was needed too; `has_all` for a process that has every capability in its own already."""
    if (has_all or os.geteuid() == 0) and _libc().unshare(what) == 0:
        return False
    uid, gid = os.geteuid(), os.getegid()
    if _libc().unshare(what | CLONE_NEWUSER):
        raise _error("a network namespace" if what & CLONE_NEWNET else "a mount namespace")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, text.encode())
        os.close(fd)
    return True


def _opened(step: Step) -> Sequence[str]:
    return {"own": step[2:], "layer": step[2:], "keep": step[1:2]}[step[0]]


def _make(step: Step, held: dict[str, int]) -> None:
    kind, target = step[:2]
    places = [f"/proc/self/fd/{held[path]}" for path in _opened(step)]
    _make_point(target, is_folder=os.path.isdir(places[0]))  # noqa: PTH112
    if kind == "layer":
        upper, inner, *lowers = places
        options = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={inner}"
        # An ordinary user may keep the attributes of an overlay in `user.` alone, and rename no folder of a lower one.
        more = ",redirect_dir=on,index=off" if os.geteuid() == 0 else ",userxattr"
        try:
            _mount("overlay", target, "overlay", 0, options + more)
        except OSError:
            # Root of a user namespace is an ordinary user to it, and an old kernel knows not all of these.
            _mount("overlay", target, "overlay", 0, options + ",userxattr")
    else:
        _mount(places[0], target, None, MS_BIND | MS_REC)


def _make_point(target: str, *, is_folder: bool) -> None:
    """What a mount needs at its place; it is missing below a new /tmp alone."""
    if os.path.lexists(target):
        return
    os.makedirs(target if is_folder else os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
    if not is_folder:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    if _libc().mount(*words, ctypes.c_ulong(flags), None if options is None else os.fsencode(options)):
        raise _error(target)


def _drop_capabilities() -> None:
    """What the user namespace gave goes: an ordinary user's program may not read a file that is closed to him."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    if _libc().capset(header, (ctypes.c_uint32 * 6)()):
        raise _error("capabilities")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    # Tries a view, for whoever has to know before anything runs: `python -I -S layers.py WORD...`. It is kept, for others to join, until
    # the standard input ends.
    try:
        is_user = enter(steps(sys.argv[1:]))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    os.write(1, b"ready, for one user" if is_user else b"ready")
    os.read(0, 1)
