"""`katuna code`: the files that a run keeps; and what `tune`, `train`, `resume` and `show` say of them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from katuna.cli.options import run_argument
from katuna.cli.output import print_facts, print_json, print_table, put, say, told
from katuna.errors import InputRefused, KatunaError, RunNotFound
from katuna.text import counted, printable

if TYPE_CHECKING:
    from katuna.runs.code import Code
    from katuna.runs.run import Run
    from katuna.runs.rundir import RunDir

_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


@click.command("code")
@run_argument()
@click.argument("file", required=False)
@click.option("--diff", is_flag=True, help="Print how today's files differ from the kept ones, as a unified diff.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print the list."
)
def command(run: str | None, file: str | None, diff: bool, output: str) -> None:
    """Show the code of a run: the text files that were kept when it began, which its processes read whatever is edited since.

    Without RUN that of the latest run; with FILE what one file held.

    \b
    katuna code                      which files, how large, of which commit
    katuna code digits-tpe train.py  what train.py held
    katuna code --diff               what has been edited since
    """
    if output == "json" and (file or diff):
        raise InputRefused("-o json prints the list of files; leave out FILE and --diff, or the option")
    from katuna.runs.run import opened

    found = opened(_find(run, file))
    kept = _kept(found)
    name = None if file is None else _name(kept, file, found.name)
    if diff:
        for piece in _diff(found, kept, name):
            _print(piece)
    elif name is not None:
        from katuna.runs.code import content

        _print(content(found.folder, kept.files[name]))
    elif output == "json":
        from katuna.runs.code import as_json

        print_json(as_json(kept))
    else:
        _print_list(found.name, kept)


def _find(run: str | None, file: str | None) -> RunDir:
    from katuna.runs.rundir import find

    try:
        return find(run)
    except RunNotFound as error:
        if run is None or file is not None or not (Path(run).suffix or Path(run).exists()):
            raise
        raise RunNotFound(f"{error}. A file goes after the name of its run: `katuna code RUN {run}`") from error


def _kept(run: Run) -> Code:
    if run.code is not None:
        return run.code
    why = run.why_no_code or "it was made by a katuna that kept none"
    raise KatunaError(f"{run.name} keeps no code: {why}")


def _name(kept: Code, file: str, run: str) -> str:
    """What the kept code calls a file, given so or by a path. Raises InputRefused."""
    if file in kept.files:
        return file
    path = os.path.abspath(file)  # noqa: PTH100
    for root in kept.roots:
        inside = path.removeprefix(root.path.rstrip("/") + "/")
        for name, each in kept.files.items():
            if each.path == inside and each in root.files:
                return name
    from difflib import get_close_matches

    close = get_close_matches(file, kept.files, 1)
    hint = f"did you mean {close[0]}?" if close else f"`katuna code {run}` lists them"
    raise InputRefused(f"{file!r} is no file of the code that {run} keeps; {hint}")


def _print_list(run: str, kept: Code) -> None:
    dirty = {True: " (dirty)", False: " (clean)", None: ""}[kept.dirty]
    facts = [("Run", run), ("Digest", kept.digest), ("Commit", kept.commit + dirty if kept.commit else "none")]
    facts += [
        ("Folder", f"{root.path}  {counted(len(root.files), 'file')}, {sum(each.bytes for each in root.files):,} bytes")
        for root in kept.roots
    ]
    print_facts(facts)
    say()
    print_table(("BYTES", "FILE"), [[str(each.bytes), name] for name, each in kept.files.items()], right=("BYTES",))


def _print(data: bytes) -> None:
    """As it is, but for a terminal, which gets nothing that it would obey."""
    if sys.stdout.isatty():
        say(data.decode("utf-8", "replace"), newlines=True, nl=False)
    else:
        put(data)


def _diff(run: Run, kept: Code, only: str | None) -> Iterator[bytes]:
    from katuna.runs.code import content, differences
    from katuna.runs.snapshot import todays

    today = todays(run.options.local, run.path.parent, run.options.secrets)
    found = [each.path for each in differences(kept, today) if only in (None, each.path)]
    if not found:
        yield b"no file differs\n"
    for name in found:
        old, new = kept.files.get(name), today.files.get(name)
        if old and new and old.mode != new.mode:
            yield f"mode of {printable(name)}: {old.mode:o}, now {new.mode:o}\n".encode()
        before = content(run.folder, old) if old else b""
        after = today.contents[new.sha256] if new else b""
        yield from _unified(before, after, f"kept/{name}" if old else os.devnull, f"today/{name}" if new else os.devnull)


def _unified(before: bytes, after: bytes, old: str, new: str) -> Iterator[bytes]:
    from difflib import diff_bytes, unified_diff

    from_name, to_name = printable(old).encode(), printable(new).encode()
    for line in diff_bytes(unified_diff, _LINE.findall(before), _LINE.findall(after), from_name, to_name):
        yield line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"


# What other verbs say


def code_facts(run: Run) -> list[tuple[str, str]]:
    """What `show` has a line for: `1a2b3c4d5e6f  commit 0123abc (dirty)`; nothing for a run that is older than that."""
    if run.why_no_code:
        return [("Code", f"not kept: {run.why_no_code}")]
    if not run.code_digest:
        return []
    short = run.code_digest[:12]
    try:
        code = run.code
    except InputRefused as error:
        return [("Code", f"{short}  damaged: {error}")]
    assert code is not None
    commit = f"  commit {code.commit[:7]}" if code.commit else ""
    return [("Code", short + commit + (" (dirty)" if code.dirty else ""))]


def say_missing(run: Run) -> None:
    """One line on stderr, where a run goes on without kept code."""
    if run.why_no_code:
        say(f"the code of this run is not kept, so edits reach trials that start later: {run.why_no_code}", err=True)


def code_before(folder: RunDir) -> Code | None:
    """The code of a run that is to take today's; None where it is not kept, or damaged."""
    from katuna.runs.run import opened

    try:
        return opened(folder).code
    except InputRefused:
        return None


def say_changes(before: Code | None, run: Run) -> None:
    """How the code that a run has taken now differs from what it had, on stderr."""
    from katuna.runs.code import differences

    now = run.code
    assert now is not None, "asked for only where code was taken"
    if before is None:
        lines = [f"code: {counted(len(now.files), 'file')} are kept from now on"]
    elif found := differences(before, now):
        lines = [f"code: {counted(len(found), 'file')} {'differs' if len(found) == 1 else 'differ'} from what the run had"]
        lines += [f"  {line}" for line in told([f"{each.what.ljust(8)} {each.path}" for each in found])]
    else:
        lines = ["code: no file differs; the run goes on with what it had"]
    for line in lines:
        say(line, err=True)
