"""Guards around the functions that aggregate a task's answers: an error in one spoils no other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any


class Guarded:
    """A function of the harness that gives NaN where its arithmetic has no number.

    It equals the function and has its name and hash, by which the harness finds the standard error
    that belongs to it. It is a class at the top of a module, since the harness sends it to other
    processes.
    """

    def __init__(self, function: Callable[[Sequence[Any]], float]) -> None:
        self.function = function
        self.__name__ = getattr(function, "__name__", "aggregation")

    def __call__(self, items: Sequence[Any]) -> float:
        try:
            return self.function(items)
        except ArithmeticError:  # exp of a thousand nats a word, or a mean over no byte.
            return math.nan

    def __eq__(self, other: object) -> bool:
        return self.function == (other.function if isinstance(other, Guarded) else other)

    def __hash__(self) -> int:
        return hash(self.function)


def guard_aggregations(leaf: Any) -> None:
    """Guard the function of each metric of one task of the harness."""
    aggregations = leaf.aggregation()
    for metric, function in aggregations.items():
        if not isinstance(function, Guarded):
            aggregations[metric] = Guarded(function)
