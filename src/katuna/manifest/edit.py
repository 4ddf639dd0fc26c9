"""Changes to a job that a command line asks for: another value at a path, another number of processes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from katuna.errors import InputRefused
from katuna.manifest.diagnostic import hint_of, listed, shown
from katuna.manifest.experiment import Manifest
from katuna.manifest.fields import Type, child_type, resolved, type_of
from katuna.manifest.yamltext import Source, parse

_PATH = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[[^\]]+\])*\Z")
_PART = re.compile(r"\.?([^.\[\]]+)|\[([^\]]+)\]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_COUNT = re.compile(r"[1-9][0-9]{0,5}\Z")
_WORDS = ("auto", "cpu", "gpu")


def edited_manifest(manifest: Manifest, changes: Sequence[tuple[str, str]], nproc: str | None = None) -> Manifest:
    """A manifest of a known kind with (path, value) pairs put in, in their order, and `nproc` processes a replica.

    A path is written as messages write it: `spec.pytorchReplicaSpecs[Worker].replicas`, or `.Worker.`. An index or a name selects an
    item of a list: `containers[0]`, `containers[pytorch]`, `env[SEED].value`. The index after the last adds an item, the name of a new
    variable adds that variable. A value is YAML; a field for text takes the value as it is written; null removes the field.

    Raises InputRefused for a path that leads nowhere; the message names the nearest field.
    """
    for path, text in changes:
        if not _PATH.match(path):
            raise InputRefused(f"--set {path}=...: {shown(path)} is no path; write e.g. spec.pytorchReplicaSpecs.Worker.replicas")
        parts = [name or item for name, item in _PART.findall(path)]
        if parts[0] in ("apiVersion", "kind"):
            raise InputRefused(f"--set {path}={text}: what kind of job it is cannot be set; edit the file")
        edit = _Edit(f"--set {path}", text)
        manifest = edit.put(manifest, type_of(f"{manifest['apiVersion']} {manifest['kind']}"), parts, "")
    return manifest if nproc is None else _with_nproc(manifest, nproc)


def _with_nproc(manifest: Manifest, nproc: str) -> Manifest:
    kind = manifest["kind"]
    if kind not in ("PyTorchJob", "TrainJob"):
        raise InputRefused(f"--nproc {nproc}: a {kind} does not say how many processes there are; leave the option out")
    if not _COUNT.match(nproc) and not (kind == "PyTorchJob" and nproc in _WORDS):
        words = f", or one of {listed(_WORDS)}" if kind == "PyTorchJob" else ""
        raise InputRefused(f"--nproc {nproc}: must be a whole number from 1{words}")
    if kind == "TrainJob":
        return _with(manifest, ("spec", "trainer", "numProcPerNode"), int(nproc))
    changed = _with(manifest, ("spec", "nprocPerNode"), nproc)
    elastic = changed["spec"].get("elasticPolicy")
    outdated = isinstance(elastic, dict) and "nProcPerNode" in elastic
    return _with(changed, ("spec", "elasticPolicy", "nProcPerNode"), None) if outdated else changed


def unsuspended(job: Manifest) -> Manifest:
    """The job with `suspend` taken back."""
    return _with(job, ("spec", "runPolicy", "suspend") if job["kind"] == "PyTorchJob" else ("spec", "suspend"), False)


def _with(fields: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of the fields with the value at the path."""
    own = fields if isinstance(fields, dict) else {}
    return {**own, path[0]: _with(own.get(path[0]), path[1:], value) if len(path) > 1 else value}


class _Edit:
    """One change. `option` names it in messages; `text` is the value as written."""

    def __init__(self, option: str, text: str) -> None:
        self._option, self._text = option, text

    def put(self, value: Any, wanted: Type, parts: Sequence[str], where: str) -> Any:
        """A copy of `value`, which is of type `wanted` and stands at `where`, with the new value at `parts`."""
        wanted = resolved(wanted)
        if not parts:
            return self._read(wanted)
        if isinstance(wanted, list):
            return self._put_item(value, wanted[0], parts, where)
        if isinstance(wanted, dict):
            return self._put_field(value, wanted, parts, where)
        raise self._refused(f"{where} has no fields")

    def _put_field(self, value: Any, wanted: Mapping[str, Type], parts: Sequence[str], where: str) -> Any:
        fields = dict(value) if isinstance(value, dict) else {}
        name = parts[0]
        if "*" in wanted:
            child = wanted["*"]
            # A new key of a map of objects, such as a replica's type, would be an object with one field.
            if name not in fields and isinstance(resolved(child), dict):
                raise self._unknown(name, list(fields), where)
        else:
            child, _ = child_type(wanted, name)
            if child is None:
                raise self._unknown(name, [key.removesuffix("!") for key in wanted], where)
        changed = self.put(fields.get(name), child, parts[1:], f"{where}.{name}" if where else name)
        if changed is None:
            fields.pop(name, None)
            return fields
        return {**fields, name: changed}

    def _put_item(self, value: Any, wanted: Type, parts: Sequence[str], where: str) -> Any:
        items = list(value) if isinstance(value, list) else []
        part, place = parts[0], f"{where}[{parts[0]}]"
        names = [str(each.get("name")) for each in items if isinstance(each, dict)]
        if part.isdigit():
            index = int(part)
            if index > len(items):
                raise self._refused(f"{where} has {len(items)} item{'' if len(items) == 1 else 's'}, counted from 0")
            new: Any = None
        elif part in names:
            index = next(at for at, each in enumerate(items) if isinstance(each, dict) and each.get("name") == part)
        elif where.endswith(".env") and _NAME.match(part):
            index, new = len(items), {"name": part}
        else:
            raise self._unknown(part, names, where)
        old = items[index] if index < len(items) else new
        changed = self.put(old, wanted, parts[1:], place)
        items[index : index + 1] = [] if changed is None else [changed]
        return items

    def _read(self, wanted: Type) -> Any:
        if self._text.strip() in ("null", "~"):
            return None
        if not self._text.strip() and wanted != "string":
            raise self._refused("a value must follow the `=`; null takes the field out")
        documents, findings = parse(Source("--set", self._text)) if self._text.strip() else ([], [])
        value = documents[0].value if documents and not findings else None
        if wanted == "string" and not isinstance(value, str):
            return self._text
        if findings:
            raise self._refused(f"{shown(self._text)} is no YAML value")
        return value

    def _unknown(self, name: str, known: Sequence[str], where: str) -> InputRefused:
        hint = hint_of(name, known, f"there are: {listed(sorted(known)[:12])}")
        return self._refused(f"there is no {name} in {where or 'the job'}; {hint}")

    def _refused(self, message: str) -> InputRefused:
        return InputRefused(f"{self._option}: {message}")
