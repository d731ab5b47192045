"""What figures share: order of runs, error bars, names of rows, and limits that keep them small.

Every point carries `customdata`: the name of its run, or for a mean over seeds its group. A trace
that is a whole run's or group's carries it in `meta`. So a page can hide points by what they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from multirun_analysis.metrics import Interval, over_seeds
from multirun_analysis.palette import MUTED, PARADIGM_COLORS
from multirun_analysis.pareto import energy_class
from multirun_analysis.rows import Row, grouped

MAX_LINES = 60
"""Lines of one figure; more can be told apart by nobody."""
MAX_ROWS = 60
"""Settings of a figure that has a row for each."""

EDGE = {"width": 1.5, "color": "#fff"}
HATCH = {"fgcolor": "#fff", "fillmode": "overlay", "size": 6, "solidity": 0.3}


def position(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def by_paradigm(runs: list[Row]) -> list[tuple[str, list[Row]]]:
    """Runs of each paradigm, in the palette's order, so that figures list them alike."""
    order = list(PARADIGM_COLORS)
    groups = grouped(runs, lambda run: str(run["paradigm"] or "unknown"))
    return sorted(groups.items(), key=lambda item: (position(order, item[0]), item[0]))


def settings_of(runs: list[Row]) -> list[list[Row]]:
    """Runs of each setting, paradigms in the palette's order."""
    return [rows for _, part in by_paradigm(runs) for rows in grouped(part, "group").values()]


def first_of_each(runs: list[Row], most: int = MAX_LINES) -> list[Row]:
    """At most so many runs: one of each setting before further seeds, in the order given."""
    turns = [(i, run) for rows in grouped(runs, "group").values() for i, run in enumerate(rows)]
    chosen = {run["run"] for _, run in sorted(turns, key=lambda turn: turn[0])[:most]}
    return [run for run in runs if run["run"] in chosen]


def say_left_out(fig: go.Figure, left_out: int, what: str) -> go.Figure:
    """The figure, which remembers how many it does not draw; `left_out_words` tells."""
    return fig.update_layout(meta={"left_out": left_out, "what": what})


def left_out_words(fig: go.Figure) -> str:
    """A sentence about what a figure does not draw; empty where it draws all."""
    meta: Any = fig.layout["meta"]
    if not isinstance(meta, dict) or not meta.get("left_out"):
        return ""
    return f"{meta['left_out']} more {meta['what']} are not drawn; the table has them."


def error_bars(
    errors: Sequence[float | None], factor: float, color: str, thickness: float
) -> dict[str, Any] | None:
    """Error bars; None where no point has one."""
    if all(error is None for error in errors):
        return None
    array = [(error or 0.0) / factor for error in errors]
    return {"type": "data", "array": array, "color": color, "thickness": thickness, "width": 0}


def setting_mean(rows: list[Row], column: str) -> Interval | None:
    """Mean over the seeds of one setting; None where no seed has the number."""
    return next(iter(over_seeds(rows, column).values()), None)


@dataclass(frozen=True)
class Setting:
    """The seeds of one setting whose joules were obtained alike."""

    label: str
    kind: str
    """measured, mixed, estimated or missing; empty where no joules are in the figure."""
    rows: list[Row]

    @property
    def paradigm(self) -> str:
        return str(self.rows[0]["paradigm"] or "unknown")

    @property
    def group(self) -> str:
        return self.rows[0]["group"]


def settings_by_kind(runs: list[Row], quality: str | None) -> list[Setting]:
    """Settings in the palette's order; one with measured and estimated seeds is told apart as two.

    `quality` is the column that says how joules were obtained; None where no joules are told, and
    then the kind is empty.
    """
    found = []
    for rows in settings_of(runs):
        kinds = grouped(rows, lambda run: energy_class(run[quality]) if quality else "")
        for kind, part in kinds.items():
            apart = f" · {kind}" if len(kinds) > 1 else ""
            found.append(Setting(part[0]["group_label"] + apart, kind, part))
    return found


def facets(rows: list[Row]) -> Row:
    """What a table says of a setting before its numbers."""
    first = rows[0]
    return {
        "group": first["group"],
        "setting": first["group_label"],
        "paradigm": first["paradigm"],
        "model": first["model"],
        "gpu": first["gpu"],
        "num_seeds": len(rows),
    }


def thin(count: int, most: int) -> list[int]:
    """Indices of at most so many of `count` values, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def coordinates(values: Any) -> np.ndarray:
    """The numbers of a line, in four bytes each: more digits than a screen has."""
    return np.asarray(values, dtype="float32")


def padded(values: Sequence[float]) -> list[float]:
    """A range around the values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    padding = 0.1 * (high - low) or 0.1 * abs(high)
    return [low - padding, high + padding]


def decades(low: float, high: float) -> list[float]:
    """The range of a logarithmic axis, as plotly wants it, that holds both ends."""
    return [math.log10(low) - 0.05, math.log10(high) + 0.05]


def short_name(label: str) -> str:
    """A setting in two lines that fit a phone: its paradigm, then the rest, muted; HTML."""
    first, *rest = label.split(" · ")
    second = " · ".join(rest)
    second = second if len(second) <= 26 else f"{second[:12]}…{second[-13:]}"
    second = f"<br><span style='color:{MUTED}'>{escape(second)}</span>" if second else ""
    return escape(first if len(first) <= 26 else f"{first[:25]}…") + second


def named_rows(fig: go.Figure, labels: list[str]) -> go.Figure:
    """The figure with its rows in this order, from below, and names short enough for a phone."""
    fig.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=labels,
        tickvals=labels,
        ticktext=[short_name(label) for label in labels],
        showgrid=False,
        ticks="",
    )
    return fig


def seeds_words(interval: Interval) -> str:
    """What stands behind a mean, for hover text."""
    if interval.num_values == 1:
        return "one seed"
    return f"mean of {interval.num_values} seeds, 95 % interval"
