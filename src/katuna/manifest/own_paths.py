"""Paths that each trial has for itself on this machine: for its metrics, and for the checkpoints that pbt hands on. A trial learns of
them through its command and environment, or not at all."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping


def map_paths(text: str, maps: Mapping[str, str]) -> str:
    """Replaces each path of `maps` and the paths below it, wherever one begins in `text`: `--data=/opt/app/x`, `/a:/opt/app`."""
    if not maps:
        return text
    longest_first = sorted(maps, key=len, reverse=True)
    pattern = rf"(?<![\w./~-])({'|'.join(map(re.escape, longest_first))})(?![\w.~-])"
    return re.sub(pattern, lambda match: maps[match[1]], text)


def unnamed(what: str, path: str, texts: Collection[str]) -> tuple[str, str] | None:
    """Why a trial's `what` cannot lie at `path`, as (message, hint); None where they can, or `path` is "". `texts` are those that
    paths are mapped in: a trainer that finds the path in none of them writes to the one that it has built in, which is one for all
    trials that run at a time."""
    if path and not path.strip("/"):
        return f"the trial's {what} cannot lie in {path} itself", "name a folder below it"
    if not path or any(map_paths(text, {posixpath.normpath(path): ""}) != text for text in texts):
        return None
    message = f"{path}, where the trial's {what} are to lie, occurs nowhere in the job's command, env or workingDir"
    return message, f"each trial has a folder of its own here: give the trainer the path as an argument or in env ({path})"
