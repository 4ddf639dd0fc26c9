"""Ports of this machine: a free port, and the check of a port that a trial needs for itself."""

from __future__ import annotations

import socket

from katuna.errors import LaunchFailed

HOST = "127.0.0.1"
LOOK_S = 1.0


def free_port() -> int:
    """A port that was free a moment ago; the job's own rendezvous takes it. Raises LaunchFailed when there is none."""
    with bound(HOST) as probe:
        return int(probe.getsockname()[1])


def bound(host: str) -> socket.socket:
    """A socket at a free port. Raises LaunchFailed when there is none."""
    made = socket.socket()
    try:
        made.bind((host, 0))
    except OSError as error:
        made.close()
        raise LaunchFailed(
            f"no free port at {host} for the replicas to meet at ({error.strerror}); end what holds them, or wait a minute"
        ) from error
    return made


def check_unused(port: int) -> None:
    """Raises LaunchFailed when a process answers at the port: its metrics would be taken for the trial's."""
    try:
        with socket.create_connection((HOST, port), LOOK_S):
            pass
    except OSError:
        return
    raise LaunchFailed(
        f"another process has port {port} of this machine, where the trial is to serve its metrics; end that process, or write "
        "another port in metricsCollectorSpec.source.httpGet.port and give it to the trainer"
    )
