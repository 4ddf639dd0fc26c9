"""What a run is given in the place of a document's algorithm and early stopping, put into the document before it is checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from katuna.errors import LOCAL, Finding, InputRefused
from katuna.manifest.algorithms import ALGORITHMS, EARLY_STOPPING, HERE
from katuna.manifest.yamltext import Document

PLAIN = "random"
"""The algorithm of Katib's that asks least of a space: others' names are checked as this one."""


@dataclass(frozen=True)
class Instead:
    """`algorithm` and `early_stopping` are names, not only of Katib's; None leaves the document's own. The settings stand in for
    single ones of the document's where the name is its own, else they are all."""

    algorithm: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    early_stopping: str | None = None
    stopping_settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_nothing(self) -> bool:
        return self.algorithm is None and self.early_stopping is None and not self.settings and not self.stopping_settings

    def applied(self, document: Document) -> Document:
        """The document as it is to be checked: with what Katib knows of all this.

        Raises InputRefused where another algorithm is to search a nasConfig.
        """
        spec = document.value.get("spec")
        if self.is_nothing or not isinstance(spec, dict):
            return document
        changed = dict(spec)
        if self.algorithm is not None or self.settings:
            changed["algorithm"] = self._algorithm(spec)
        if self.early_stopping is not None or self.stopping_settings:
            stopping = self._stopping(spec)
            changed.pop("earlyStopping", None)
            changed |= {} if stopping is None else {"earlyStopping": stopping}
        return replace(document, value={**document.value, "spec": changed})

    def _algorithm(self, spec: Mapping[str, Any]) -> Any:
        if self.algorithm is not None and spec.get("nasConfig") is not None:
            raise InputRefused(
                f"--algorithm {self.algorithm}: the file describes a nasConfig, and no algorithm here searches one "
                "(run it on Katib, or write spec.parameters in its place)"
            )
        own = spec.get("algorithm")
        if self.algorithm is None or self.algorithm in HERE:
            known = ALGORITHMS[self.algorithm].settings if self.algorithm is not None else _known(own, ALGORITHMS)
            return _standing(own, self.algorithm, self.settings, known)
        return {"algorithmName": PLAIN}

    def _stopping(self, spec: Mapping[str, Any]) -> Any:
        own = spec.get("earlyStopping")
        if self.early_stopping is not None and self.early_stopping not in EARLY_STOPPING:
            return None
        known = EARLY_STOPPING[self.early_stopping] if self.early_stopping is not None else _known(own, EARLY_STOPPING)
        return _standing(own, self.early_stopping, self.stopping_settings, known)

    def attributed(self, finding: Finding) -> Finding:
        """A finding on what an option says does not stand in the file."""
        for path, option, name in (
            ("spec.algorithm", "--algorithm", self.algorithm),
            ("spec.earlyStopping", "--early-stopping", self.early_stopping),
        ):
            if name is not None and finding.path.startswith(path):
                return replace(finding, file=f"{option} {name}", line=0, column=0, path="", value="", on=LOCAL)
        return finding


def _known(own: Any, table: Mapping[str, Any]) -> Collection[str]:
    """The settings that Katib knows of the document's own algorithm or rule."""
    name = own.get("algorithmName") if isinstance(own, dict) else None
    found = table.get(name) if isinstance(name, str) else None
    return getattr(found, "settings", found) or ()


def _standing(own: Any, name: str | None, settings: Mapping[str, str], known: Collection[str]) -> Any:
    """The field with the name and the known ones of the settings, keeping what else the document writes under the same name."""
    if name is None and not isinstance(own, dict):
        return own
    same = isinstance(own, dict) and (name is None or own.get("algorithmName") == name)
    base = dict(own) if same else {"algorithmName": name}
    kept = base.get("algorithmSettings", [])
    if not isinstance(kept, list):
        return base
    kept = [each for each in kept if not (isinstance(each, dict) and each.get("name") in settings)]
    written = kept + [{"name": key, "value": text} for key, text in settings.items() if key in known]
    base.pop("algorithmSettings", None)
    return base | ({"algorithmSettings": written} if written else {})


def own_seed(document: Document) -> int | None:
    """The `random_state` that the document's own algorithm is given, where it is a whole number."""
    value: Any = document.value
    for key in ("spec", "algorithm", "algorithmSettings"):
        value = value.get(key) if isinstance(value, dict) else None
    for each in value if isinstance(value, list) else ():
        if isinstance(each, dict) and each.get("name") == "random_state":
            try:
                return int(each.get("value", ""))
            except (TypeError, ValueError):
                return None
    return None
