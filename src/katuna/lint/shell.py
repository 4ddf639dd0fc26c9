"""What becomes of a trial's command on Katib, which hands it to a shell as one line (katib.md 5.6), and what its script prints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from katuna.errors import KATIB
from katuna.manifest.diagnostic import Path, Remark, did_you_mean, shown
from katuna.manifest.render import PLACEHOLDER, placeholder

WRAPPED = ("StdOut", "File", "TensorFlowEvent")
"""The collectors for which Katib wraps the command."""

ReadScript = Callable[[str], str | None]
"""The text of a file of this machine, None when there is none to read."""

_REFERENCE = re.compile(r"\$\(([A-Za-z_][\w.-]*)\)")
_OF_A_SERVICE = re.compile(r"_(SERVICE|PORT)(_|\Z)")
"""Variables that Kubernetes gives for the services of a namespace."""
_EXPANDED = re.compile(r"\$\([A-Za-z_][\w.-]*\)")
_CHANGED = re.compile(r"[\s'\"\\`$;&|<>*?()]|^[#~]")
_SHELLS = re.compile(r"(.*/)?(sh|bash|dash|ash|zsh)\Z")
_SEPARATORS = re.compile(r"&&|\|\||[;\n]")
_PYTHON = re.compile(r"(.*/)?(python[\d.]*|torchrun)\Z")
_TRAINS = re.compile(r"\$\{trialParameters\.|\b(python[\d.]*|torchrun|accelerate|mpirun)\b")
_ENDS = frozenset(("done", "fi", "}", ")", "esac", "wait"))


def primary_container(job: Any, name: str, path: Path = ()) -> tuple[Path, Mapping[str, Any]] | None:
    """The first container of that name in the job, wherever the kind keeps its pods, and its path."""
    if isinstance(job, dict):
        for index, each in enumerate(job["containers"] if isinstance(job.get("containers"), list) else ()):
            if isinstance(each, dict) and each.get("name") == name:
                return (*path, "containers", index), each
        children = [(key, child) for key, child in job.items() if key != "containers"]
    else:
        children = list(enumerate(job)) if isinstance(job, list) else []
    found = (primary_container(child, name, (*path, key)) for key, child in children)
    return next((each for each in found if each is not None), None)


def words(container: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """The container's argv, with the path of each word."""
    argv: list[tuple[str, Path]] = []
    for name in ("command", "args"):
        entries = container.get(name)
        for index, word in enumerate(entries if isinstance(entries, list) else ()):
            argv.append((word if isinstance(word, str) else str(word), (name, index)))
    return argv


def check_wrapping(argv: Sequence[tuple[str, Path]], variables: Collection[str] | None = None) -> Iterator[Remark]:
    """Paths begin at the container. `variables` are those that its command can refer to, None when they are not known."""
    if not argv or not any(path[0] == "command" for _, path in argv):
        return
    first = [word for word, _ in argv[:2]]
    if first in (["sh", "-c"], ["bash", "-c"]):
        for script, path in argv[2:3]:
            yield from _check_script(script, path)
        return
    if _SHELLS.match(first[0]) and len(first) == 2 and re.match(r"-\w*c\Z", first[1]):
        message = (
            f"Katib leaves only `sh -c` and `bash -c` alone; it runs {shown(' '.join(first))} in a shell again, without quotes"
        )
        hint = "then only the first word of the script runs; write sh, -c"
        yield Remark(argv[0][1], message, hint, "warning", KATIB, code="shell-wrapping")
        return
    for word, path in argv:
        for name in _REFERENCE.findall(word.replace("$$", "")):
            if variables is not None and name not in variables and not _OF_A_SERVICE.search(name):
                message = f"the container has no variable {name}: $({name}) stays, and on Katib a shell runs it as a command"
                yield Remark(path, message, "give it one in env, or leave it out", "warning", KATIB, code="shell-wrapping")
        plain = PLACEHOLDER.sub("x", _EXPANDED.sub("x", word.replace("$$", "$")))
        changed = _CHANGED.search(plain)
        if changed or not word:
            what = f"{shown(changed[0])} in it" if changed else "an empty word"
            message = f"Katib joins the command by spaces for `sh -c`, without quotes: the shell changes {what}"
            hint = "leave it out, or write command: [sh, -c, SCRIPT] with quotes of its own"
            yield Remark(path, message, hint, "warning", KATIB, code="shell-wrapping")


def _check_script(script: str, path: Path) -> Iterator[Remark]:
    """A script's end is where Katib appends its redirection, and the mark that the trial is over."""
    text = PLACEHOLDER.sub(lambda match: match[0].replace(" ", "_"), script)
    last = re.split(r"[;\n]|(?<!>)&(?!&|>)", text)[-1]
    if not last.strip() or last.strip().startswith("#"):
        message = "the script ends in a line of its own, where Katib appends `1>FILE 2>&1`: nothing that it prints is read"
        hint = "end it with the command that prints the metrics (in YAML: `|-` instead of `|`)"
        yield Remark(path, message, hint, "warning", KATIB, code="unread-output")
        return
    commands = [each.strip() for each in _SEPARATORS.split(text) if each.strip()]
    final = commands[-1]
    if final.split()[0] not in _ENDS and not _TRAINS.search(final) and any(map(_TRAINS.search, commands[:-1])):
        message = f"of a script Katib reads the output of its last command alone, here {shown(final, 40)}"
        yield Remark(path, message, "put the command that prints the metrics last", "warning", KATIB, code="unread-output")
    if any(each.split()[0] in ("exec", "exit") for each in commands):
        message = "`exec` and `exit` end the shell before Katib's mark that the trial is over: its metrics are never reported"
        yield Remark(path, message, "leave them out", "warning", KATIB, code="shell-ends-early")


