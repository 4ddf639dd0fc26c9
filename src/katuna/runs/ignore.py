"""`.gitignore` files: which paths they ignore, as git reads them (gitignore(5), wildmatch.c)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path

NAME = ".gitignore"

Read = Callable[[str], bytes | None]
"""The content of the file of a path, None where there is none to be read."""
Groups = tuple[tuple[bool, re.Pattern[str], re.Pattern[str]], ...]
"""The patterns of a file from its last to its first, those that follow each other with the same meaning as one: whether they ignore,
those without a slash, which are held against names, and the others, against paths. A folder has FOLDER at its end."""

FOLDER = "\0"

_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<stars>\*+)|(?P<one>\?)|(?P<set>\[[!^]?\]?(?:\[:[a-z]+:\]|\\.|[^\]\\])*\])|(?P<plain>[^\\\[])",
    re.DOTALL,
)
_IN_SET = re.compile(r"\[:(?P<of>[a-z]+):\]|\\(?P<escaped>.)|(?P<dash>-)|(?P<plain>.)", re.DOTALL)
_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "digit": "0-9",
    "lower": "a-z",
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}


class Ignored:
    """The files of a folder and of those around it, from the outermost to the innermost. The last pattern of the innermost that says
    anything of a path decides. What is below an ignored folder is not asked for: git does not look there either."""

    def __init__(self, read: Read, levels: tuple[tuple[str, Groups], ...] = ()) -> None:
        self._read = read
        self._levels = levels

    @classmethod
    def above(cls, folder: Path, read: Read) -> Ignored:
        """Those of the git repository above `folder`; none where they ignore the folder itself, whose files are wanted."""
        ignored, top = cls(read), repository(folder)
        if top is not None:
            around = [folder, *folder.parents]
            for place, below in pairwise(reversed(around[: around.index(top) + 1])):
                ignored = ignored.within(str(place))
                if ignored.holds(str(below), is_folder=True):
                    return cls(read)
        return ignored

    def within(self, folder: str) -> Ignored:
        """With the folder's own file, if it has one."""
        held = self._read(f"{folder}/{NAME}")
        if held is None:
            return self
        groups = parsed(held.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n"))
        return Ignored(self._read, (*self._levels, (folder.rstrip("/") + "/", groups)))

    def holds(self, path: str, is_folder: bool) -> bool:
        end = FOLDER if is_folder else ""
        name = path.rpartition("/")[2] + end
        for base, groups in reversed(self._levels):
            inside = path[len(base) :] + end
            for ignores, names, paths in groups:
                if names.fullmatch(name) or paths.fullmatch(inside):
                    return ignores
        return False


def repository(folder: Path) -> Path | None:
    """The top of the git repository that a folder is in."""
    return next((place for place in (folder, *folder.parents) if (place / ".git").exists()), None)


def parsed(lines: Sequence[str]) -> Groups:
    """Lines that are no pattern count for nothing, as with git."""
    found = list(_patterns(reversed(lines)))
    groups = []
    for ignores, group in groupby(found, key=lambda each: each[0]):
        patterns = list(group)
        names, paths = ([regex for _, of_path, regex in patterns if of_path is wanted] for wanted in (False, True))
        groups.append((ignores, _any_of(names), _any_of(paths)))
    return tuple(groups)


def _patterns(lines: Iterable[str]) -> Iterator[tuple[bool, bool, str]]:
    """Of each pattern whether it ignores, whether it is of a path, and its regular expression."""
    for line in lines:
        text = _without_end(line)
        if not text or text.startswith("#"):
            continue
        ignores = not text.startswith("!")
        text = text.removeprefix("!")
        of_folder = text.endswith("/")
        text = text.removesuffix("/")
        of_path = "/" in text
        regex = _regex(text.removeprefix("/"))
        if regex:
            yield ignores, of_path, regex + (FOLDER if of_folder else f"{FOLDER}?")


def _without_end(line: str) -> str:
    """Without a carriage return and spaces at the end, of which an escaped one counts."""
    line = line.removesuffix("\r")
    text = line.rstrip(" ")
    escaped = (len(text) - len(text.rstrip("\\"))) % 2
    return text + " " if escaped and text != line else text


def _any_of(regexes: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(regexes) if regexes else "(?!)", re.DOTALL)


def _regex(glob: str) -> str | None:
    """None for what matches nothing: an empty pattern, a set that does not end or is upside down, a backslash at the end."""
    made, place = [], 0
    while place < len(glob):
        token = _TOKEN.match(glob, place)
        if token is None:
            return None
        before, place = glob[:place], token.end()
        if token["stars"]:
            whole = len(token["stars"]) > 1 and before[-1:] in ("", "/") and glob[place : place + 1] in ("", "/")
            if whole and place < len(glob):
                place += 1
                made.append(f"(?:[^{FOLDER}]*/)?")
            else:
                made.append(f"[^{FOLDER}]*" if whole else f"[^/{FOLDER}]*")
        elif token["one"]:
            made.append(f"[^/{FOLDER}]")
        elif token["set"]:
            made.append(_set(token["set"][1:-1]))
        else:
            made.append(re.escape(token["escaped"] or token["plain"]))
    regex = "".join(made)
    try:
        re.compile(regex)
    except re.error:
        return None
    return regex


def _set(inside: str) -> str:
    negated = inside[:1] in ("!", "^")
    made = []
    for token in _IN_SET.finditer(inside[1:] if negated else inside):
        if token["of"]:
            made.append(_CLASSES.get(token["of"], ""))
        else:
            made.append("-" if token["dash"] else re.escape(token["escaped"] or token["plain"]))
    # A dash at an end is one; Python would warn of two.
    text = "".join(made)
    text = re.sub(r"^-|-$", r"\\-", text)
    return f"(?![/{FOLDER}])[{'^' if negated else ''}{text}]"
