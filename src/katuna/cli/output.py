"""How results are printed: tables, JSON, YAML, names; and nothing that a trial or a file said reaches a terminal unescaped."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
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


def say(text: str = "", *, err: bool = False, newlines: bool = False, nl: bool = True) -> None:
    """Prints one line on stdout, or stderr with `err`: the one way of a verb to print, without anything that a terminal would obey.
    `newlines` lets line feeds and tabs of the text stand.

    Raises OSError, with `output` for its file name, where stdout takes no more. A stderr that takes no more ends nothing: what a
    verb does is worth more than a remark on it.
    """
    if not err:
        with _output():
            click.echo(printable(text, newlines=newlines), nl=nl)
        return
    try:
        click.echo(printable(text, newlines=newlines), err=True, nl=nl)
    except OSError:
        silence(sys.stderr.fileno())


def put(data: bytes) -> None:
    """On stdout as it is, for other programs. Raises OSError as `say` does."""
    with _output():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)


def say_path(path: Path) -> None:
    """A path in a line of its own: for other programs with the bytes that it has, be they UTF-8 or not, but with nothing in it that a
    terminal would obey, which a program may pass on. Raises OSError as `say` does."""
    decoded = str(path).encode("utf-8", "ignore").decode()
    if sys.stdout.isatty() or printable(decoded) != decoded:
        say(str(path))
    else:
        put(os.fsencode(path) + b"\n")


@contextlib.contextmanager
def _output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, "output") from error


def write_file(target: Path, content: bytes) -> None:
    """All of it or nothing, in the place of the file that is there. A link is followed; what is no file, a pipe or a device, is written
    to. Raises OSError."""
    from katuna.runs.journal import write_beside

    if target.exists() and not target.is_file():
        target.write_bytes(content)
    else:
        write_beside(Path(os.path.realpath(target)), content)


def heard(text: str, *, color: bool | None = None) -> bool:
    """Writes to stdout at once, as it is. False where that fails: what comes next is written to nobody, which is said on stderr, but
    for a reader who has left (`| head`)."""
    try:
        click.echo(text, nl=False, color=color)
        sys.stdout.flush()
    except OSError as error:
        nobody_reads(error, sys.stdout.fileno())
        return False
    return True


def nobody_reads(error: OSError, file: int) -> None:
    silence(file)
    if not isinstance(error, BrokenPipeError):
        say(f"output: {error.strerror}; nothing more is shown, the run goes on and its folder has all", err=True)


def silence(file: int) -> None:
    """What is written to this descriptor from now on, or is still to be, goes nowhere: Python would fail with it once more at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), file)


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # JSON lets more stand in strings than a terminal should be sent; all of it has an escape in JSON.
    say("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text), newlines=True)


def yaml_text(value: Any) -> str:
    from katuna.manifest.dump import to_yaml

    return to_yaml(value)


def print_objects(output: str, value: Any, names: Sequence[str]) -> None:
    """The machine formats: the value as JSON or YAML, or the names, one a line."""
    if output == "json":
        print_json(value)
    elif output == "yaml":
        say(yaml_text(value), newlines=True, nl=False)
    else:
        for name in names:
            say(name)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Columns padded to their widest cell; as wide as it must be when piped, cut to the window on a terminal."""
    cells = [[printable(str(cell)) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    limit = _window() if sys.stdout.isatty() else None
    for row in cells:
        line = "  ".join(
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ).rstrip()
        say(shorten(line, limit) if limit else line)


def _window() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def figure(value: float | None) -> str:
    """A number for people: six significant digits."""
    return "" if value is None else f"{value:.6g}"


def print_facts(facts: Iterable[tuple[str, str]], width: int = 11) -> None:
    """Names and values in two columns, the first at least `width` wide."""
    listed = list(facts)
    width = max(width, *(len(name) + 2 for name, _ in listed))
    for name, value in listed:
        say(f"{name.ljust(width)}{value}".rstrip())


def told(lines: Sequence[str], most: int = 20) -> list[str]:
    """The first `most` lines, and how many more there are."""
    return [*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]
