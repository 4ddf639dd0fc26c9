"""Plain values as YAML text that kubectl reads as the same values."""

from __future__ import annotations

from typing import Any

import yaml

from katuna.manifest.yamltext import scalar
from katuna.text import printable


def to_yaml(value: Any) -> str:
    """YAML with the keys in their order. Texts that kubectl would not read as text, such as `1e-5`, are quoted. Characters that steer a
    terminal or turn the writing direction are escaped."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 30)
    return printable(text, newlines=True)  # whatever this escapes stands in double quotes, where YAML has the same escapes


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    quoted = _looks_otherwise(text) or printable(text, newlines=True) != text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


def _looks_otherwise(text: str) -> bool:
    """Whether kubectl reads the bare text as a number, say. PyYAML quotes by YAML 1.1, where a float has a dot."""
    try:
        return not isinstance(scalar(text), str)
    except ValueError:
        return True


_Dumper.add_representer(str, _represent_text)
