"""Where the electricity comes from: the figures of conf/site, or those that runs were given."""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.paths import conf_dir
from multirun_analysis.reading.settings import read_settings, value_at
from multirun_analysis.rows import Row, known


@dataclass(frozen=True)
class Site:
    """A place's figures, each with its source where conf/site has the same figure."""

    name: str
    grid_gco2e_per_kwh: float
    pue: float
    price_usd_per_kwh: float | None = None
    wue_l_per_kwh: float | None = None
    grid_source: str | None = None
    pue_source: str | None = None
    price_source: str | None = None
    wue_source: str | None = None


def site_of(name: str) -> Site:
    """The site of that name; ValueError lists those there are."""
    folder = conf_dir() / "site"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ValueError(f"--site {name}: there is no such site; choose one of {', '.join(names)}")
    path = folder / f"{name}.yaml"
    entries = read_settings(path)
    for key in ("grid_gco2e_per_kwh", "pue"):
        if not isinstance(value_at(entries, key), int | float):
            raise ValueError(f"{path}: {key} is no number; give one, as conf/site/world.yaml does")
    price, wue = (entries.get(key) for key in ("price_usd_per_kwh", "wue_l_per_kwh"))
    return Site(
        name,
        float(entries["grid_gco2e_per_kwh"]),
        float(entries["pue"]),
        price_usd_per_kwh=None if price is None else float(price),
        wue_l_per_kwh=None if wue is None else float(wue),
        **{key: entries.get(key) for key in ("grid_source", "pue_source")},
        **{key: entries.get(key) for key in ("price_source", "wue_source")},
    )


def all_sites() -> list[Site]:
    """Every site of conf/site, by name."""
    return [site_of(path.stem) for path in sorted((conf_dir() / "site").glob("*.yaml"))]


def common_site(runs: list[Row]) -> Site | None:
    """The site that all runs were given; None where they differ or do not say.

    Its price and sources are those of conf/site, as long as that still has the runs' figures.
    """
    found = {
        Site(run["site"], run["grid_gco2e_per_kwh"], run["pue"])
        for run in known(runs, "site", "grid_gco2e_per_kwh", "pue")
    }
    if len(found) != 1:
        return None
    (given,) = found
    for site in all_sites():
        if (site.name, site.grid_gco2e_per_kwh, site.pue) == (
            *(given.name, given.grid_gco2e_per_kwh, given.pue),
        ):
            return site
    return given
