"""`katuna show`: one run as a whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from katuna.cli.code import code_facts
from katuna.cli.files import left_lines, still_running
from katuna.cli.output import figure, format_option, print_facts, print_objects, print_table, say
from katuna.cli.replicas import how
from katuna.cli.targets import complete_target, resolve
from katuna.errors import RunNotFound
from katuna.runs.containers import NEVER, Container, containers
from katuna.search.trials import Started
from katuna.text import duration, printable

if TYPE_CHECKING:
    from katuna.manifest.job import Job
    from katuna.runs.run import Run, Training
    from katuna.search.trials import Trial


STARTS = "katuna/starts"
"""The annotation of a job's object that says how each container was last started; one, as names of pods are too long for keys."""


@click.command("show")
@click.argument("target", metavar="[RUN[/TRIAL]]", required=False, shell_complete=complete_target)
@format_option()
def command(target: str | None, output: str) -> None:
    """Show a run, or one trial of it; without RUN the latest run. json and yaml print the Experiment or Trial with its status in
    Katib's own shape, or the job with its status in the operator's.

    TRIAL is a name, a unique part of one, or a number. Of trials and jobs it says which files they left.
    """
    from katuna.report.katib_status import katib_experiment
    from katuna.runs.run import Training

    wanted = resolve(target)
    found = wanted.run
    if wanted.replica:
        raise RunNotFound(f"{target}: a replica is not shown by itself; `katuna logs {target}` prints what it printed")
    if isinstance(found, Training):
        _show_training(found, output)
        return
    if wanted.trial is not None:
        _show_trial(found, wanted.trial, output)
        return
    if output != "table":
        print_objects(output, katib_experiment(found.experiment, found.search), [found.name])
        return
    print_facts(_facts(found))


def _show_trial(run: Run, trial: Trial, output: str) -> None:
    from katuna.report.katib_status import katib_trial

    if output != "table":
        print_objects(output, katib_trial(run.experiment, trial), [trial.name])
        return
    objective = run.experiment.objective
    begun = [event for event in run.events if isinstance(event, Started) and event.number == trial.number]
    facts = {
        "Trial": f"{trial.number}, {trial.name}",
        "State": trial.state.value + (f": {trial.message or trial.reason}" if trial.message or trial.reason else ""),
        objective.metric: figure(trial.value(objective)),
        **trial.assignments,
        "Took": duration(trial.duration_s),
        "Started": how(begun[-1].process) if begun else "",
        "Files": str(begun[-1].process.get("files", "")) if begun else "",
        "Folder": str(run.folder.trial(trial.name)),
    }
    width = max(map(len, facts)) + 2
    left = [("Left", line) for line in left_lines(run.folder.trial(trial.name))]
    print_facts([*facts.items(), *left], width)
    known = containers(run.events, trial.number)
    if known:
        say()
        _print_replicas(
            run.job_of(trial), run.folder.trial(trial.name), known, runs=not trial.state.is_final and run.state == "Running"
        )


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
    facts += [*_cluster(run), *code_facts(run)]
    ways = dict.fromkeys(event.process.get("files", "") for event in run.events if isinstance(event, Started))
    facts += [("Files", ", ".join(ways))] if any(ways) else []
    if search.budget:
        facts.append(("Edited", ", ".join(f"{name} {count}" for name, count in search.budget.items())))
    if best is not None:
        facts.append(("Best", f"{figure(best.value(objective))}  {best.name}  {assignments(best)}"))
    times = [event.at for event in run.events]
    facts += [("Took", duration(times[-1] - times[0])), ("Folder", str(run.path))]
    facts += _processes(run)
    if run.state == "Interrupted":
        facts.append(("Next", f"katuna resume {run.folder.handle}"))
    return facts


def _processes(run: Run) -> list[tuple[str, str]]:
    """The processes that a killed katuna has left running, as a fact to print; an empty list without any."""
    from katuna.launch.leftovers import left_running

    left = [] if run.folder.holder() is not None else left_running(run.path)
    return [("Processes", still_running(left, run.folder.handle, run.state))] if left else []


