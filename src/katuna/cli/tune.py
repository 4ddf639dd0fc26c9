"""`katuna tune`: from a file to a winner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from katuna.cli.options import Duration, cluster_options, complete_run, local_options, run_options, search_options
from katuna.cli.output import say


def _complete_source(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [*complete_run(ctx, param, incomplete), CompletionItem(incomplete, type="file")]


@click.command("tune")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--experiment", "name", metavar="NAME", help="Which Experiment, where the files hold several.")
@click.option("--timeout", type=Duration(), metavar="2h", help="End the search after this time; running trials are stopped.")
@click.option("--seed", type=click.IntRange(0), help="Overrides the file's random_state; without either, a new one each time.")
@search_options
@click.option(
    "--warm-start",
    multiple=True,
    metavar="RUN|CSV",
    shell_complete=_complete_source,
    help="Begin with the results of another run, or of a table with a column for each parameter and the objective metric.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the size of the search, the defaulted Experiment and the first trials as rendered; run nothing.",
)
@click.option("-n", "count", type=click.IntRange(0), default=3, show_default=True, help="How many trials --dry-run renders.")
@local_options
@cluster_options
def command(
    files: tuple[Path, ...],
    name: str | None,
    timeout: float | None,
    seed: int | None,
    warm_start: tuple[str, ...],
    dry_run: bool,
    count: int,
    **options: Any,
) -> None:
    """Run the search of a Katib Experiment on this machine, or on a cluster with --on cluster.

    FILES are YAML: the Experiment, and a ConfigMap if its trial template is kept in one. The file is the one that a cluster
    takes. On this machine images are not pulled: their commands run as processes.
    """
    from katuna.cli.screen import say_findings
    from katuna.runs import conduct

    planned = conduct.plan(files, options=run_options(**options), name=name, seed=seed, warm_start=warm_start)
    say_findings(planned.findings)
    for line in planned.remarks:
        say(line, err=True)
    if dry_run:
        _print_plan(planned, count)
        return
    from katuna.cli.attend import attend
    from katuna.cli.screen import screen_for

    attend(lambda **how: conduct.start(planned, timeout_s=timeout, **how), screen_for)


def _print_plan(planned: Any, count: int) -> None:
    """Raises InputRefused, when all is printed, for what could not run here."""
    from katuna.cli.output import yaml_text
    from katuna.runs import conduct
    from katuna.runs.forecast import outlook, shortfall

    if planned.options.cluster is not None:
        from katuna.cli.sent import print_sent

        print_sent(planned, count)
        return
    trials = conduct.first_trials(planned, max(1, count))
    for fact, value in outlook(planned, trials[0][2] if trials else None).items():
        say(f"# {fact.ljust(14)}{value}")
    say(f"# {planned.experiment.name}, as Katib would default it")
    say(yaml_text(planned.experiment.manifest), newlines=True, nl=False)
    for number, (trial, point, manifest) in enumerate(trials[:count]):
        words = ", ".join(f"{key}={value}" for key, value in point.items())
        say("---")
        say(f"# trial {number}: {trial}: {words}")
        say(yaml_text(manifest), newlines=True, nl=False)
    if why := shortfall(planned, len(trials[:count]), count):
        say("---")
        say(f"# {why}")
    conduct.preflight(planned)
