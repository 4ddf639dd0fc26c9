"""`katuna lint`: what is wrong with files, before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from katuna.cli import findings as shown
from katuna.cli.output import FORMATS, format_option, print_json, print_objects, say
from katuna.errors import EVERYWHERE, Finding
from katuna.text import printable


@click.command("lint")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--on",
    "engine",
    type=click.Choice([*EVERYWHERE, "all"]),
    default="all",
    show_default=True,
    help="Whom the files are for: Katib, katuna on a cluster, katuna on this machine.",
)
@click.option(
    "--pass-env", "pass_env", multiple=True, metavar="NAME", help="A variable that `tune --pass-env` will give to trials."
)
@format_option("sarif", "github")
def command(files: tuple[Path, ...], engine: str, pass_env: tuple[str, ...], output: str) -> None:
    """Check Experiments, ConfigMaps, Jobs and PyTorchJobs; `-` is standard input, a folder all *.yaml and *.yml in it.

    Prints every finding of all files together, each with its place, code and field path; docs/lint.md lists the codes. Exit code 1
    when there is an error on the engine asked for, 2 when a file cannot be read.
    """
    from katuna.lint.load import lint
    from katuna.manifest.sources import read_manifests

    sources, unread = read_manifests(files)
    every = [*unread, *(lint(sources, pass_env=pass_env, folder=Path()) if sources else ())]
    findings = [finding for finding in every if engine in (*finding.on, "all")]
    wrong = list(dict.fromkeys(finding.file for finding in findings if finding.level == "error"))
    if output in FORMATS and output != "table":
        objects = shown.objects(findings)
        if output == "yaml":
            # JSON has an escape for what a hostile name may hold; YAML's writer sends marks that turn the direction as they are.
            objects = [{**each, "file": printable(each["file"])} for each in objects]
        print_objects(output, objects, wrong)
    else:
        _print(findings, output, len(sources) + len(unread))
    if unread:
        sys.exit(2)
    if wrong:
        sys.exit(1)


def _print(findings: list[Finding], output: str, files: int) -> None:
    if output == "sarif":
        from importlib.metadata import version

        print_json(shown.sarif(findings, version("katuna")))
        return
    for line in shown.github(findings) if output == "github" else shown.lines(findings):
        say(line)
    say(shown.summary(findings, files), err=True)
