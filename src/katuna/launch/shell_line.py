"""The shell line that runs a trial again: the command, environment and folders that the launcher gives it, in a new folder."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from katuna.launch.devices import usable_cpus
from katuna.launch.local_options import LocalOptions
from katuna.launch.needs import CHECKPOINTS, METRICS, Needs
from katuna.launch.plan import gpus, plan, trial_place
from katuna.manifest.job import MASTER_PORT, Job

_FOLDER = Path("/katuna-new-folder")
"""Stands for the new folder until the line is written: there it is the shell's variable."""
_VARIABLES = {str(_FOLDER): '"$d"', "/katuna-shells-path": '"$PATH"'}
_NEW, _PATH = _VARIABLES


def again(
    job: Job, folder: Path, options: LocalOptions, needs: Needs, *, parent: Path | None, beside: Sequence[Path], parallel: int
) -> str:
    """One line for bash, zsh or ksh. `folder` is the trial's, which the new one is made in unless KATUNA_TRIAL_DIR names one;
    `parent` is the folder of the trial whose checkpoints it begins with, `beside` are the files that `train` reads with the job.

    What came from the calling shell (`--pass-env`) is not in it; the shell that runs the line has to have it. A job of more than
    one container, or with volumes, is `katuna train`'s.
    """
    replica = job.replicas[0]
    if len(job.replicas) > 1 or replica.volumes or replica.init_containers or replica.sidecars:
        words, cwd = _train(folder / "job.yaml", options, needs, beside), Path(options.cwd)
    else:
        words, cwd = _program(job, options, needs, parallel)
    made = [word for word in _folders(needs, parent) if word]
    new = f"d=${{KATUNA_TRIAL_DIR:-$(mktemp -d {shell_word(str(folder))}/again-XXXXXX)}}"
    needed = made or any(_NEW in word for word in words)
    return " && ".join([*([new] if needed else []), *made, f"cd {shell_word(str(cwd))}", " ".join(map(shell_word, words))])


def _program(job: Job, options: LocalOptions, needs: Needs, parallel: int) -> tuple[list[str], Path]:
    path = os.environ.get("PATH", os.defpath)
    place = trial_place(_FOLDER, options, {"PATH": path}, needs.maps(_FOLDER), max(1, usable_cpus() // max(1, parallel)))
    here = next(each for each in plan(job, place, (), MASTER_PORT) if each.is_main).command
    env = {**here.env, **needs.environment(_FOLDER, here.env.get("PYTHONPATH", ""))}
    if gpus(job, options):
        del env["CUDA_VISIBLE_DEVICES"]
    env["PATH"] = env["PATH"].removesuffix(path) + _PATH if env["PATH"].endswith(path) else env["PATH"]
    return ["env", *(f"{name}={value}" for name, value in env.items()), *here.argv], here.folder


def _train(job: Path, local: LocalOptions, needs: Needs, beside: Sequence[Path]) -> list[str]:
    env = needs.environment(_FOLDER, "")
    words = ["env", *(f"{name}={value}" for name, value in env.items())] if env else []
    words += [sys.executable, "-m", "katuna", "train", str(job)]
    words += [f"--values={path}" for path in beside]
    words += [f"--map={path}={needs.maps(_FOLDER)[path]}" for path in needs.paths]
    words += [f"--map={source}={target}" for source, target in local.maps]
    words += [f"--entrypoint={image}={shlex.join(argv)}" for image, argv in local.entrypoints.items()]
    words += [f"--python={image}={path}" for image, path in local.pythons.items()]
    words += [f"--claim={name}={folder}" for name, folder in local.claims.items()]
    words += [f"--pass-env={name}" for name in (*local.pass_env, *env)]
    words += [f"--data={local.data}"] if local.data else []
    return words + ([f"--device={local.device}"] if local.device != "job" else [])


def _folders(needs: Needs, parent: Path | None) -> tuple[str, ...]:
    """Commands that make what a trial finds in its folder."""
    metrics = f'mkdir -p "$d"/{METRICS}' if needs.has_metrics_folder else ""
    if not needs.checkpoints:
        return (metrics,)
    begin = f'cp -r {shell_word(str(parent / CHECKPOINTS))} "$d"/' if parent else f'mkdir -p "$d"/{CHECKPOINTS}'
    return (metrics, begin)


def shell_word(word: str) -> str:
    """The word quoted for bash, zsh or ksh, on one line and without anything that a terminal would obey."""
    for stand_in, variable in _VARIABLES.items():
        before, found, behind = word.partition(stand_in)
        if found:
            return f"{shell_word(before) if before else ''}{variable}{shell_word(behind) if behind else ''}"
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(char if char.isprintable() and char not in "\\'" else _escaped(char) for char in word)
    return f"$'{escaped}'"


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
