"""Kilograms of CO2 equivalent of building each student, at each site."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go

from kdwatts.metrics.footprint import co2e_kg
from multirun_analysis import units
from multirun_analysis.marks import (
    MAX_ROWS,
    Setting,
    error_bars,
    facets,
    log_axis,
    named_rows,
    say_left_out,
    setting_mean,
    settings_by_kind,
)
from multirun_analysis.palette import styled
from multirun_analysis.rows import distinct_students, grouped, known, to_rows
from multirun_analysis.site import all_sites

_SITE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#8a4f9e", "#b88a00", "#66717b", "#a3475c")

WITH_SHARE, ALONE = "building, with its share of inherited work", "building alone"


def co2e_by_site_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Kilograms of CO2e of each setting at each site of conf/site, with half of a 95 % interval.

    Of building the student and its share of inherited work; `what` says so where what was
    inherited is unknown and the building is alone. The interval is over seeds and is of the joules
    alone: the grid's and the building's figures have none.
    """
    found = []
    for setting, column, what in _settings(runs):
        mean = setting_mean(setting.rows, column)
        assert mean is not None, "its rows are those that have it"
        for site in all_sites():
            at = {"pue": site.pue, "grid_gco2e_per_kwh": site.grid_gco2e_per_kwh}
            found.append(
                facets(setting.rows)
                | {
                    "setting": setting.label,
                    "site": site.name,
                    "co2e_kg": co2e_kg(mean.mean, **at),
                    "half_width_kg": co2e_kg(mean.half_width, **at),
                    "energy_j": mean.mean,
                    "energy_class": setting.kind,
                    "what": what,
                    **at,
                }
            )
    columns = ["group", "setting", "paradigm", "model", "gpu", "num_seeds", "site", "co2e_kg"]
    columns += ["half_width_kg", "energy_j", "energy_class", "what", "pue", "grid_gco2e_per_kwh"]
    return pd.DataFrame(found, columns=columns)


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


def co2e_by_site(runs: pd.DataFrame) -> go.Figure:
    """CO2e of each setting, a mark for each site, on a logarithmic axis.

    Open marks are not measured. A triangle leaves out what was inherited, which is unknown.
    """
    table = to_rows(co2e_by_site_table(runs))
    labels = list(dict.fromkeys(row["setting"] for row in table))
    shown = labels[:MAX_ROWS]
    rows = [row for row in table if row["setting"] in shown]
    factor, prefix = _mass(max((row["co2e_kg"] for row in rows), default=1.0))
    fig = go.Figure()
    # Least first, so that the legend reads as the marks lie.
    by_site = grouped(sorted(rows, key=lambda r: r["pue"] * r["grid_gco2e_per_kwh"]), "site")
    for index, (site, marks) in enumerate(by_site.items()):
        color = _SITE_COLORS[index % len(_SITE_COLORS)]
        fig.add_scatter(
            x=[row["co2e_kg"] / factor for row in marks],
            y=[row["setting"] for row in marks],
            mode="markers",
            name=escape(site),
            marker={
                "color": color,
                "size": 10,
                "symbol": [_symbol(row["what"], row["energy_class"]) for row in marks],
                "line": {
                    "width": [0 if r["energy_class"] == "measured" else 2 for r in marks],
                    "color": color,
                },
            },
            error_x=error_bars([row["half_width_kg"] for row in marks], factor, color, 1.3),
            hovertext=[
                f"<b>{escape(row['setting'])}</b><br>{escape(site)}: "
                f"{units.quantity(1000 * row['co2e_kg'], 'g', error=_grams(row['half_width_kg']))}"
                f" CO2e ({row['energy_class']})<br>{row['what']}<br>"
                f"{units.significant(row['grid_gco2e_per_kwh'])} g/kWh, PUE {row['pue']:g}"
                for row in marks
            ],
            hoverinfo="text",
            customdata=[row["group"] for row in marks],
            meta={"site": site},
        )
    say_left_out(fig, len(labels) - len(shown), "settings")
    x = f"CO2e of building one student, {prefix}"
    styled(fig, height=130 + 40 * max(1, len(shown)), x=x)
    values = [row["co2e_kg"] / factor for row in rows if row["co2e_kg"]]
    if values:
        fig.update_xaxes(**log_axis(min(values), max(values)))
    named_rows(fig, shown[::-1])
    return fig.update_yaxes(showgrid=True)


def _symbol(what: str, kind: str) -> str:
    return ("circle" if what == WITH_SHARE else "triangle-up") + (
        "" if kind == "measured" else "-open"
    )


def _grams(mass_kg: float | None) -> float | None:
    return None if mass_kg is None else 1000 * mass_kg


def _mass(most_kg: float) -> tuple[float, str]:
    """Kilograms per unit, and the unit in which the most reads well."""
    for factor, unit in ((1e3, "t"), (1.0, "kg"), (1e-3, "g"), (1e-6, "mg")):
        if most_kg >= factor:
            return factor, unit
    return 1e-9, "µg"
