"""How long the command takes to answer, in units of an empty Python process: `python benchmarks/startup.py [n]`."""

from __future__ import annotations

import sys
from pathlib import Path

from sidebyside import in_turn, machine, show

LIMIT = 10.0


def main(n: int) -> None:
    katuna = str(Path(sys.executable).parent / "katuna")
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "katuna --help": [katuna, "--help"],
        "katuna tune --help": [katuna, "tune", "--help"],
        "completion of a verb": [katuna],
        "katuna lint FILE": [katuna, "lint", "katib/digits-tpe.yaml"],
    }
    words = {"_KATUNA_COMPLETE": "bash_complete", "COMP_WORDS": "katuna tr", "COMP_CWORD": "1"}
    taken = in_turn(commands, n, {"completion of a verb": words})
    print(f"n = {n} each, in turn; {machine('katuna', 'click', 'PyYAML')}; the limit for --help and completion is {LIMIT:g}")
    show(taken, "python -c pass")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 21)
