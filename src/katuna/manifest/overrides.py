"""The algorithm and the early stopping that a run is given in the place of the file's, put into the document before it is checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from katuna.errors import LOCAL, Finding, InputRefused
from katuna.manifest.algorithms import ALGORITHMS, HERE
from katuna.manifest.settings import EARLY_STOPPING
from katuna.manifest.yamltext import Document

LEAST_DEMANDING = "random"
"""Stands in the document for an algorithm that Katib does not know; `search.choice` checks that algorithm."""


@dataclass(frozen=True)
class Overrides:
    """`algorithm` and `early_stopping` are names, not only of Katib's; None keeps the document's own. Settings are added to the
    document's where the name stays the same; under another name they are the only settings."""

    algorithm: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    early_stopping: str | None = None
    stopping_settings: Mapping[str, str] = field(default_factory=dict)

    def applied(self, document: Document) -> Document:
        """The document with the overrides that Katib knows, to be checked in the place of `document`.

        Raises InputRefused where another algorithm is to search a nasConfig.
        """
        spec = document.value.get("spec")
        if self == Overrides() or not isinstance(spec, dict):
            return document
        if self.algorithm is not None and spec.get("nasConfig") is not None:
            raise InputRefused(
                f"--algorithm {self.algorithm}: the file describes a nasConfig, and no algorithm here searches one "
                "(run it on Katib, or write spec.parameters in its place)"
            )
        changed = dict(spec)
        if self.algorithm is not None or self.settings:
            name = self.algorithm if self.algorithm in (None, *HERE) else LEAST_DEMANDING
            known = {each: algorithm.settings for each, algorithm in ALGORITHMS.items()}
            changed["algorithm"] = _overridden(spec.get("algorithm"), name, self.settings, known)
        if self.early_stopping not in (None, *EARLY_STOPPING):
            changed.pop("earlyStopping", None)
        elif self.early_stopping is not None or "earlyStopping" in spec:
            own = spec.get("earlyStopping")
            changed["earlyStopping"] = _overridden(own, self.early_stopping, self.stopping_settings, EARLY_STOPPING)
        return replace(document, value={**document.value, "spec": changed})

    def attributed(self, finding: Finding) -> Finding:
        """The finding, placed at the option where the option, and not the file, is at fault."""
        for path, option, name in (
            ("spec.algorithm", "--algorithm", self.algorithm),
            ("spec.earlyStopping", "--early-stopping", self.early_stopping),
        ):
            if name is not None and finding.path.startswith(path):
                return replace(finding, file=f"{option} {name}", line=0, column=0, path="", value="", on=LOCAL)
        return finding


def _overridden(own: Any, name: str | None, settings: Mapping[str, str], known: Mapping[str, Collection[str]]) -> Any:
    """The field `algorithm` or `earlyStopping` with the name and those settings that Katib knows of it."""
    own_name = own.get("algorithmName") if isinstance(own, dict) else None
    name = own_name if name is None else name
    if not isinstance(name, str) or name not in known:
        return own
    base = own if name == own_name else {}
    kept = base.get("algorithmSettings", [])
    if not isinstance(kept, list):
        return own
    kept = [each for each in kept if not (isinstance(each, dict) and each.get("name") in settings)]
    added = [{"name": key, "value": text} for key, text in settings.items() if key in known[name]]
    return {**base, "algorithmName": name, "algorithmSettings": kept + added}


def own_seed(document: Document) -> int | None:
    """The `random_state` that the document's own algorithm is given, where it is a whole number."""
    with suppress(AttributeError, KeyError, TypeError, ValueError, StopIteration):
        settings = document.value["spec"]["algorithm"]["algorithmSettings"]
        return int(next(each["value"] for each in settings if each.get("name") == "random_state"))
    return None
