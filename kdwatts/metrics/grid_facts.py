"""What a grid factor counts: two factors compare only where these facts are stated and equal."""

from __future__ import annotations

UNSTATED = "unstated"

GRID_FACTS = {
    "grid_boundary": ("combustion", "lifecycle"),
    "grid_basis": ("generation", "consumption"),
    "grid_kind": ("average", "marginal"),
    "grid_gases": ("co2", "co2e"),
}
"""Setting of a site to what it may state: emissions of burning alone or of plants and fuel too,
electricity made or used in the region, the mean of all plants or the last one that answers demand,
carbon dioxide alone or all gases by their warming."""
GRID_PROVENANCE = ("grid_year", "grid_release", "grid_licence")
"""Year that the factor is of, publication it was read from, and terms of use."""
