"""The order in which runs are listed: by paradigm, by the options that vary, by setting."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from multirun_analysis.values.rows import Row, grouped

PARADIGMS = ("sft", "response", "feature", "relational", "combined", "sequence", "on_policy")
"""Those that ship, from the plainest on; others follow by name."""


def options_of(run: Row) -> dict[str, str]:
    """What varies between runs, beside paradigm and seed, with its value in this run."""
    return json.loads(run.get("options") or "{}")


def option_order(run: Row) -> list[tuple[str, float, str]]:
    """A sorting key that puts numbers in the order of their size."""
    return [(key, *_number_or_text(value)) for key, value in options_of(run).items()]


def _number_or_text(value: str) -> tuple[float, str]:
    try:
        number = float(value.removesuffix(" W"))
    except ValueError:
        return math.inf, value
    return (math.inf, value) if math.isnan(number) else (number, "")


def position(order: Sequence[str], name: str) -> int:
    """The place of a name in an order. Unknown names come last."""
    return order.index(name) if name in order else len(order)


def by_paradigm(runs: list[Row]) -> list[tuple[str, list[Row]]]:
    """Runs of each paradigm, in one order, so that figures and tables list them alike.

    Within a paradigm they are in the order of the options that vary.
    """
    groups = grouped(sorted(runs, key=option_order), lambda run: str(run["paradigm"] or "unknown"))
    return sorted(groups.items(), key=lambda item: (position(PARADIGMS, item[0]), item[0]))


def settings_of(runs: list[Row]) -> list[list[Row]]:
    """Runs of each setting, paradigms in their order."""
    return [rows for _, part in by_paradigm(runs) for rows in grouped(part, "group").values()]


def in_order(runs: list[Row]) -> list[Row]:
    """Runs in the order of their settings, with the seeds of one setting together."""
    return [run for rows in settings_of(runs) for run in rows]
