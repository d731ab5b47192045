"""Points of serving.json as flat rows of a table, and back as records nest them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from kdwatts.records.schema import COMPONENTS
from kdwatts.records.serving_record import Figure, Percentiles, ServingPoint
from multirun_analysis.values.rows import Row

_KINDS = {field.name: str(field.type) for field in fields(ServingPoint)}

FIGURES = [name for name, kind in _KINDS.items() if kind == "Figure"]
"""Fields of a point that have an interval."""
PERCENTILES = [name for name, kind in _KINDS.items() if kind == "Percentiles"]
RANKS = [field.name for field in fields(Percentiles)]
PARTS = [field.name for field in fields(Figure) if field.name != "value"]
"""What a figure has beside its value, each a column that ends in it."""
METER_PARTS = ("shared_sd", "quality")
"""Parts of what a meter measured alone."""
PLAIN = {
    name: kind.split(" | ")[0]
    for name, kind in _KINDS.items()
    if kind.split(" | ")[0] in ("str", "int", "float")
}
"""Fields of one value, to their type."""


def is_of_meter(name: str) -> bool:
    """Whether a figure is of joules or watts."""
    return "j_per_" in name or name.endswith("power_w")


def parts_of(name: str) -> list[str]:
    """The parts that a figure has columns for."""
    return [part for part in PARTS if is_of_meter(name) or part not in METER_PARTS]


def percentile_column(name: str, rank: str) -> str:
    """Such as `ttft_p99_s`: the unit stays at the end."""
    return f"{name.removesuffix('_s')}_{rank}_s"


def flat_figure(name: str, figure: Mapping[str, Any] | None) -> Row:
    """A figure as columns: its value under its name, and NAME_low, NAME_high and so on."""
    found = figure or {}
    return {name: found.get("value")} | {f"{name}_{p}": found.get(p) for p in parts_of(name)}


def flat_point(point: Mapping[str, Any]) -> Row:
    """A point as columns. Remarks become one text, failures one number for each kind in a text."""
    row: Row = {name: point.get(name) for name in PLAIN}
    row["remarks"] = " ".join(point.get("remarks") or []) or None
    kinds = (point.get("failures") or {}).items()
    row["failures"] = ", ".join(f"{kind} {number}" for kind, number in kinds) or None
    joules = point.get("energy_j") or {}
    row |= {f"{part}_energy_j": joules.get(part) for part in COMPONENTS}
    for name in FIGURES:
        row |= flat_figure(name, point.get(name))
    for name in PERCENTILES:
        for rank in RANKS:
            figure = (point.get(name) or {}).get(rank) or {}
            column = percentile_column(name, rank)
            row[column] = figure.get("value")
            row |= {f"{column}_{end}": figure.get(end) for end in ("low", "high")}
    return row


def figure_of(row: Row, name: str) -> Row:
    """A figure as a record has it, from its columns."""
    return {"value": row.get(name)} | {part: row.get(f"{name}_{part}") for part in PARTS}


def nested_point(row: Row) -> Row:
    """A row of the table as a point of serving.json. Remarks are one sentence or several in one."""
    point: Row = {name: row.get(name) for name in PLAIN}
    point["remarks"] = [row["remarks"]] if row.get("remarks") else []
    pairs = (text.rpartition(" ") for text in (row.get("failures") or "").split(", ") if text)
    point["failures"] = {kind: int(number) for kind, _, number in pairs}
    point["energy_j"] = {part: row.get(f"{part}_energy_j") for part in COMPONENTS}
    point |= {name: figure_of(row, name) for name in FIGURES}
    for name in PERCENTILES:
        point[name] = {rank: figure_of(row, percentile_column(name, rank)) for rank in RANKS}
    return point
