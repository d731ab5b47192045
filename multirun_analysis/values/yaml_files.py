"""YAML files of a run or of conf/, read by a YAML parser: OmegaConf wraps, quotes and escapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_settings(path: Path) -> Any:
    """The content of a YAML file. None where there is none, or one that a killed run left torn."""
    if not path.is_file():
        return None
    try:
        return yaml.load(path.read_text(encoding="utf-8", errors="replace"), _LOADER)
    except yaml.YAMLError:
        return None


def value_at(tree: Any, *names: str) -> Any:
    """The value at a path of keys. None where one of them is missing."""
    for name in names:
        if not isinstance(tree, dict):
            return None
        tree = tree.get(name)
    return tree


def composed(folder: Path) -> dict[str, Any]:
    """Each setting of a run's configuration by its dotted key. Empty where it left no file."""
    for path in (folder / "config.yaml", folder / ".hydra" / "config.yaml"):
        if isinstance(tree := read_settings(path), dict):
            return dict(_flat(tree, ""))
    return {}


def _flat(tree: dict[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
