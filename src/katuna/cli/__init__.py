"""The entry point. It imports nothing before an interruption has an answer other than a traceback."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command line, by default this process's, and exits."""
    try:
        from katuna.cli.verbs import run

        run(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
