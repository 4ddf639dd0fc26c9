"""Words that several verbs share: the RUN argument and the options that say how trials run on this machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from katuna.runs.rundir import all_runs

    del ctx, param
    return sorted(run.name for run in all_runs() if run.name.startswith(incomplete))


def run_argument(*, required: bool = False) -> Callable[[Command], Command]:
    """RUN: a name, a unique prefix or a path; where it may be left out, the latest."""
    return click.argument("run", required=required, shell_complete=complete_run)


class Duration(click.ParamType[float]):
    """`90`, `90s`, `15m`, `2h`, `1d`, `1h30m` as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
        if text and "".join(number + unit for number, unit in parts) == text:
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        elif re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        else:
            self.fail(f"{value!r} is no duration; write 90s, 15m, 2h or 1h30m", param, ctx)
        if seconds <= 0:
            self.fail(f"{value!r} must be more than nothing", param, ctx)
        return seconds


class Pair(click.ParamType[tuple[str, str]]):
    """`LEFT=RIGHT`, split at the first `=`; RIGHT may be empty where the option says so."""

    def __init__(self, name: str, *, empty: bool = False) -> None:
        self.name, self._empty = name, empty

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        left, sign, right = str(value).partition("=")
        if not left or not sign or not (right or self._empty):
            self.fail(f"{value!r} must have the form {self.name}", param, ctx)
        return left, right


class Keep(click.ParamType[int | None]):
    """`all` (None) or `best:N`."""

    name = "best:N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value in (None, "all") or isinstance(value, int):
            return value if isinstance(value, int) else None
        match = re.fullmatch(r"best:(\d+)", str(value))
        if match is None or int(match[1]) < 1:
            self.fail(f"{value!r} must be `all` or `best:N` with N at least 1, e.g. best:3", param, ctx)
        return int(match[1])


def local_options(command: Command) -> Command:
    """The options of a run on this machine; `run_options` makes values of them."""
    for option in reversed(_LOCAL):
        command = option(command)
    return command


_LOCAL = (
    click.option(
        "--map",
        "maps",
        multiple=True,
        type=Pair("FROM=TO"),
        help="A path of the image and where it lies here, e.g. /opt/app=./trainers.",
    ),
    click.option(
        "--entrypoint",
        "entrypoints",
        multiple=True,
        type=Pair("IMAGE=COMMAND"),
        help="What an image runs when its container gives no command.",
    ),
    click.option(
        "--python",
        "pythons",
        multiple=True,
        type=Pair("IMAGE=PATH"),
        help="The interpreter for commands of one image; default: the Python that runs katuna.",
    ),
    click.option("--data", metavar="DATASET", help="A file, or a folder of files: trainers find its path in KATUNA_DATA."),
    click.option(
        "--pass-env", "pass_env", multiple=True, metavar="NAME", help="A variable of this shell that the processes get too."
    ),
    click.option(
        "--device",
        type=click.Choice(["job", "cpu", "cuda"]),
        default="job",
        show_default=True,
        help="GPUs as the job asks, none, or at least one for each replica.",
    ),
    click.option(
        "--claim",
        "claims",
        multiple=True,
        type=Pair("NAME=FOLDER"),
        help="The folder that stands for a PersistentVolumeClaim.",
    ),
    click.option(
        "--restarts",
        type=click.Choice(["local", "as-operator"]),
        default="local",
        show_default=True,
        help="local: the first failure is final unless the file writes backoffLimit; as-operator: restarts as on a cluster.",
    ),
    click.option("--cold", is_flag=True, help="Start each process with an interpreter of its own."),
    click.option(
        "--shared-files",
        "--in-place",
        "shared_files",
        is_flag=True,
        help="Let processes write into this folder itself and read the code as it is then, all of them together.",
    ),
    click.option(
        "--private-network",
        is_flag=True,
        help="Give each job a network of its own: its processes reach one another and nothing else, and nobody reaches them.",
    ),
)


def cluster_options(command: Command) -> Command:
    """Where the jobs run; `run_options` takes these too."""
    for option in reversed(_CLUSTER):
        command = option(command)
    return command


_CLUSTER = (
    click.option(
        "--on",
        type=click.Choice(["here", "cluster"]),
        default="here",
        show_default=True,
        help="Run the jobs as processes of this machine, or as jobs of the cluster that kubectl would use.",
    ),
    click.option(
        "--context", metavar="NAME", help="With --on cluster: the context of the kubeconfig, in the place of its current one."
    ),
    click.option("--namespace", metavar="NAME", help="With --on cluster: the namespace, in the place of the context's."),
    click.option(
        "--code",
        "code_way",
        type=click.Choice(["configmap", "none"]),
        help="With --on cluster: send the code of this folder as a ConfigMap (the default), or use what the image holds.",
    ),
    click.option("--queue", metavar="NAME", help="With --on cluster: the LocalQueue of Kueue that admits the jobs."),
)


