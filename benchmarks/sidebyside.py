"""Times commands in turn (A, B, C, A, B, C, ...), so that a machine whose speed drifts favours none of them."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version


def in_turn(
    commands: Mapping[str, Sequence[str]], n: int, env: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, list[float]]:
    """Seconds that each command took, `n` times each, after one warm-up; raises CalledProcessError when one fails."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(n + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(
                command,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **(env or {}).get(name, {})},
            )
            if turn:
                taken[name].append(time.perf_counter() - began)
    return taken


def show(taken: Mapping[str, Sequence[float]], base: str) -> None:
    """A row a command: its median with the quartiles, and the median of its ratios to `base` turn by turn."""
    print(f"{'':24} {'median ms':>10} {'quartiles':>16} {'ratio':>7}")
    for name, seconds in taken.items():
        low, middle, high = (1000 * value for value in statistics.quantiles(seconds, n=4))
        ratio = statistics.median(one / other for one, other in zip(seconds, taken[base], strict=True))
        print(f"{name:24} {middle:10.1f} {f'{low:.1f} to {high:.1f}':>16} {ratio:7.2f}")


def machine(*packages: str) -> str:
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"Python {platform.python_version()}, {versions}; {os.cpu_count()} CPUs, {sys.platform}"
