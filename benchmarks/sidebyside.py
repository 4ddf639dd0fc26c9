"""Times commands in turn (A, B, C, A, B, C, ...), so that a machine whose speed drifts favours none of them."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any


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


def program(name: str) -> Any:
    """A trainer of this repository, as a module."""
    place = Path(__file__).parents[1] / "trainers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# For the benchmarks that also speak JSON


@dataclass(frozen=True)
class Options:
    """`n` 0 is the benchmark's own choice."""

    n: int
    quick: bool
    json: bool


def options(doc: str | None) -> Options:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="?", default=0, help="measurements of each kind")
    parser.add_argument("--quick", action="store_true", help="few measurements")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object")
    return Options(**vars(parser.parse_args()))


def ratio(taken: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """The median of the ratios turn by turn."""
    return statistics.median(one / other for one, other in zip(taken[name], taken[base], strict=True))


def load() -> str:
    """How busy the machine was meanwhile, which tells what the figures are worth."""
    return f"load average {os.getloadavg()[1]:.1f} over 5 minutes"


def tell(
    given: Options,
    header: str,
    taken: Mapping[str, Sequence[float]],
    *,
    base: str,
    lines: Sequence[str],
    figures: Mapping[str, Any],
) -> None:
    """Seconds by name as a table with `lines` below it; or all as JSON, with `figures` beside the seconds."""
    if not given.json:
        print(header)
        show(taken, base)
        print(*lines, sep="\n")
        return
    ratios = {name: ratio(taken, name, base) for name in taken}
    print(json.dumps({"header": header, "seconds": taken, "base": base, "ratios": ratios, **figures}, indent=1))
