"""What joules mean at a site: CO2e, money and water; and what a grid factor counts."""

from __future__ import annotations

J_PER_KWH = 3.6e6

UNSTATED = "unstated"

# Two factors compare only where these facts are stated and equal.
GRID_FACTS = {
    "grid_boundary": ("combustion", "lifecycle"),
    "grid_basis": ("generation", "consumption"),
    "grid_kind": ("average", "marginal"),
    "grid_gases": ("co2", "co2e"),
}
"""Each setting of a site's grid factor, with the words that it may state.

- grid_boundary: emissions of combustion alone, or of plants and fuel too.
- grid_basis: electricity generated in the region, or consumed in it.
- grid_kind: the average of all plants, or the marginal plant that answers demand.
- grid_gases: carbon dioxide alone, or all gases by their warming.
"""
GRID_PROVENANCE = ("grid_year", "grid_release", "grid_licence")
"""The year of the factor, the publication it is from, and the terms of use."""


def co2e_kg(energy_j: float | None, *, pue: float, grid_gco2e_per_kwh: float) -> float | None:
    """Kilograms of CO2 equivalent: kWh times PUE times grams per kWh over 1000.

    PUE is the energy of the whole building over that of its computers. None for missing energy.
    """
    if energy_j is None:
        return None
    return energy_j / J_PER_KWH * pue * grid_gco2e_per_kwh / 1000


def cost_usd(energy_j: float | None, *, pue: float, price_usd_per_kwh: float) -> float | None:
    """US dollars of electricity: kWh times PUE times the price. None for missing energy."""
    return None if energy_j is None else energy_j / J_PER_KWH * pue * price_usd_per_kwh


def water_l(energy_j: float | None, *, wue_l_per_kwh: float | None) -> float | None:
    """Litres of water that the site evaporates: kWh of the computers times `wue_l_per_kwh`.

    Water usage effectiveness is site water over the computers' energy (The Green Grid, white paper
    35, 2011). Water that power stations use is not included. None where either figure is missing.
    """
    if energy_j is None or wue_l_per_kwh is None:
        return None
    return energy_j / J_PER_KWH * wue_l_per_kwh
