"""`katuna show`: one run as a whole."""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from katuna.cli.options import run_argument
from katuna.cli.output import duration, figure, format_option, print_objects
from katuna.text import printable


@click.command("show")
@run_argument()
@format_option()
def command(run: str | None, output: str) -> None:
    """Show a run; without RUN the latest. json and yaml print the Experiment with its status, in Katib's own shape."""
    from katuna.run import Run
    from katuna.status import katib_experiment
    from katuna.store.rundir import find

    found = Run(find(run))
    if output != "table":
        print_objects(output, katib_experiment(found.experiment, found.search), [found.name])
        return
    for name, value in _facts(found):
        click.echo(f"{name.ljust(11)}{printable(value)}")


def _facts(run: Any) -> list[tuple[str, str]]:
    from katuna.cli.screen import assignments, tally

    experiment, search = run.experiment, run.search
    objective, best, ended = experiment.objective, search.best, search.ended
    goal = "" if objective.goal is None else f", goal {objective.goal:g}"
    facts = [
        ("Run", run.name),
        ("State", run.state + (f": {ended.message}" if ended else "")),
        ("Objective", f"{objective.type.value} {objective.metric} ({objective.strategy}{goal})"),
        ("Algorithm", " ".join([experiment.algorithm, *(f"{name}={value}" for name, value in experiment.settings.items())])),
        ("Seed", str(run.opened.seed)),
        ("Trials", f"{tally(search)}; {len(search.unfinished)} unfinished; limit {experiment.max_trials or 'none'}"),
    ]
    if experiment.early_stopping is not None:
        rule = experiment.early_stopping
        words = [rule.algorithm, *(f"{name}={value}" for name, value in rule.settings.items())]
        facts.insert(4, ("Stopping", " ".join(words)))
    if search.known:
        sources = Counter(known.source for known in search.known)
        facts.append(("Known", ", ".join(f"{count} results of {source}" for source, count in sources.items())))
    if run.options.overrides:
        facts.append(("Overrides", " ".join(run.options.overrides)))
    if search.budget:
        facts.append(("Edited", ", ".join(f"{name} {count}" for name, count in search.budget.items())))
    if best is not None:
        facts.append(("Best", f"{figure(best.value(objective))}  {best.name}  {assignments(best)}"))
    times = [event.at for event in run.events]
    facts += [("Took", duration(times[-1] - times[0])), ("Folder", str(run.path))]
    if run.state == "Interrupted":
        facts.append(("Next", f"katuna resume {run.name}"))
    return facts
