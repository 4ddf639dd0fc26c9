"""Paths that each trial has for itself on this machine: for its metrics, and for the checkpoints that pbt hands on. A trial learns
them from its command and environment alone."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping


def map_paths(text: str, maps: Mapping[str, str]) -> str:
    """The text with each path of `maps`, and each path below it, replaced: `--data=/opt/app/x`, `/a:/opt/app`."""
    if not maps:
        return text
    longest_first = sorted(maps, key=len, reverse=True)
    pattern = rf"(?<![\w./~-])({'|'.join(map(re.escape, longest_first))})(?![\w.~-])"
    return re.sub(pattern, lambda match: maps[match[1]], text)


def unnamed(what: str, path: str, texts: Collection[str]) -> tuple[str, str] | None:
    """(message, hint) where a trial's `what` cannot lie at `path`, else None. Paths are mapped in `texts`. A trainer that finds the path
    in no text writes to a path of its own, which all trials that run at a time would share."""
    if path and not path.strip("/"):
        return f"the trial's {what} cannot lie in {path} itself", "name a folder below it"
    if not path or any(map_paths(text, {posixpath.normpath(path): ""}) != text for text in texts):
        return None
    message = f"{path}, where the trial's {what} are to lie, occurs nowhere in the job's command, env or workingDir"
    return message, f"each trial has a folder of its own here: give the trainer the path as an argument or in env ({path})"
