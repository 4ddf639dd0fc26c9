"""The command line: which verbs there are. Each verb is a module of its own, imported when it is used and not before."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from katuna.cli.output import put, say
from katuna.errors import KatunaError
from katuna.text import counted

VERBS = {
    "tune": "Run the search of an Experiment file, here or on a cluster.",
    "train": "Run a PyTorchJob, TrainJob or Job file, here or on a cluster, all replicas.",
    "lint": "Check manifests without running anything.",
    "smoke": "Run short trials at the corners of the space; say which crash or print no metric.",
    "ls": "List the runs.",
    "show": "Show a run; -o json prints Katib's Experiment, or the job, with its status.",
    "trials": "List the trials of a run; -o json prints Katib's Trials.",
    "logs": "Print what trials or replicas printed; -f follows.",
    "best": "Show the best trial; -o command prints how to train it again.",
    "code": "Show the code that a run keeps; --diff compares it with today's files.",
    "stop": "End a running search or job; it can be resumed.",
    "resume": "Go on with a search or job that was stopped or killed.",
    "rm": "Remove a run and everything in it.",
    "export": "Write the trials as csv, parquet, json or an Optuna study.",
    "report": "Write a run as one self-contained HTML page.",
    "doctor": "Check what this machine, or a cluster, has of what runs need.",
    "completion": "Print the shell code that completes katuna's words.",
}


class _Verbs(click.Group):
    """Lists the verbs from the table above and imports one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"katuna.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            put(b"")
        except BrokenPipeError:
            # Whoever read our output has left (`katuna trials | head`): as SIGPIPE would have it, and click would call it 1.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(141) from None
        return result

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], VERBS, 1)
            ctx.fail(
                f"no such command {args[0]!r}"
                + (f"; did you mean `katuna {close[0]}`?" if close else "; `katuna --help` lists them")
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="katuna", message="katuna %(version)s")
def katuna() -> None:
    """Run Katib Experiments and PyTorchJobs on this machine, from the very file that a Kubeflow cluster takes.

    \b
    katuna tune katib/digits-tpe.yaml     search; watch it; Ctrl-C pauses it
    katuna resume                         go on where it stopped
    katuna best -o command                the command line that trains the winner again
    katuna report                         the whole search as one HTML page
    katuna train training_jobs/digits.yaml   one training, without a search
    """


def run(argv: Sequence[str] | None) -> None:
    """Errors of ours become one message on stderr and an exit code, never a traceback."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    try:
        code = katuna.main(args=None if argv is None else list(argv), prog_name="katuna", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue(), err=True, newlines=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted", err=True)
        sys.exit(130)
    except KatunaError as error:
        _say(str(error), error)
        sys.exit(error.exit_code)
    except OSError as error:
        say(f"error: {error.filename or _nameless(error)}: {error.strerror or error}", err=True)
        # Python would try to write the rest of the output once more when it ends, and complain.
        os._exit(1)


def _nameless(error: OSError) -> str:
    """What an error of the system is about that names no file."""
    try:
        Path.cwd()
    except OSError:
        return "the folder that you are in (cd to one that is there)"
    *_, last = traceback.extract_tb(error.__traceback__)
    if last.filename == click.utils.__file__:  # click prints help and versions itself
        return "output"
    return f"unexpected, at {Path(last.filename).name}:{last.lineno} in {last.name}"


def _say(message: str, error: KatunaError) -> None:
    from katuna.errors import Interrupted, SpecRefused

    if isinstance(error, SpecRefused):
        # What is an error here may be a warning elsewhere; one of the two is enough.
        said = {(each.file, each.line, each.column, each.message) for each in error.findings if each.level == "error"}
        for finding in error.findings:
            if finding.level == "error" or (finding.file, finding.line, finding.column, finding.message) not in said:
                say(str(finding), err=True)
        errors = sum(finding.level == "error" for finding in error.findings)
        say(f"{counted(errors, 'error')}; nothing was started", err=True)
    else:
        prefix = "" if isinstance(error, Interrupted) else "error: "
        say(prefix + message, err=True, newlines=True)
