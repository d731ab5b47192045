"""Names for code: one key for what a function does and for all of our functions that it calls.

The key does not depend on where code stands, nor on layout, comments, docstrings, annotations or
the text of errors. So a function that is moved, or described better, keeps its key. Names,
statements, defaults and the constants of modules are part of it. What is known only at run time is
not seen: a method of an argument whose class no annotation names, or a function that a variable
takes out of a dictionary.
"""

from __future__ import annotations

import ast
import functools
import importlib
import itertools
import json
import sys
import tokenize
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from kdwatts.runtime.fingerprint import fingerprint

_OWN = "kdwatts"
_NOTHING = object()
"""Stands for a name that means nothing here, where None may be what one means."""
_UNSAID = {"ctx", "kind", "type_comment", "annotation", "returns", "msg"}
"""Fields of a syntax tree that change nothing that is computed."""


def code_key(*functions: Any) -> str | None:
    """The key of functions or classes together. None where the source of one cannot be read.

    Calls are followed inside kdwatts and inside the packages that the functions belong to.
    """
    ours = {_OWN, *(_package(_layers(function)[-1]) for function in functions)}
    roots = [_bare(function, ours) for function in functions]
    ahead = [root if isinstance(root, FunctionType | type) else type(root) for root in roots]
    known = list[Any]()
    forms, constants = list[str](), set[str]()

    def take(name: str, meant: Any) -> None:
        bare = _bare(meant, ours)
        if isinstance(bare, FunctionType | type):
            ahead.extend([bare] * (_package(bare) in ours))
        elif (text := _constant(name, bare)) is not None:
            constants.add(text)
        for named in _bound(meant):
            take(*named)

    for named in itertools.chain.from_iterable(map(_bound, functions)):
        take(*named)
    while ahead:
        thing = ahead.pop(0)
        if any(thing is other for other in known):
            continue
        known.append(thing)
        found = _definition(thing)
        if found is None:
            return None
        forms.append(json.dumps(_form(found)))
        for named in _meanings(thing, found, ours):
            take(*named)
    return fingerprint([forms[: len(roots)], sorted(forms[len(roots) :]), sorted(constants)])


def _package(thing: Any) -> str:
    """The topmost package that defines a function or class; a wrapper's is its own."""
    names = thing.__globals__["__name__"] if isinstance(thing, FunctionType) else thing.__module__
    return (names or "").partition(".")[0]


def _layers(thing: Any) -> list[Any]:
    """A thing and what lies under it: a method's function, a partial one's, a wrapped one."""
    layers = [thing]
    for name in ("__func__", "func", "__wrapped__") * 8:
        if isinstance(thing, ModuleType | type) or not callable(thing):
            break
        if (below := getattr(thing, name, None)) is not None:
            layers.append(thing := below)
    return layers


def _bound(thing: Any) -> Iterator[tuple[str, Any]]:
    """The arguments that partial functions among its layers hold, by place or name."""
    for layer in _layers(thing):
        if isinstance(layer, functools.partial):
            yield from ((f"argument {place}", value) for place, value in enumerate(layer.args))
            yield from layer.keywords.items()


def _bare(thing: Any, ours: set[str]) -> Any:
    """A function of ours without the wrappers of others around it; else what lies under all."""
    layers = _layers(thing)
    own = (each for each in layers if isinstance(each, FunctionType) and _package(each) in ours)
    return next(own, layers[-1])


def _definition(thing: Any) -> ast.AST | None:
    """The syntax tree of a function or class."""
    if isinstance(thing, FunctionType):
        code = thing.__code__
        path, name, first_line = code.co_filename, code.co_qualname, code.co_firstlineno
    else:
        path = getattr(sys.modules.get(thing.__module__), "__file__", None) or ""
        name, first_line = thing.__qualname__, 0
    found = _definitions(path).get(name, [])
    # Of several of one name, as under if and else, the one that was run where its line tells.
    exact = [node for line, node in found if line == first_line] or [node for _, node in found]
    return ast.Module(exact, []) if exact else None  # pyright: ignore[reportArgumentType]