def check_choices(
    parameters: Sequence[Mapping[str, Any]], references: Mapping[str, str], argv: Sequence[tuple[str, Path]]
) -> Iterator[Remark]:
    """Choices that the shell would change in a command without one. `references` are placeholders' names to search parameters."""
    if not argv or not any(path[0] == "command" for _, path in argv) or _SHELLS.match(argv[0][0]):
        return
    used = {reference for name, reference in references.items() if any(placeholder(name) in word for word, _ in argv)}
    for index, parameter in enumerate(parameters):
        for number, choice in enumerate(parameter["feasibleSpace"].get("list", ())):
            changed = _CHANGED.search(choice)
            if parameter.get("name") in used and (changed or not choice):
                what = f"{shown(changed[0])} in it" if changed else "an empty value"
                message = f"Katib joins the command by spaces for `sh -c`, without quotes: the shell changes {what}"
                path: Path = ("spec", "parameters", index, "feasibleSpace", "list", number)
                yield Remark(path, message, "use values without it", "warning", KATIB, code="shell-wrapping")


# What a script prints.

_COMPOSED = re.compile(r"""\}\s*=|%s\s*=|["']=["']|\bjson\.dumps\b|\breport\w*\(\s*(?!["'{])""")
_PRINTS = re.compile(r"\b(print|report|report_metrics|write|info|log|log_metrics)\s*\(")
_IMPORTS = re.compile(r"^\s*(?:from\s+([\w.]+)\s+import\s|import\s+([\w., ]+))", re.MULTILINE)
_FRAMEWORKS = re.compile(
    r"\b(transformers|lightning|pytorch_lightning|keras|tensorflow|ignite|fastai|accelerate|trl|xgboost|lightgbm)\b"
)
_LITERALS = re.compile(r"""["']([\w|-]+)["']|([\w|-]+)=\{""")


def script_of(argv: Sequence[str]) -> str:
    """The path of the Python script that the command runs, "" when there is none to see."""
    argv = _simple(argv[2])[-1] if _has_text(argv) else argv
    if not argv or not _PYTHON.match(argv[0]):
        return ""
    return next((word for word in argv[1:] if word.endswith(".py") and not word.startswith("-")), "")


def simple_commands(argv: Sequence[tuple[str, Path]]) -> list[list[tuple[str, Path]]]:
    """The command, or those of the text that it gives to a shell, whose words all stand where the text does."""
    if not _has_text([word for word, _ in argv]):
        return [list(argv)]
    text, path = argv[2]
    return [[(word, path) for word in command] for command in _simple(text)]


def _has_text(argv: Sequence[str]) -> bool:
    return len(argv) > 2 and bool(_SHELLS.match(argv[0])) and argv[1].endswith("c")


def _simple(text: str) -> list[list[str]]:
    """The words of each simple command; none of one whose quotes do not close."""
    commands: list[list[str]] = []
    for part in _SEPARATORS.split(text.strip()):
        try:
            commands.append(shlex.split(part))
        except ValueError:
            commands.append([])
    return commands


def check_script(
    metrics: Sequence[tuple[str, Path]], argv: Sequence[str], folder: str, read_script: ReadScript
) -> Iterator[Remark]:
    """Metrics that the command's script never prints, when it can be read: `folder` is what a relative path is below.

    Cautious: names that are composed, passed on the command line or printed by a framework may be anything.
    """
    script = script_of(argv)
    place = f"{folder}/{script}" if folder and not script.startswith("/") else script
    text = read_script(place) if script else None
    if text is None:
        return
    unseen = [(metric, path) for metric, path in metrics if metric not in text and not any(metric in word for word in argv)]
    if not unseen or not _PRINTS.search(text):
        return
    text = "\n".join((text, *_beside(text, place.rpartition("/")[0], read_script)))
    composed = bool(_COMPOSED.search(text))
    names = sorted({first or second for first, second in _LITERALS.findall(text)})
    for metric, path in unseen:
        meant = did_you_mean(metric, names)
        if metric in text or (composed and not meant and (_FRAMEWORKS.search(text) or _has_a_word_of(metric, text))):
            continue
        message = f"{shown(script)} never prints {shown(metric)}, as far as can be seen: every trial would be without a value"
        hint = f"did you mean {meant}?" if meant else "the name before = in the line that it prints"
        yield Remark(path, message, hint, "warning", code="metric-never-printed")


def _beside(text: str, folder: str, read_script: ReadScript) -> Iterator[str]:
    """The modules that a script imports from its own folder."""
    modules = {name.strip().partition(" ")[0] for found in _IMPORTS.findall(text) for name in ",".join(found).split(",")}
    for module in sorted(modules - {""}):
        path = f"{module.replace('.', '/')}.py"
        more = read_script(f"{folder}/{path}" if folder else path)
        if more is not None:
            yield more


def _has_a_word_of(metric: str, text: str) -> bool:
    return any(
        re.search(rf"(?<![A-Za-z0-9]){re.escape(part)}(?![A-Za-z0-9])", text) for part in re.split(r"[\W_]+", metric) if part
    )
