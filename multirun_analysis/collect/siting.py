"""One page, one site: CO2e, water and price are all computed for the site that is asked for."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from kdwatts.metrics.footprint import co2e_kg, cost_usd, water_l
from multirun_analysis.collect.collection import Collected
from multirun_analysis.statistics.site import GRID, Site, stated_sites
from multirun_analysis.values.rows import Row, to_rows

RECORDED = "recorded_site"
"""Column of runs at a site: what their own record states, where it differs."""


def at_site(collected: Collected, site: Site) -> Collected:
    """The same runs, with all figures that depend on a site computed from their joules at `site`.

    Figures for a record's own site are no longer in them. The files that `collect` writes keep
    these.
    """
    runs = collected.runs.copy()
    rows = to_rows(runs)
    place = {"pue": site.pue, "grid_gco2e_per_kwh": site.grid_gco2e_per_kwh}
    if RECORDED not in runs:
        runs[RECORDED] = _texts([_other(run, site) for run in rows])
    own_j = [run["own_energy_j"] for run in rows]
    price = site.price_usd_per_kwh
    numbers = {
        "co2e_kg": [co2e_kg(joules, **place) for joules in own_j],
        "total_co2e_kg": [co2e_kg(run["total_energy_j"], **place) for run in rows],
        "cost_usd": [
            None if price is None else cost_usd(joules, pue=site.pue, price_usd_per_kwh=price)
            for joules in own_j
        ],
        "water_l": [water_l(joules, wue_l_per_kwh=site.wue_l_per_kwh) for joules in own_j],
        "wue_l_per_kwh": [site.wue_l_per_kwh] * len(rows),
        **{name: [figure] * len(rows) for name, figure in place.items()},
    }
    for column, values in numbers.items():
        runs[column] = pd.array(values, dtype="float64")
    for column in ("site", "grid_source", *GRID):
        value = site.name if column == "site" else getattr(site, column)
        runs[column] = (
            pd.array([value] * len(rows), dtype="Int64")
            if column == "grid_year"
            else _texts([value] * len(rows))
        )
    return replace(collected, runs=runs)


def _texts(values: list[str | None]) -> pd.Series:
    return pd.Series(values, dtype=object)


def _other(run: Row, site: Site) -> str | None:
    """What a run's record states, where that is not the site; None too where it states none."""
    stated = stated_sites([run])
    if not stated or stated[0].figures == site.figures:
        return None
    return site.name + " with other figures" if stated[0].name == site.name else stated[0].name
