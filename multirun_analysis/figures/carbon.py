"""Kilograms of CO2 equivalent of building each student, at each site."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kdwatts.metrics.footprint import GRID_FACTS, co2e_kg
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.marks import (
    Setting,
    error_bars,
    facets,
    first_rows,
    in_rows,
    log_axis,
    points,
    setting_mean,
    settings_by_kind,
    symbol,
)
from multirun_analysis.figures.plotly_text import escape
from multirun_analysis.statistics.seeds import draws_of
from multirun_analysis.statistics.site import GRID, Site, all_sites, counts_words
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, distinct_students, grouped, known, to_rows

_SITE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#8a4f9e", "#b88a00", "#66717b", "#a3475c")

# A shape of each site too, for grey prints; of building alone they are the triangles.
_SITE_SHAPES = ("circle", "square", "diamond", "cross", "x", "star", "pentagon")
_TRIANGLES = tuple(f"triangle-{way}" for way in ("up", "down", "left", "right", "ne", "se", "sw"))

_AXIS_PX = 85
"""Room below a panel for its ticks and the two lines of its title."""

WITH_SHARE, ALONE = "building, with its share of inherited work", "building alone"


def co2e_by_site(runs: pd.DataFrame, sites: Sequence[Site] | None = None) -> Exhibit:
    """Kilograms of CO2e of each setting at each of `sites`. None means every site of conf/site."""
    draws = draws_of(distinct_students(runs))
    apart = (
        " Grid factors that count different things, or do not say what they count, have a panel of "
        "their own. Compare within one panel only."
    )
    several = sites is None or len(sites) > 1
    return Exhibit(
        "CO2e by site",
        "CO2e of building one student, with its share of inherited work. A triangle is without "
        "inherited work, whose energy is unknown. Open marks come from estimated energy. Bars are "
        f"95 % intervals over {draws}. They hold the error of the energy, not that of the grid "
        f"factor.{apart if several else ''}",
        _table(runs, all_sites() if sites is None else sites),
        _draw,
    )


def _table(runs: pd.DataFrame, sites: Sequence[Site]) -> pd.DataFrame:
    """A row for each setting and site, with half of a 95 % interval.

    Of building the student and its share of inherited work; `what` says so where what was
    inherited is unknown and the building is alone. The interval is over seeds and is of the joules
    alone: the grid's and the building's figures have none. Rows of one `counts` alone may be added
    or ranked.
    """
    found = []
    classes = _classes(sites)
    for setting, column, what in _settings(runs):
        mean = setting_mean(setting.rows, column)
        assert mean is not None, "its rows are those that have it"
        for site, counts in ((site, c) for c, same in classes.items() for site in same):
            at = {"pue": site.pue, "grid_gco2e_per_kwh": site.grid_gco2e_per_kwh}
            found.append(
                facets(setting.rows)
                | {name: getattr(site, name) for name in GRID}
                | {
                    "setting": setting.label,
                    "site": site.name,
                    "counts": counts,
                    "co2e_kg": co2e_kg(mean.number, **at),
                    "half_width_kg": co2e_kg(mean.half_width, **at),
                    "energy_j": mean.number,
                    "energy_class": setting.kind,
                    "what": what,
                    **at,
                }
            )
    columns = ["group", "setting", "paradigm", "model", "gpu", "num_seeds", "site", "co2e_kg"]
    columns += ["half_width_kg", "energy_j", "energy_class", "what", "pue", "grid_gco2e_per_kwh"]
    table = pd.DataFrame(found, columns=[*columns, "counts", *GRID])
    return table.astype({"grid_year": "Int64"})


def _classes(sites: Sequence[Site]) -> dict[str, list[Site]]:
    """Sites whose factors count alike, by what they count in words; the largest class first."""
    classes: dict[tuple[str, ...], list[Site]] = {}
    for site in sites:
        classes.setdefault(site.counts, []).append(site)
    ordered = sorted(classes.values(), key=len, reverse=True)
    return {_class_words(same[0]): same for same in ordered}


def _class_words(site: Site) -> str:
    """What the factor counts; with the site's name where that is a class of its own."""
    words = counts_words(site)
    return words if len(site.counts) == len(GRID_FACTS) else f"{site.name} alone: {words}"


