"""How long `katuna lint` takes beyond Python's own start, for one file and for twenty: `python benchmarks/lint.py [n]`."""

from __future__ import annotations

import statistics
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from sidebyside import in_turn, machine, show

LIMITS_S = {"katuna lint, 1 file": 0.3, "katuna lint, 20 files": 1.0}
BASE = "python -c pass"


def main(n: int) -> None:
    lint = [sys.executable, "-m", "katuna", "lint", "-o", "name"]
    files = sorted(map(str, Path("katib").glob("*.yaml")))
    twenty = sorted(islice(cycle(files), 20)) if len(files) < 20 else files[:20]
    commands = {
        BASE: [sys.executable, "-c", "pass"],
        "katuna lint, 1 file": [*lint, "katib/digits-tpe.yaml"],
        "katuna lint, 20 files": [*lint, *twenty],
    }
    with tempfile.TemporaryDirectory() as folder:
        # As installed: with byte code, whatever the caller's shell says; the first turn, which does not count, writes it.
        written = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        taken = in_turn(commands, n, dict.fromkeys(commands, written))
    print(f"n = {n} each, in turn; {machine('katuna', 'click', 'PyYAML')}")
    show(taken, BASE)
    for name, limit in LIMITS_S.items():
        beyond = [one - base for one, base in zip(taken[name], taken[BASE], strict=True)]
        low, high = min(beyond), max(beyond)
        print(
            f"{name}: {statistics.median(beyond):.3f} s beyond Python's start ({low:.3f} to {high:.3f}); the limit is {limit:g} s"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