def search_options(command: Command) -> Command:
    """The options that say how the search goes, beside the file or in its place; `run_options` takes them too."""
    for option in reversed(_SEARCH):
        command = option(command)
    return command


_SEARCH = (
    click.option(
        "--keep",
        type=Keep(),
        metavar="best:N|all",
        default="all",
        show_default=True,
        help="Whose checkpoints and other artefacts stay when a trial has ended.",
    ),
    click.option(
        "--algorithm", metavar="NAME", help="Search by this algorithm instead of the file's: Katib's, or a sampler of Optuna's."
    ),
    click.option(
        "--setting",
        "settings",
        multiple=True,
        type=Pair("NAME=VALUE"),
        help="A setting of the algorithm, in the place of the file's.",
    ),
    click.option(
        "--early-stopping",
        metavar="asha|median|percentile|medianstop|none",
        help="Stop trials early by this rule instead of the file's, or not at all.",
    ),
    click.option(
        "--stopping-setting", "stopping_settings", multiple=True, type=Pair("NAME=VALUE"), help="A setting of that rule."
    ),
    click.option(
        "--let-running-finish",
        is_flag=True,
        help="At the end let trials that still run come to theirs, as on a cluster; default: stop them.",
    ),
    click.option(
        "--try",
        "tries",
        multiple=True,
        metavar="lr=0.01,layers=2",
        help="A point to begin with; what it leaves out is drawn at random. A pair with a comma in it goes in double quotes.",
    ),
)


def run_options(
    *,
    maps: Any,
    entrypoints: Any,
    pythons: Any,
    pass_env: Any,
    device: Any,
    data: str | None = None,
    claims: Any = (),
    restarts: Any = "local",
    cold: bool = False,
    shared_files: bool = False,
    private_network: bool = False,
    keep: int | None = None,
    algorithm: str | None = None,
    settings: Any = (),
    early_stopping: str | None = None,
    stopping_settings: Any = (),
    let_running_finish: bool = False,
    tries: Any = (),
    on: str = "here",
    context: str | None = None,
    namespace: str | None = None,
    code_way: Any = None,
    queue: str | None = None,
) -> Any:
    """RunOptions of what the command line says. Raises InputRefused for what makes no sense."""
    from katuna.dataset import describe
    from katuna.errors import InputRefused
    from katuna.launch.local_options import LocalOptions
    from katuna.runs.plan import RunOptions
    from katuna.search.known_points import parse_try

    commands = {}
    for image, text in entrypoints:
        try:
            commands[image] = tuple(shlex.split(text))
        except ValueError as error:
            raise InputRefused(f"--entrypoint {image}={text!r}: {error}; quote it as for a shell") from error
    if data is not None and not data.strip():
        raise InputRefused("--data: names no file or folder; leave the option out, or give one")
    dataset = None if data is None else describe(data)
    local = LocalOptions(
        maps=tuple(maps),
        entrypoints=commands,
        pythons=dict(pythons),
        pass_env=tuple(pass_env),
        device=device,
        cwd=str(Path.cwd()),
        data="" if dataset is None else str(dataset.path),
        data_digest="" if dataset is None else dataset.digest,
        claims=_once("--claim", claims),
        cold=cold,
        restarts=restarts,
        files="shared" if shared_files else "own",
        private_network=private_network,
    )
    return RunOptions(
        local,
        keep,
        algorithm,
        _once("--setting", settings),
        early_stopping,
        _once("--stopping-setting", stopping_settings),
        let_running_finish,
        tuple(parse_try(text) for text in tries),
        cluster=_cluster(on, context, namespace, code_way, queue),
    )


def _cluster(on: str, context: str | None, namespace: str | None, code_way: Any, queue: str | None) -> Any:
    """ClusterOptions, None for this machine. Raises InputRefused for options that --on cluster alone has a use for."""
    from katuna.cluster.options import ClusterOptions
    from katuna.errors import InputRefused

    if on == "cluster":
        return ClusterOptions(context or "", namespace or "", code_way or "configmap", queue or "")
    for option, value in (("--context", context), ("--namespace", namespace), ("--code", code_way), ("--queue", queue)):
        if value:
            raise InputRefused(f"{option} {value}: only a run on a cluster has a use for it; add --on cluster, or leave it out")
    return None


def _once(option: str, pairs: Any) -> dict[str, str]:
    from katuna.errors import InputRefused

    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputRefused(f"{option} {name} is given twice")
    return dict(pairs)