def _settings(runs: pd.DataFrame) -> list[tuple[Setting, str, str]]:
    students = distinct_students(runs)
    whole = known(students, "total_amortised_energy_j")
    names = {run["run"] for run in whole}
    alone = [run for run in known(students, "own_energy_j") if run["run"] not in names]
    parts = [(s, "total_amortised_energy_j", WITH_SHARE)
             for s in settings_by_kind(whole, "total_energy_quality")]  # fmt: skip
    return parts + [
        (s, "own_energy_j", ALONE) for s in settings_by_kind(alone, "own_energy_quality")
    ]


def _draw(table: pd.DataFrame) -> go.Figure:
    """A mark for each setting and site, on logarithmic axes: a panel for the sites whose grid
    factors count alike.

    Open marks are not measured. A triangle leaves out what was inherited, which is unknown.
    """
    shown, rows, left_out = first_rows(to_rows(table), "setting")
    factor, prefix = _mass(max((row["co2e_kg"] for row in rows), default=1.0))
    names = {row["site"] for row in rows}
    # Plotly draws no legend of one trace.
    only = f" at {escape(names.pop())}" if len(names) == 1 else ""
    panels = grouped(rows, "counts")
    num_panels, panel_px = max(1, len(panels)), 40 * max(1, len(shown)) + _AXIS_PX
    fig = make_subplots(num_panels, 1, vertical_spacing=_AXIS_PX / (num_panels * panel_px))
    look = cycle(zip(_SITE_COLORS, _SITE_SHAPES, _TRIANGLES, strict=True))
    for place, (counts, same) in enumerate(panels.items(), start=1):
        # Least first, so that the legend reads as the marks lie.
        by_site = grouped(sorted(same, key=lambda r: r["pue"] * r["grid_gco2e_per_kwh"]), "site")
        for marks in by_site.values():
            fig.add_trace(_marks(marks, factor, *next(look)), row=place, col=1)
        title = f"CO2e of building one student{only}, {prefix}<br>{escape(counts)}"
        values = [row["co2e_kg"] / factor for row in same if row["co2e_kg"]]
        axis = log_axis(min(values), max(values)) if values else {}
        fig.update_xaxes(title_text=title, **axis, row=place, col=1)
    height = 65 + num_panels * panel_px
    in_rows(fig, shown, left_out=left_out, what="settings", height=height)
    return fig.update_yaxes(showgrid=True)


def _marks(marks: list[Row], factor: float, color: str, shape: str, alone: str) -> go.Scatter:
    """One site's, a mark for each setting."""
    site = marks[0]["site"]
    shapes = {WITH_SHARE: shape, ALONE: alone}
    return go.Scatter(
        **points(marks, x="co2e_kg", x_factor=factor, y="setting", of="group", text=_mark_text),
        mode="markers",
        name=escape(site),
        marker={
            "color": color,
            "size": 10,
            "symbol": [symbol(shapes[row["what"]], row["energy_class"]) for row in marks],
            "line": {
                "width": [0 if r["energy_class"] == "measured" else 2 for r in marks],
                "color": color,
            },
        },
        error_x=error_bars(marks, "half_width_kg", factor=factor, color=color, thickness=1.3),
        meta={"site": site},
    )


def _mark_text(row: Row) -> str:
    error_g = None if row["half_width_kg"] is None else 1000 * row["half_width_kg"]
    return (
        f"<b>{escape(row['setting'])}</b><br>{escape(row['site'])}: "
        f"{units.quantity(1000 * row['co2e_kg'], 'g', error=error_g)}"
        f" CO2e ({row['energy_class']})<br>{row['what']}<br>"
        f"{units.significant(row['grid_gco2e_per_kwh'])} g/kWh, PUE {row['pue']:g}<br>"
        f"{escape(row['counts'])}"
    )


def _mass(most_kg: float) -> tuple[float, str]:
    """Kilograms per unit, and the unit in which the most reads well."""
    for factor, unit in ((1e3, "t"), (1.0, "kg"), (1e-3, "g"), (1e-6, "mg")):
        if most_kg >= factor:
            return factor, unit
    return 1e-9, "µg"
