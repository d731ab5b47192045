"""How settings are told apart in figures: name, colour, shape and dash, alike in all of them.

Where paradigms alone differ, each has its name and its hue. Where a paradigm has several settings,
their names are what differs, and they are in the order of its values: shades of the paradigm's hue
beside other paradigms, and colours from dark violet to amber where there is no other. Both grow
lighter from the first to the last, so that they are told apart without seeing hues.

Shapes and dashes do the same for grey prints: those of the paradigm where there are several, and
one for each setting where there is one paradigm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plotly.colors import hex_to_rgb

from multirun_analysis.figures.palette import (
    DASHES,
    OTHER_SHAPES,
    SHAPES,
    paradigm_color,
    paradigm_dash,
    paradigm_shape,
)
from multirun_analysis.values.order import settings_of
from multirun_analysis.values.rows import Row, distinct_students, grouped, known

SCALE = ("#3b1f6b", "#2f5fa8", "#1b8f8a", "#62a32e", "#d6a100")
"""From dark to light, each lighter than the one before also in grey."""

MAX_LOOKS = 40
"""Settings up to which each has its own; of more a legend names the paradigms alone."""


@dataclass(frozen=True)
class Look:
    """One setting in legends, lines and marks."""

    name: str
    """Plain text, not escaped."""
    color: str
    shape: str
    """Of its marks, filled, as plotly names it."""
    dash: str
    """Of its lines where they are measured."""


def looks(runs: list[Row]) -> dict[str, Look]:
    """Group to its look, for the settings of all distinct students, in the order of legends."""
    settings = settings_of(distinct_students(known(runs, "group")))
    paradigms = grouped((rows[0] for rows in settings), _paradigm)
    found = {}
    if len(settings) > MAX_LOOKS:
        return found
    every_shape = SHAPES + OTHER_SHAPES
    for paradigm, firsts in paradigms.items():
        alone, only = len(firsts) == 1, len(paradigms) == 1
        if alone:
            colors = [paradigm_color(paradigm)]
        elif only:
            colors = between(SCALE, len(firsts))
        else:
            colors = shades(paradigm_color(paradigm), len(firsts))
        for i, (first, color) in enumerate(zip(firsts, colors, strict=True)):
            name = paradigm if alone else _name(first, only)
            by_place = only and not alone
            shape = every_shape[i % len(every_shape)] if by_place else paradigm_shape(paradigm)
            dash = DASHES[i % len(DASHES)] if by_place else paradigm_dash(paradigm)
            found[first["group"]] = Look(name, color, shape, dash)
    return found


def look_of(run: Row, known_looks: dict[str, Look]) -> Look:
    """The look of a run's setting, or its paradigm's where the setting has none of its own."""
    paradigm = _paradigm(run)
    return known_looks.get(run.get("group") or "") or Look(
        paradigm, paradigm_color(paradigm), paradigm_shape(paradigm), paradigm_dash(paradigm)
    )


def look_by_group(runs: list[Row]) -> dict[str, Look]:
    """The look of every setting of these runs, also of those that have none of their own."""
    known_looks = looks(runs)
    return {run["group"]: look_of(run, known_looks) for run in runs}


def look_in(runs: list[Row]) -> Callable[[str], Look]:
    """The look of a setting, by its group, among these runs."""
    return look_by_group(runs).__getitem__


def _paradigm(run: Row) -> str:
    return str(run["paradigm"] or "unknown")


def _name(run: Row, is_only_paradigm: bool) -> str:
    """The setting's label, without a paradigm that all have."""
    _, _, rest = run["group_label"].partition(" · ")
    return rest if is_only_paradigm and rest and not run["origin"] else run["group_label"]


def file_part(name: str) -> str:
    """A name as part of a file name: only letters, digits and signs that every system accepts."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")[:80]


def between(stops: Sequence[str], count: int) -> list[str]:
    """So many colours along a scale, its ends included."""
    places = [i * (len(stops) - 1) / max(1, count - 1) for i in range(count)]
    return [
        _mixed(stops[int(place)], stops[min(int(place) + 1, len(stops) - 1)], place % 1)
        for place in places
    ]


def shades(color: str, count: int) -> list[str]:
    """So many shades of one hue, from dark to pale."""
    return between((_mixed(color, "#000000", 0.4), color, _mixed(color, "#ffffff", 0.4)), count)


def _mixed(one: str, other: str, share: float) -> str:
    """A colour with a share of another."""
    pairs = zip(hex_to_rgb(one), hex_to_rgb(other), strict=True)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in pairs)
