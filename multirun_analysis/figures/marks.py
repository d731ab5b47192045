"""What figures share: points, lines and error bars, axes, rows, and limits that keep them small.

Every point carries `customdata`: the name of its run, or the group for a mean over seeds. A trace
that is a whole run's or group's carries it in `meta`. So a page can hide points by what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kdwatts.metrics.quantity import Quantity
from multirun_analysis.figures.palette import MUTED, styled
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.seeds import over_seeds
from multirun_analysis.values import units
from multirun_analysis.values.order import settings_of
from multirun_analysis.values.rows import Row, grouped, known

MAX_LINES = 60
"""Lines of one figure; more can be told apart by nobody."""
MAX_MARKS = 8
"""Marks on a line of many points: enough to tell whose it is."""
MAX_ROWS = 60
"""Settings of a figure that has a row for each."""

EDGE = {"width": 1.5, "color": "#fff"}
HATCH = {"fgcolor": "#fff", "fillmode": "overlay", "size": 6, "solidity": 0.3}


def first_of_each(runs: list[Row], most: int = MAX_LINES) -> list[Row]:
    """At most so many runs: one of each setting before further seeds, in the given order."""
    turns = [(i, run) for rows in grouped(runs, "group").values() for i, run in enumerate(rows)]
    chosen = {run["run"] for _, run in sorted(turns, key=lambda turn: turn[0])[:most]}
    return [run for run in runs if run["run"] in chosen]


def legend_once(fig: go.Figure) -> go.Figure:
    """The figure, with only the first trace of each legend group in its legend."""
    traces: Any = fig.data
    groups: set[str] = set()
    for trace in traces:
        if trace.legendgroup is not None:
            trace.showlegend = trace.legendgroup not in groups
            groups.add(trace.legendgroup)
    return fig


def legend_px(fig: go.Figure, *, letters: int) -> int:
    """Pixels that a legend takes beyond its first row, so that the plot below keeps its size.

    `letters` is what a row holds. The line and gap of each name count as six.
    """
    traces: Any = fig.data
    names = {str(t.name) for t in traces if t.name and t.showlegend is not False}
    rows = -(-sum(len(name) + 6 for name in names) // letters)
    return 28 * max(0, rows - 1)


def with_left_out(fig: go.Figure, left_out: int, what: str) -> go.Figure:
    """The figure, which remembers how many things it does not draw. `left_out_words` says it."""
    return fig.update_layout(meta={"left_out": left_out, "what": what})


def left_out_words(fig: go.Figure) -> str:
    """A sentence about what a figure does not draw. Empty where it draws everything."""
    meta: Any = fig.layout["meta"]
    if not isinstance(meta, dict) or not meta.get("left_out"):
        return ""
    return f"The figure leaves out {meta['left_out']} more {meta['what']}. The table has them."


def error_bars(
    marks: Sequence[Row],
    up: str,
    down: str | None = None,
    *,
    color: str,
    thickness: float,
    factor: float = 1.0,
    width: float = 0,
) -> dict[str, Any] | None:
    """Error bars from the columns of their arms. Without `down` both arms are `up`.

    None where no mark has an error: plotly would draw a stub.
    """
    if not known(marks, up):
        return None
    bars: dict[str, Any] = {"type": "data", "color": color, "thickness": thickness, "width": width}
    bars["array"] = [(mark[up] or 0.0) / factor for mark in marks]
    if down is not None:
        bars["symmetric"] = False
        bars["arrayminus"] = [(mark[down] or 0.0) / factor for mark in marks]
    return bars


def points(
    marks: Sequence[Row],
    *,
    x: str,
    y: str,
    of: str,
    text: Callable[[Row], str],
    x_factor: float = 1.0,
    y_factor: float = 1.0,
) -> dict[str, Any]:
    """Where marks stand, what each says under the pointer, and whose it is.

    `x`, `y` and `of` are columns. The last one names the run or group.
    """
    return {
        "x": [mark[x] if x_factor == 1 else mark[x] / x_factor for mark in marks],
        "y": [mark[y] if y_factor == 1 else mark[y] / y_factor for mark in marks],
        "hovertext": [text(mark) for mark in marks],
        "hoverinfo": "text",
        "customdata": [mark[of] for mark in marks],
    }


def symbol(shape: str, kind: str | bool | None) -> str:
    """A shape, open for what is not measured. `kind` may also be whether it is filled."""
    return shape if kind in ("measured", True) else f"{shape}-open"


def dash(kind: str, measured: str = "solid") -> str:
    """How a line is drawn: dotted where it is not measured."""
    return measured if kind == "measured" else "dot"


def braceless(text: str) -> str:
    """Text for a hover template, in which braces are variables."""
    return text.replace("{", "(").replace("}", ")")


def in_template(text: str) -> str:
    """Text from a run folder for a hover template."""
    return braceless(escape(text))


def setting_mean(rows: list[Row], column: str) -> Quantity | None:
    """Mean over the seeds of one setting. None where no seed has the number."""
    return next(iter(over_seeds(rows, column).values()), None)


@dataclass(frozen=True)
class Setting:
    """The seeds of one setting whose joules were obtained alike."""

    label: str
    kind: str
    """measured, mixed, estimated or missing; empty where no joules are in the figure."""
    rows: list[Row]


def settings_by_kind(runs: list[Row], quality: str | None) -> list[Setting]:
    """Settings in the palette's order. One with measured and estimated seeds is split in two.

    `quality` is the column that says how joules were obtained. None where no joules are shown: then
    the kind is empty.
    """
    found = []
    for rows in settings_of(runs):
        kinds = grouped(rows, lambda run: energy_class(run[quality]) if quality else "")
        for kind, part in kinds.items():
            apart = f" · {kind}" if len(kinds) > 1 else ""
            found.append(Setting(part[0]["group_label"] + apart, kind, part))
    return found


def facets(rows: list[Row]) -> Row:
    """What a table says about a setting before its numbers."""
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
    """Indices of at most so many of `count` values. The first and the last are among them."""
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


def log_axis(low: float, high: float, *, prefixed: bool = False) -> dict[str, Any]:
    """A logarithmic axis that holds both ends, with ticks in plain numbers. `prefixed`: 1 M.

    Plotly's own ticks between powers of ten are single digits, which a reader takes for values. A
    value of 0 has no place on it. The axis then holds three decades below the other end.
    """
    if high <= 0:
        return {"type": "log"}
    low = low if low > 0 else high / 1e3
    first, last = math.log10(low), math.log10(high)
    padding = 0.04 * (last - first) or 0.1
    first, last = first - padding, last + padding
    span = last - first
    steps = (1, 1.5, 2, 3, 4, 6, 8) if span < 0.9 else (1, 2, 5) if span < 2.2 else (1,)
    powers = range(math.floor(first), math.ceil(last) + 1)
    every = max(1, math.ceil(len(powers) / 10))
    values = [step * 10.0**power for power in powers[::every] for step in steps]
    values = [value for value in values if first <= math.log10(value) <= last]
    if len(values) < 2:
        values = [low, high] if high > low else [low]
    words = [units.quantity(v, "").rstrip() if prefixed else f"{v:,.3g}" for v in values]
    texts = [_plain(word) for word in words]
    return {"type": "log", "range": [first, last], "tickvals": values, "ticktext": texts}


def _plain(number: str) -> str:
    """`1.00 k` as `1 k`: a tick is exact."""
    head, space, prefix = number.partition(" ")
    head = head.rstrip("0").rstrip(".") if "." in head else head
    return head + space + prefix


def short_name(label: str) -> str:
    """A setting in two lines that fit a phone: its paradigm, then the rest, muted, as HTML."""
    first, *rest = label.split(" · ")
    second = " · ".join(rest)
    second = second if len(second) <= 26 else f"{second[:12]}…{second[-13:]}"
    second = f"<br><span style='color:{MUTED}'>{escape(second)}</span>" if second else ""
    return escape(first if len(first) <= 26 else f"{first[:25]}…") + second


def first_rows(table: list[Row], column: str) -> tuple[list[str], list[Row], int]:
    """The first MAX_ROWS names in a column, their marks, and how many names are left out."""
    names = list(dict.fromkeys(row[column] for row in table))
    shown = names[:MAX_ROWS]
    return shown, [row for row in table if row[column] in set(shown)], len(names) - len(shown)


def in_rows(
    fig: go.Figure,
    shown: Sequence[str],
    *,
    left_out: int,
    what: str,
    height: int,
    x: str = "",
    y: str = "Setting",
) -> go.Figure:
    """The finished figure: a row for each name, the first on top, short enough for a phone."""
    labels = list(reversed(shown))
    with_left_out(styled(fig, height=height, x=x, y=y), left_out, what)
    fig.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=labels,
        tickvals=labels,
        ticktext=[short_name(label) for label in labels],
        range=[-0.55, max(1, len(labels)) - 0.45],
        showgrid=False,
        ticks="",
    )
    return fig
