"""The process that holds torch's stores for the jobs of a run, so that they listen on the loopback address alone: torch itself has no
address to give for the store that it opens. Run as `python -I storehost.py FD`; FD is a socket to katuna, at which comes

    NAME with a listening socket    a store that serves it
    NAME alone                      the end of that store

All ends with the other end of FD.
"""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    from torch._C._distributed_c10d import TCPStore

    control = socket.socket(fileno=int(sys.argv[1]))
    stores: dict[bytes, TCPStore] = {}
    while True:
        name, fds, _, _ = socket.recv_fds(control, 64, 1)
        if not name:
            os._exit(0)
        stores.pop(name, None)
        for fd in fds:
            host, port = _at(fd)
            stores[name] = TCPStore(host, port, None, True, wait_for_workers=False, master_listen_fd=fd)


def _at(fd: int) -> tuple[str, int]:
    listening = socket.socket(fileno=fd)
    host, port = listening.getsockname()
    listening.detach()
    return host, port


if __name__ == "__main__":
    main()
