"""`katuna lint`: what is wrong with a file, before anything runs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from katuna.cli.output import format_option, print_objects
from katuna.text import printable


@click.command("lint")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--pass-env", "pass_env", multiple=True, metavar="NAME", help="A variable that `tune --pass-env` will give to trials."
)
@format_option()
def command(files: tuple[Path, ...], pass_env: tuple[str, ...], output: str) -> None:
    """Check Experiments, ConfigMaps and training jobs for a run on this machine.

    Prints every finding of all files together, each with its place and field path. Exit code 1 when there are errors.
    """
    from katuna.run import read_sources
    from katuna.spec.load import lint

    findings = lint(read_sources(files), pass_env=pass_env)
    errors = [finding for finding in findings if finding.level == "error"]
    if output != "table":
        print_objects(output, [asdict(finding) for finding in findings], list(dict.fromkeys(finding.file for finding in errors)))
    else:
        for finding in findings:
            click.echo(printable(str(finding)))
        click.echo(_summary(len(files), len(errors), len(findings) - len(errors)), err=True)
    if errors:
        sys.exit(1)


def _summary(files: int, errors: int, others: int) -> str:
    counted = f"{files} file{'s' if files != 1 else ''}"
    if errors:
        return f"{counted}: {errors} error{'s' if errors != 1 else ''}"
    return f"{counted}: no errors" + (f", {others} remark{'s' if others != 1 else ''}" if others else "")
