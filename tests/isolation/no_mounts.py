"""`python no_mounts.py COMMAND...` executes the command where the kernel refuses to mount anything and to make a namespace, as in many a
container: a filter of system calls answers EPERM."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER_AT, ARCHITECTURE_AT = 0, 4
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1

NEW_MOUNTS = {"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "mount_setattr": 442}
"""The same everywhere."""
CALLS = {
    "x86_64": (0xC000003E, {"mount": 165, "unshare": 272, "setns": 308, **NEW_MOUNTS}),
    "aarch64": (0xC00000B7, {"mount": 40, "unshare": 97, "setns": 268, **NEW_MOUNTS}),
}


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def refuse_mounts() -> None:
    """For this process and all that it starts. Raises OSError where the kernel has no such filters."""
    architecture, calls = CALLS[platform.machine()]
    numbers = [*calls.values()]
    steps = [(LOAD, 0, 0, ARCHITECTURE_AT), (JUMP_IF_EQUAL, 0, len(numbers) + 1, architecture), (LOAD, 0, 0, NUMBER_AT)]
    steps += [(JUMP_IF_EQUAL, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = Program(len(steps), ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse_mounts()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
