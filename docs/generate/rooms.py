"""The rooms of the code: on which floor each lies, what is in it, and what it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from docs.generate.class_fields import REPOSITORY

PACKAGES = ("kdwatts", "multirun_analysis")

Room = tuple[str, str]
"""Package, and a folder of it or a file that lies loose there."""


@dataclass(frozen=True)
class House:
    """All rooms and the arrows between them."""

    floors: dict[Room, int]
    """The lowest is 1. The analysis stands on the floors of kdwatts that it uses."""
    arrows: dict[Room, set[Room]]
    """What each room imports."""
    loads_torch: set[str]
    """Rooms of kdwatts that may import torch."""


def house() -> House:
    """The rooms as `tests/test_floors.py` orders them and as the files import each other."""
    rules = _rules()
    own, analysis = (rules["FLOORS"][package] for package in PACKAGES)
    beside = len(own) - len(analysis)
    floors = {
        (package, room): number + raised
        for package, rows, raised in ((PACKAGES[0], own, 1), (PACKAGES[1], analysis, 1 + beside))
        for number, rooms in enumerate(rows)
        for room in rooms
    }
    return House(floors, _imports(), set(rules["MAY_LOAD_TORCH"]))


def without_detours(arrows: Mapping[Room, set[Room]]) -> dict[Room, set[Room]]:
    """The arrows that no path of others replaces (the transitive reduction)."""
    return {
        room: {there for there in imported if not _is_reached(room, there, arrows)}
        for room, imported in arrows.items()
    }


def _is_reached(room: Room, goal: Room, arrows: Mapping[Room, set[Room]]) -> bool:
    """Whether a path of two or more arrows leads there."""
    left, seen = list(arrows[room] - {goal}), set[Room]()
    while left:
        here = left.pop()
        if here == goal:
            return True
        if here not in seen:
            seen.add(here)
            left += arrows.get(here, ())
    return False


def _rules() -> dict[str, dict]:
    """The tables of `tests/test_floors.py` that are literals, by name."""
    tree = ast.parse((REPOSITORY / "tests" / "test_floors.py").read_text("utf-8"))
    return {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("FLOORS", "MAY_LOAD_TORCH")
    }


def _imports() -> dict[Room, set[Room]]:
    found: dict[Room, set[Room]] = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            here = _room(path.relative_to(REPOSITORY).parts)
            if here is not None:
                found.setdefault(here, set()).update(set(_rooms_imported(path)) - {here})
    return found


def _rooms_imported(path: Path) -> Iterator[Room]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            room = _room(tuple(name.split(".")))
            if room and room[1] != "__version__":
                yield room


def _room(parts: tuple[str, ...]) -> Room | None:
    """The room of a file or of a dotted name; None outside of the two packages."""
    if parts[0] not in PACKAGES or len(parts) < 2 or parts[1] == "__init__.py":
        return None
    return parts[0], parts[1].removesuffix(".py")
