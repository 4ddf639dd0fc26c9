"""What a job reads of the folder that it is checked in, and no pod in a cluster has: an image has what it was built with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from os.path import normpath
from pathlib import Path as File
from pathlib import PurePosixPath
from typing import Any

from katuna.errors import CLUSTERS, RenderRefused
from katuna.lint.pytorchjob_rules import REPLICAS
from katuna.lint.shell import script_of, simple_commands, words
from katuna.lint.trainjob_rules import TRAINER
from katuna.manifest.diagnostic import Path, Remark, shown
from katuna.manifest.experiment import Manifest
from katuna.manifest.trainjob import NODE, resolve

ON = CLUSTERS
MAX_SOURCE_BYTES = 1 << 20
"""Of a larger script nothing is read."""

_PROGRAMS = (".py", ".pyc", ".pyi", ".sh", ".bash")
_HEADS = (b"#!", b"\x7fELF")
_PREFIXES = frozenset(("if", "then", "else", "do", "while", "!", "exec", "time", "env", "nice", "nohup"))
_MAKERS = frozenset(("mkdir", "touch", "rm", "tee", "wget", "curl", "git", "test", "["))
"""Commands that do not need what they name."""
_ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
_REDIRECTED = re.compile(r"(?:\d*|&)>{1,2}(.*)")
_OUTPUT = re.compile(
    r"(?:^|[-_.])(?:o|runs?|tmp|(?:out|log|save|result|checkpoint|ckpt|export|dump|write|cache)[a-z]*)(?:$|[-_.])"
)
"""A flag or a variable that says where to write."""
_SEARCH_PATHS = frozenset(("PATH", "PYTHONPATH", "LD_LIBRARY_PATH"))


def local_reads(job: Manifest, beside: Sequence[Manifest], folder: File) -> Iterator[Remark]:
    """A warning for each relative path that is in `folder`, and that a container's command, environment or Python script names.

    Of a container's program, what is below its mounts and what it makes itself nothing is said. `job` is of a kind that runs here and
    well-typed; `beside` are the documents given beside it. Raises nothing.
    """
    seen: set[str] = set()
    for path, container in _containers(job, beside):
        mounts = tuple(each.get("mountPath", "") for each in container.get("volumeMounts", []))
        reader = _Reader(_Sight(folder, container.get("workingDir", ""), mounts))
        for read in chain(reader.environment(container), reader.command(container)):
            if normpath(read.path) not in seen:
                seen.add(normpath(read.path))
                yield read.remark().below(path)


@dataclass(frozen=True)
class _Read:
    """A path as it is written; `script` and `line` tell where, when that is not the manifest."""

    path: str
    where: Path
    is_folder: bool
    script: str = ""
    line: int = 0

    def remark(self) -> Remark:
        by = f"{shown(f'{self.script}:{self.line}')} names {shown(self.path)}," if self.script else f"{shown(self.path)} is"
        what = "a folder" if self.is_folder else "a file"
        message = f"{by} {what} of this machine: an image has only what it was built with"
        hint = (
            "mount a volume that holds it, build it into the image, or let the trainer read KATUNA_DATA, which --data sets here"
        )
        return Remark(self.where, message, hint, "warning", ON, code="not-in-image")


def _containers(job: Manifest, beside: Sequence[Manifest]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    spec: Mapping[str, Any] = job.get("spec", {})
    if job["kind"] == "TrainJob":
        yield TRAINER, {**_node(job, beside), **spec.get("trainer", {})}
        return
    templates: dict[Path, Mapping[str, Any]] = {("spec", "template"): spec.get("template", {})}
    if job["kind"] == "PyTorchJob":
        replicas = spec.get("pytorchReplicaSpecs", {})
        templates = {(*REPLICAS, role, "template"): each.get("template", {}) for role, each in replicas.items()}
    for path, template in templates.items():
        for field in ("containers", "initContainers"):
            for index, container in enumerate(template.get("spec", {}).get(field, [])):
                yield (*path, "spec", field, index), container


def _node(job: Manifest, beside: Sequence[Manifest]) -> Mapping[str, Any]:
    """What the runtime says of the place where a TrainJob's command runs."""
    namespace = str(job.get("metadata", {}).get("namespace", "default"))
    try:
        pod = resolve(job["spec"], beside, namespace).template["spec"]
    except (RenderRefused, KeyError):
        return {}  # Another rule says so.
    node = next(each for each in pod["containers"] if each.get("name") == NODE)
    return {name: node[name] for name in ("workingDir", "volumeMounts") if name in node}


@dataclass(frozen=True)
class _Sight:
    """What a container sees when it runs here, and does not see in a cluster. `working` is its absolute working folder, "" for the
    image's own, which nobody knows; it has gone on to `below`."""

    folder: File
    working: str
    mounts: tuple[str, ...]
    below: str = ""

    def entered(self, folder: str) -> _Sight:
        if folder.startswith("/"):
            return replace(self, working=folder, below="")
        return replace(self, below=str(PurePosixPath(self.below, folder)))

    def found(self, path: str) -> File | None:
        """The file or folder here that a relative path means, None where a cluster has it too, or nobody."""
        if not _looks_like_path(path) or self._is_mounted(path):
            return None
        try:
            found = self.place(path)
            return None if found is None or _is_program(found) else found
        except (OSError, ValueError):
            return None

    def place(self, path: str) -> File | None:
        """Where the path lies. The image's working folder may be here too, or --map puts this folder in its place."""
        places = (self.folder / self.working / self.below / path, self.folder / self.below / path)
        return next((place for place in places if place.exists()), None)

    def _is_mounted(self, path: str) -> bool:
        """Where the image's own working folder is not known, a mount that ends as the path begins may be what is meant."""
        whole = PurePosixPath(normpath(PurePosixPath(self.working, self.below, path)))
        if whole.is_absolute():
            return any(whole.is_relative_to(mount) for mount in self.mounts if mount)
        heads = [each.parts for each in (whole, *whole.parents) if each.parts]
        return any(PurePosixPath(mount).parts[-len(head) :] == head for mount in self.mounts for head in heads)


