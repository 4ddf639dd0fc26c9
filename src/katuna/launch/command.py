"""From a container to a command on this machine: what stands for its image's paths, entrypoint and interpreter, and its environment."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from katuna.jobs.environment import replica_environment
from katuna.launch.local_options import LocalOptions
from katuna.launch.network import refusal
from katuna.launch.process import Command
from katuna.manifest.diagnostic import did_you_mean, listed
from katuna.manifest.hidden import Hidden, Text, revealed
from katuna.manifest.job import Container, Job, Replica, expand
from katuna.manifest.own_paths import map_paths

INHERITED = ("HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TZ", "USER")
"""What a trial gets of katuna's environment without asking, with LC_* and PATH."""

_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_TAKES_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_MAP_HINT = "--map {0}=./trainers says where the image's {0} lies here"

FINE = ("", "")
Foresee = Callable[[str, bool], tuple[str, str] | None]
"""Tells of an absolute path that is to be there, or to be executed too, when a container starts: why it will not, with a hint; `FINE`
where it will or may; None where the file system knows by now."""


def command(
    job: Job,
    replica: Replica,
    options: LocalOptions,
    environ: Mapping[str, str],
    *,
    port: int,
    defaults: Mapping[str, str],
    extra: Mapping[str, str],
    own: Mapping[str, str] | None = None,
    made: Iterable[str] = (),
    say: Callable[[Text], str] = revealed,
) -> Command:
    """The command that stands for a replica's container here. Pure but for looking whether interpreters exist.

    `environ` is katuna's own environment. Variables of the job override those that the options pass, which override `defaults`;
    `extra` overrides all.
    `own` are paths of the container that each trial has for itself, and where they lie; they go before those of the options. `made`
    are places of which the pod itself makes the contents: a Python below one is no image's, and used as it is.
    `port` stands for the master's. `say` is `str` for a command that is to be shown. The argv is empty where neither the file nor the options say what to run.
    """
    container = replica.container
    mapped = _mapper(options, own or {})
    found = dict(replica_environment(job, replica, port=port, passed=environ))
    asked = {name: say(value) for name, value in found.items()}
    words = _words(container, options, found)
    argv = [mapped(say(word)) for word in words]
    interpreter = _interpreter(options.pythons.get(container.image, sys.executable), options, environ)
    if argv and not _is_below(argv[0], made) and _is_python(argv[0], replaced=container.image in options.pythons):
        argv[0] = interpreter
    passed = {name: say(Hidden(environ[name])) for name in options.pass_env if name in environ}
    env = {**inherited(environ), **defaults, **passed, **{name: mapped(value) for name, value in asked.items()}, **extra}
    path = mapped(asked.get("PATH", "")) or environ.get("PATH", os.defpath)
    env["PATH"] = f"{Path(interpreter).parent}{os.pathsep}{path}" if "/" in interpreter else path
    folder = options.here(mapped(container.working_dir) if container.working_dir else ".")
    quoted = (*words, found.get("PYTHONPATH"), *(mount.sub_path for mount in container.mounts))
    return Command(tuple(argv), env, folder, hides=any(isinstance(each, Hidden) for each in quoted))


def problems(
    replica: Replica, given: Command, told: Command | None = None, foresee: Foresee = lambda _path, _runs: None
) -> Iterator[tuple[str, str]]:
    """Why the command cannot run here, as (message, hint), found without running anything.

    `told` is what messages say in the place of `given`, word for word. `foresee` tells of paths that will be there when the
    command runs.
    """
    container = replica.container
    told = told or given
    where = f"container {container.name!r}"
    if not given.argv:
        yield (
            f"{where} has no command, and the entrypoint of image {container.image!r} is not known here",
            f"--entrypoint {container.image}='python /app/train.py' says what the image would run",
        )
        return
    absent = ("does not exist here", _MAP_HINT.format(container.working_dir))
    why, hint = foresee(str(given.folder), False) or (FINE if given.folder.is_dir() else absent)
    if why and not container.working_dir:
        message = f"{where}: {str(told.folder)!r}, the folder that the run was started in, is gone"
        yield message, f"put it back, or leave a link there to where it is now: ln -s NEW {shlex.quote(str(told.folder))}"
        return
    if why:
        yield f"{where}: workingDir {str(told.folder)!r} {why}", hint
        return
    why, hint = _program(given, foresee) or ("is not found here", _program_hint(told.argv[0], container.command))
    if why:
        yield f"{where}: command {told.argv[0]!r} {why}", hint
        return
    index = _script(given.argv)
    if index:
        path, script = given.folder / given.argv[index], told.argv[index]
        looked = f"looked for in {told.folder}; run katuna from the folder that holds it"
        absent = ("does not exist here", _MAP_HINT.format(Path(script).parent) if script.startswith("/") else looked)
        why, hint = foresee(str(path), False) or (FINE if path.exists() else absent)
        if why:
            yield f"{where}: script {script!r} {why}", hint


