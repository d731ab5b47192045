"""Which values an option may have, read off the checks in its class's `__post_init__`."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from textwrap import dedent
from typing import Any


def _choice(valid: Sequence[str]) -> str:
    return f"One of {', '.join(f'`{value}`' for value in valid)}."


def _choice_or_plugin(shipped: Sequence[str], group: str) -> str:
    return f"{_choice(shipped)[:-1]}, or a name of an installed package (entry points `{group}`)."


IN_WORDS: dict[str, Callable[..., str]] = {
    "choice": _choice,
    "choice_or_plugin": _choice_or_plugin,
    "at_least": lambda low: f"At least {low:g}.",
    "above_zero": lambda: "Above 0.",
    "between": lambda low, high: f"From {low:g} to {high:g}.",
}
"""The checks of `kdwatts.config.ranges`, by name, as a sentence of their further arguments."""


def ranges_of(settings: type) -> dict[str, list[str]]:
    """Each field with a check to the sentences about its values."""
    check = getattr(settings, "__post_init__", None)
    if check is None:
        return {}
    tree = ast.parse(dedent(inspect.getsource(check)))
    module = vars(sys.modules[settings.__module__])
    found: dict[str, list[str]] = {}
    for key, sentence in _checks(tree.body[0].body, module):  # pyright: ignore
        # Of a sum of two fields neither has the range.
        field = "" if "+" in key else re.split(r"[. ]+", key)[-1]
        if field in settings.__dataclass_fields__ and sentence not in found.get(field, []):
            found.setdefault(field, []).append(sentence)
    return found


def _checks(body: Sequence[ast.stmt], names: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The key and the sentence of every check in these statements, also inside `if` and `for`."""
    for statement in body:
        if isinstance(statement, ast.For) and _is_known(statement.iter, names):
            target = ast.unparse(statement.target)
            for value in _value(statement.iter, names):
                bound: dict[str, Any] = {}
                exec(f"{target} = value", {"value": value}, bound)
                yield from _checks(statement.body, names | bound)
        elif isinstance(statement, ast.For | ast.If):
            yield from _checks(statement.body, names)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            if isinstance(call.func, ast.Name) and call.func.id in IN_WORDS:
                key, _, *rest = call.args
                limits = [_value(argument, names) for argument in rest]
                yield _value(key, names), IN_WORDS[call.func.id](*limits)


def _is_known(node: ast.expr, names: dict[str, Any]) -> bool:
    """Whether an expression has a value without an object of the class."""
    used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return "self" not in used and used <= names.keys()


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(node), "<range>", "eval"), names)