def _looks_like_path(text: str) -> bool:
    """A relative one: with a slash, or an ending that is no number."""
    if not text or text.startswith(("/", "~", "-")) or "://" in text or "\n" in text or len(text) > 1024:
        return False
    path = PurePosixPath(text)
    return path.name not in ("", "..") and ("/" in text or path.suffix.strip(".0123456789") != "")


def _is_program(path: File) -> bool:
    if path.suffix in _PROGRAMS:
        return True
    if path.is_dir():
        return any((path / f"__{name}__.py").exists() for name in ("init", "main"))
    if not path.is_file():
        return True
    with path.open("rb") as file:
        return file.read(4).startswith(_HEADS)


class _Reader:
    """Reads one container; `made` are the paths that it makes itself before it reads them."""

    def __init__(self, sight: _Sight) -> None:
        self.sight, self.made = sight, set[PurePosixPath]()

    def environment(self, container: Mapping[str, Any]) -> Iterator[_Read]:
        for index, entry in enumerate(container.get("env", [])):
            name = entry.get("name", "")
            if name not in _SEARCH_PATHS and not _is_output(name):
                yield from self._read(entry.get("value", ""), ("env", index, "value"))

    def command(self, container: Mapping[str, Any]) -> Iterator[_Read]:
        argv = words(container)
        for command in simple_commands(argv):
            for part in _pipeline(command):
                # Without a command the image's own program takes all args.
                bare = not container.get("command")
                yield from self._part([("", ()), *part] if bare else _without_prefix(part))

    def _part(self, part: Sequence[tuple[str, Path]]) -> Iterator[_Read]:
        """`part` begins with the program."""
        program = part[0][0] if part else ""
        if program == "cd" and len(part) > 1:
            self.sight = self.sight.entered(part[1][0])
        elif program in _MAKERS:
            self._makes(word for word, _ in part[1:])
        else:
            yield from self._words(part[1:])
            yield from self._script(part)

    def _words(self, part: Sequence[tuple[str, Path]]) -> Iterator[_Read]:
        is_made = False
        for word, where in part:
            redirected = _REDIRECTED.fullmatch(word)
            name, _, value = word.partition("=")
            if redirected:
                self._makes([redirected[1]])
                is_made = not redirected[1]
            elif is_made and not word.startswith("-"):
                self._makes([word])
                is_made = False
            elif _is_output(name) and (word.startswith("-") or value):
                self._makes([value])
                is_made = not value
            else:
                is_made = False
                yield from self._read(value if value and self.sight.found(word) is None else word.removeprefix("<"), where)

    def _script(self, part: Sequence[tuple[str, Path]]) -> Iterator[_Read]:
        """What the Python script that is run names, but for the defaults of options that are given."""
        script = script_of([word for word, _ in part])
        source = self._source(script) if script else None
        if source is None:
            return
        from katuna.lint.literals import named_paths

        given = {word.partition("=")[0] for word, _ in part}
        where = next(path for word, path in part if word == script)
        for named in named_paths(source):
            if given.isdisjoint(named.flags):
                yield from self._read(named.path, where, script, named.line)

    def _source(self, script: str) -> bytes | None:
        try:
            file = self.sight.place(script)
            if file is None or not file.is_file() or file.stat().st_size > MAX_SOURCE_BYTES:
                return None
            with file.open("rb") as source:
                return source.read(MAX_SOURCE_BYTES)
        except (OSError, ValueError):
            return None

    def _read(self, path: str, where: Path, script: str = "", line: int = 0) -> Iterator[_Read]:
        found = self.sight.found(path)
        if found is None or (script and found.is_dir()):
            return
        plain = PurePosixPath(normpath(path))
        if not any(plain.is_relative_to(made) for made in self.made):
            yield _Read(path, where, found.is_dir(), script, line)

    def _makes(self, paths: Iterator[str] | Sequence[str]) -> None:
        self.made |= {PurePosixPath(normpath(path)) for path in paths if path and path != "."}


def _pipeline(command: Sequence[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    """The programs of a command with their words, up to a comment."""
    part: list[tuple[str, Path]] = []
    for word, path in command:
        if word.startswith("#"):
            break
        if word in ("|", "|&", "&"):
            yield part
            part = []
        else:
            part.append((word, path))
    yield part


def _without_prefix(part: Sequence[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """The program first: without keywords of the shell, and with assignments behind it."""
    first = next((n for n, (word, _) in enumerate(part) if word not in _PREFIXES and not _ASSIGNED.match(word)), len(part))
    return [*part[first:], *((word, path) for word, path in part[:first] if word not in _PREFIXES)]


def _is_output(name: str) -> bool:
    return _OUTPUT.search(name.lower()) is not None
