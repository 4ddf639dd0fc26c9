"""How results are printed: tables, JSON, YAML, names; and nothing that a trial or a file said reaches a terminal unescaped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from katuna.text import printable, shorten

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("table", "json", "yaml", "name")


def format_option(*more: str) -> Callable[[Command], Command]:
    """`-o table|json|yaml|name` and whatever the verb adds."""
    return click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice([*FORMATS, *more]),
        default="table",
        show_default=True,
        help="How to print it.",
    )


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # JSON lets more stand in strings than a terminal should be sent; all of it has an escape in JSON.
    click.echo("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


def yaml_text(value: Any) -> str:
    from katuna.manifest.dump import to_yaml

    return to_yaml(value)


def print_objects(output: str, value: Any, names: Sequence[str]) -> None:
    """The machine formats: the value as JSON or YAML, or the names, one a line."""
    if output == "json":
        print_json(value)
    elif output == "yaml":
        click.echo(yaml_text(value), nl=False)
    else:
        for name in names:
            click.echo(printable(name))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Columns padded to their widest cell; as wide as it must be when piped, cut to the window on a terminal."""
    cells = [list(headings), *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    limit = _window() if sys.stdout.isatty() else None
    for row in cells:
        line = "  ".join(
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ).rstrip()
        click.echo(shorten(line, limit) if limit else line)


def _window() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def figure(value: float | None) -> str:
    """A number for people: six significant digits."""
    return "" if value is None else f"{value:.6g}"


def duration(seconds: float | None) -> str:
    """4.2s, 3m05s, 2h10m, 4d3h."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m"
    return f"{hours // 24}d{hours % 24}h"
