"""YAML files of a run or of conf/, read by a YAML parser: OmegaConf wraps, quotes and escapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_settings(path: Path) -> Any:
    """What a YAML file holds; None where there is none, or one that a killed run left torn."""
    if not path.is_file():
        return None
    try:
        return yaml.load(path.read_text(encoding="utf-8", errors="replace"), _LOADER)
    except yaml.YAMLError:
        return None


def value_at(tree: Any, *names: str) -> Any:
    """The value at a path of keys, None where one of them is not there."""
    for name in names:
        if not isinstance(tree, dict):
            return None
        tree = tree.get(name)
    return tree