def _program(given: Command, foresee: Foresee) -> tuple[str, str] | None:
    """What is foreseen of the program, which a folder in PATH may hold too; None when it is not found."""
    program, path = given.argv[0], given.env["PATH"]
    if "/" in program:
        place = str(given.folder / program)
        return foresee(place, True) or (FINE if shutil.which(place) else None)
    if shutil.which(program, path=path):
        return FINE
    folders = filter(None, path.split(os.pathsep))
    return FINE if any(foresee(str(given.folder / folder / program), True) == FINE for folder in folders) else None


def _program_hint(program: str, asked: Sequence[str]) -> str:
    if program not in asked[:1]:
        return f"--map, --entrypoint and --python made this of {' '.join(asked[:1]) or 'the image'}: correct them"
    return _MAP_HINT.format(Path(program).parent) if program.startswith("/") else "install it, or correct the container's command"


def _words(container: Container, options: LocalOptions, asked: Mapping[str, Text]) -> tuple[Text, ...]:
    """The command line in the image's own terms; empty where neither the file nor the options say what to run."""
    entrypoint = () if container.command else options.entrypoints.get(container.image, ())
    return (*entrypoint, *expand(container, asked)) if container.command or entrypoint else ()


def _interpreter(python: str, options: LocalOptions, environ: Mapping[str, str]) -> str:
    """The path of an interpreter that is given by path or name; a name that PATH does not have stays a name."""
    if "/" in python:
        return str(options.here(python))
    found = shutil.which(python, path=environ.get("PATH", ""))
    return str(options.here(found)) if found else python


def option_problems(options: LocalOptions, jobs: Sequence[Job], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What in the options matches none of the jobs or is not here, as (message, hint): most likely it is misspelt."""
    if options.private_network and (why := refusal()):
        yield why, ""
    containers = [replica.container for job in jobs for replica in job.replicas]
    images = list(dict.fromkeys(container.image for container in containers))
    for flag, given in (("--entrypoint", options.entrypoints), ("--python", options.pythons)):
        for image in given:
            if image not in images:
                meant = did_you_mean(image, images)
                yield (
                    f"{flag} {image}=...: the job has no such image; it has: {listed(images)}",
                    f"did you mean {meant}?" if meant else "",
                )
    volumes = [volume for job in jobs for replica in job.replicas for volume in replica.volumes]
    claims = list(dict.fromkeys(volume.source for volume in volumes if volume.kind == "persistentVolumeClaim"))
    for claim in options.claims:
        if claim not in claims:
            meant = did_you_mean(claim, claims)
            message = f"--claim {claim}=...: the job has no such claim; it has: {listed(claims) or 'none'}"
            yield message, f"did you mean {meant}?" if meant else ""
    for image, python in options.pythons.items():
        if shutil.which(_interpreter(python, options, environ), path="") is None:
            yield f"--python {image}={python}: there is no such program here", "give its path, or a name that is in PATH"
    mappable = [text for job in jobs for replica in job.replicas for text in texts(job, replica, options, environ)]
    for source, target in options.maps:
        if not any(map_paths(text, {source.rstrip("/"): ""}) != text for text in mappable):
            message = f"--map {source}={target}: {source} occurs nowhere in the job's command, env or workingDir"
            yield message, "write the path as the job has it, or leave the option out"
    secrets = {name for container in containers for name in container.secrets}
    yield from _unset(options.pass_env, secrets, environ)


def texts(job: Job, replica: Replica, options: LocalOptions, environ: Mapping[str, str]) -> Iterator[str]:
    """Everything of a replica that paths are mapped in."""
    asked = dict(replica_environment(job, replica, passed=environ))
    yield from map(revealed, (*_words(replica.container, options, asked), *asked.values(), replica.container.working_dir))


def _unset(names: Sequence[str], secrets: Collection[str], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in names:
        if name not in environ:
            why = ", and the job takes its value from it" if name in secrets else ""
            hint = "export it" if name in secrets else "export it or leave the option out"
            yield f"--pass-env {name}: it is not set in this shell{why}", hint


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of katuna's own environment that every trial gets."""
    return {name: value for name, value in environ.items() if name in INHERITED or name.startswith("LC_")}


def _mapper(options: LocalOptions, own: Mapping[str, str]) -> Callable[[str], str]:
    maps = {source.rstrip("/"): str(options.here(target)) for source, target in options.maps} | dict(own)
    return lambda text: map_paths(text, maps)


def _is_below(path: str, places: Iterable[str]) -> bool:
    return any(PurePath(path).is_relative_to(place) for place in places)


def _is_python(program: str, *, replaced: bool) -> bool:
    """Whether the word means the image's Python. An interpreter that this machine has at the same path is used as it is, unless
    `replaced`."""
    name = Path(program).name
    if not _PYTHON.fullmatch(name):
        return False
    return program == name or (program.startswith("/") and (replaced or not Path(program).exists()))


def _script(argv: Sequence[str]) -> int:
    """Where a Python command line has the file that it runs; 0 when it is another command, or a module, or a string."""
    if not _PYTHON.fullmatch(Path(argv[0]).name):
        return 0
    arguments = iter(enumerate(argv[1:], 1))
    for index, argument in arguments:
        if not argument.startswith("-"):
            return index
        if argument in _TAKES_VALUE:
            next(arguments, None)
        elif argument == "-" or (not argument.startswith(("--", "-W", "-X")) and not {"c", "m"}.isdisjoint(argument)):
            return 0
    return 0