def _cluster(run: Run) -> list[tuple[str, str]]:
    """Where a run on a cluster ran, and the label by which kubectl lists its objects; an empty list for a run on this machine."""
    from katuna.runs.on_cluster import run_label

    options = run.options.cluster
    if options is None:
        return []
    where = [f"context {options.context}"] if options.context else []
    where += [f"namespace {options.namespace}"] if options.namespace else []
    return [("Cluster", ", ".join([*where, f"label katuna/run={run_label(run.folder)}"]))]


def _show_training(run: Training, output: str) -> None:
    if output != "table":
        print_objects(output, {**_annotated(run), "status": run.status}, [run.name])
        return
    print_facts(_job_facts(run))
    say()
    _print_replicas(run.job, run.path, containers(run.events), runs=run.state == "Running")
    say()
    if lines := left_lines(run.path):
        say("\n".join(["LEFT", *map(printable, lines), ""]), newlines=True)
    conditions = [
        [each["type"], each["status"], each["reason"], each["lastTransitionTime"], each["message"]]
        for each in run.status["conditions"]
    ]
    print_table(("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"), conditions)


def _annotated(run: Training) -> dict[str, Any]:
    """The job as it ran, with STARTS: `{"POD/CONTAINER": "warm", ...}` as JSON."""
    from katuna.cli.replicas import logs_of

    known = containers(run.events)
    last = {f"{log.pod}/{log.container}": known.get((log.pod, log.container), NEVER) for log in logs_of(run.job, run.path)}
    starts = {name: how(each.started.process) for name, each in last.items() if each.started}
    metadata = run.manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), STARTS: json.dumps(starts, ensure_ascii=False)}
    return {**run.manifest, "metadata": {**metadata, "annotations": annotations}}


def _job_facts(run: Training) -> list[tuple[str, str]]:
    from katuna.cli.replicas import in_words, replicas_in_words

    ended = run.ended
    why = f": {ended.message or ended.reason}" if ended and (ended.message or not ended.succeeded) else ""
    facts = [
        ("Run", run.name),
        ("State", run.state + why),
        ("Job", f"{run.job.kind} {run.job.name}, {replicas_in_words(run.job)}"),
    ]
    if run.options.overrides:
        facts.append(("Overrides", " ".join(run.options.overrides)))
    facts += [*_cluster(run), *code_facts(run)]
    if run.metrics:
        facts.append(("Metrics", in_words(run.metrics)))
    facts += [("Took", duration(run.took_s)), ("Folder", str(run.path))]
    facts += _processes(run)
    if run.state in ("Interrupted", "Suspended"):
        facts.append(("Next", f"katuna resume {run.folder.handle}"))
    return facts


def _print_replicas(job: Job, folder: Path, known: Mapping[tuple[str, str], Container], *, runs: bool) -> None:
    """How each container of a job stands, and how it was started the last time; `runs` where the job may still do so."""
    from katuna.cli.replicas import logs_of

    rows = []
    for log in logs_of(job, folder):
        each = known.get((log.pod, log.container), NEVER)
        if each.started is None:
            state, code = (each.exited.reason if each.exited else "Pending"), ""
        elif each.exited is None:
            state, code = ("Running" if runs else "Ended"), ""
        else:
            state, code = each.exited.reason, "" if each.exited.code is None else str(each.exited.code)
        process = each.started.process if each.started else {}
        files, pid = str(process.get("files", "")), str(process.get("pid", process.get("pod", "")))
        rows.append([log.label, state, code, str(max(0, each.starts - 1)), how(process), files, pid])
    headings = ("REPLICA", "STATE", "EXIT", "RESTARTS", "START", "FILES", "PID")
    print_table(headings, rows, right=("EXIT", "RESTARTS", "PID"))