@functools.cache
def _definitions(path: str) -> dict[str, list[tuple[int, ast.AST]]]:
    """Qualified name to first line and syntax tree of all that a file defines; none of no file."""
    try:
        with tokenize.open(path) as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, UnicodeDecodeError):
        return {}
    found: dict[str, list[tuple[int, ast.AST]]] = {}

    def visit(parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            below = prefix
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
                name = prefix + getattr(node, "name", "<lambda>")
                decorators = getattr(node, "decorator_list", [])
                first_line = min(part.lineno for part in (node, *decorators))
                found.setdefault(name, []).append((first_line, node))
                below = f"{name}." if isinstance(node, ast.ClassDef) else f"{name}.<locals>."
            visit(node, below)

    visit(tree, "")
    return found


def _form(part: Any) -> Any:
    """A syntax tree as JSON without what changes nothing, the same in every version of Python."""
    if isinstance(part, list):
        return [_form(each) for each in part if not _is_unsaid(each)]
    if isinstance(part, ast.Constant):
        return ["Constant", repr(part.value)]
    if isinstance(part, ast.Raise):
        return ["Raise"]  # What it says reaches no artifact.
    if isinstance(part, ast.JoinedStr):
        # Some versions end a format by an empty text.
        texts = [each for each in part.values if getattr(each, "value", None) != ""]
        return ["JoinedStr", _form(texts)]
    if isinstance(part, ast.AST):
        fields = {
            name: _form(value)
            for name, value in ast.iter_fields(part)
            if name not in _UNSAID and value is not None and value != []
        }
        return [type(part).__name__, sorted(fields.items())]
    return part


def _is_unsaid(part: Any) -> bool:
    is_text = isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
    return is_text or isinstance(part, ast.Import | ast.ImportFrom)


def _meanings(thing: Any, definition: ast.AST, ours: set[str]) -> Iterator[tuple[str, Any]]:
    """Every name in a definition that means something outside of it, and what it means."""
    local: set[str] = set()
    if isinstance(thing, FunctionType):
        code, closure = thing.__code__, thing.__closure__ or ()
        local = {*code.co_varnames, *code.co_cellvars}
        outer = {
            name: cell.cell_contents
            for name, cell in zip(code.co_freevars, closure, strict=True)
            if _is_filled(cell)
        }
        space = {**thing.__globals__, **outer}
    else:
        space = vars(sys.modules[thing.__module__])
    space = {name: meant for name, meant in space.items() if name not in local}
    for node in ast.walk(definition):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.partition(".")[0] in ours:
                module = importlib.import_module(node.module)
                yield from ((alias.name, getattr(module, alias.name)) for alias in node.names)
        elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            meant = _meaning(node, space, ours)
            if meant is not _NOTHING and not isinstance(meant, ModuleType):
                yield ast.unparse(node).rpartition(".")[2], meant


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _meaning(node: ast.AST, space: Mapping[str, Any], ours: set[str]) -> Any:
    """What a name, one of a module of ours, or a constant entry of a dictionary stands for."""
    if isinstance(node, ast.Name):
        # A module's own name tells where code stands.
        return _NOTHING if node.id.startswith("__") else space.get(node.id, _NOTHING)
    if isinstance(node, ast.Attribute):
        module = _meaning(node.value, space, ours)
        if isinstance(module, ModuleType) and module.__name__.partition(".")[0] in ours:
            return getattr(module, node.attr, _NOTHING)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        entries = _meaning(node.value, space, ours)
        return entries.get(node.slice.value, _NOTHING) if isinstance(entries, dict) else _NOTHING
    return _NOTHING


def _constant(name: str, value: Any) -> str | None:
    """A constant with its name; None for what is none, and for containers not named as one."""
    if isinstance(value, list | dict | set) and not name.isupper():
        return None
    text = _plain(value)
    return None if text is None else f"{name}={text}"


def _plain(value: Any) -> str | None:
    """A text for numbers, strings and containers of them; None for all else."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, dict):
        value = list(value.items())
    if not isinstance(value, tuple | list | set | frozenset):
        return None
    parts = [_plain(part) for part in value]
    if None in parts:
        return None
    texts = map(str, parts)
    return f"[{', '.join(sorted(texts) if isinstance(value, set | frozenset) else texts)}]"
