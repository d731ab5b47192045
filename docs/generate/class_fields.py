"""The fields of a dataclass as its source states them: type, default, and the string below each.

Nothing is imported, so that a class beside torch costs no more than any other.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class SourceField:
    """One field of a class."""

    name: str
    kind: str
    """Its annotation, such as `float | None`."""
    default: str | None
    """The source of its default; None where it has none."""
    words: str | None
    """The string below it, on one line."""


@dataclass(frozen=True)
class SourceClass:
    """A dataclass, with its docstring and its fields in their order."""

    name: str
    words: str | None
    fields: tuple[SourceField, ...]


def classes_in(path: str) -> dict[str, SourceClass]:
    """The dataclasses of a file of the repository, by name."""
    tree = ast.parse((REPOSITORY / path).read_text("utf-8"))
    found = [_class(node) for node in tree.body if isinstance(node, ast.ClassDef)]
    return {one.name: one for one in found if one.fields}


def one_line(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(cleandoc(text).split())


def _class(node: ast.ClassDef) -> SourceClass:
    words = ast.get_docstring(node)
    found = []
    for place, item in enumerate(node.body):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            below = node.body[place + 1] if place + 1 < len(node.body) else None
            default = ast.unparse(item.value) if item.value else None
            kind = ast.unparse(item.annotation)
            found.append(SourceField(item.target.id, kind, default, _string(below)))
    return SourceClass(node.name, words and one_line(words), tuple(found))


def _string(node: ast.stmt | None) -> str | None:
    """The text of a statement that is a string alone."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return None
    return one_line(node.value.value) if isinstance(node.value.value, str) else None
