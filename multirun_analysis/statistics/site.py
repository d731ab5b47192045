"""Where the electricity comes from: the figures of conf/site, or those that runs were given."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from kdwatts.metrics.footprint import GRID_FACTS, GRID_PROVENANCE, UNSTATED
from kdwatts.runtime.paths import conf_dir, expanded
from multirun_analysis.values.rows import Row, known
from multirun_analysis.values.yaml_files import read_settings, value_at

GRID = (*GRID_FACTS, *GRID_PROVENANCE)
"""What a site states about its grid factor beside the number and its source."""


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
    grid_boundary: str = UNSTATED
    grid_basis: str = UNSTATED
    grid_kind: str = UNSTATED
    grid_gases: str = UNSTATED
    grid_year: int | None = None
    grid_release: str = UNSTATED
    grid_licence: str = UNSTATED

    @property
    def figures(self) -> tuple[str, float, float]:
        """The name, and the figures that CO2e is computed from: g/kWh and PUE."""
        return self.name, self.grid_gco2e_per_kwh, self.pue

    @property
    def counts(self) -> tuple[str, ...]:
        """What its factor counts. CO2e may be added or compared where this is equal.

        A factor that leaves something unstated equals only itself.
        """
        facts = tuple(str(getattr(self, fact)) for fact in GRID_FACTS)
        own = (self.name, repr(self.grid_gco2e_per_kwh))
        return (*facts, *own) if UNSTATED in facts else facts


_WORDS = {"lifecycle": "life cycle", "combustion": "combustion alone", "co2": "CO2", "co2e": "CO2e"}


def boundary_words(site: Site) -> str:
    """The first of what a factor counts, in words for a narrow column."""
    return _WORDS.get(site.grid_boundary, f"boundary {site.grid_boundary}")


def counts_words(site: Site) -> str:
    """What the factor counts, in words."""
    facts = {fact: str(getattr(site, fact)) for fact in GRID_FACTS}
    if set(facts.values()) == {UNSTATED}:
        return "contents of the factor unstated"
    return ", ".join(
        f"{fact.removeprefix('grid_')} {UNSTATED}"
        if found == UNSTATED
        else _WORDS.get(found, found)
        for fact, found in facts.items()
    )


_MAY_BE_NULL = ("price_usd_per_kwh", "wue_l_per_kwh")
"""Figures that a site may lack."""


def site_of(name: str) -> Site:
    """The site of that name, or of a file of one's own, which ends with .yaml.

    Raises ValueError for a name or a file that is not there, and for a figure that is no number.
    """
    folder = conf_dir() / "site"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    path = Path(expanded(name)) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if name not in names and not (name.endswith(".yaml") and path.is_file()):
        raise ValueError(
            f"--site {name}: there is no such site; choose one of {', '.join(names)}, or name a "
            "file of your own, such as my_site.yaml"
        )
    entries = read_settings(path)
    for key in ("grid_gco2e_per_kwh", "pue", *_MAY_BE_NULL):
        value = value_at(entries, key)
        if value is None and key in _MAY_BE_NULL:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            or_null = ", or null if you know none" if key in _MAY_BE_NULL else ""
            raise ValueError(
                f"{path}: {key} is no number; give one, as conf/site/world.yaml does{or_null}"
            )
        least = 1 if key == "pue" else 0
        if not least <= value < math.inf:
            raise ValueError(f"{path}: {key}={value}; give a number of at least {least}")
    return Site(
        path.stem,
        float(entries["grid_gco2e_per_kwh"]),
        float(entries["pue"]),
        **{key: None if entries.get(key) is None else float(entries[key]) for key in _MAY_BE_NULL},
        **{key: entries.get(key) for key in ("grid_source", "pue_source")},
        **{key: entries.get(key) for key in ("price_source", "wue_source")},
        **_stated_grid(entries, path),
    )


def _stated_grid(entries: Row, path: Path | None = None) -> dict[str, Any]:
    """What is stated about a grid factor; ValueError for what conf/site may not say in `path`."""
    found = {key: UNSTATED if entries.get(key) is None else str(entries[key]) for key in GRID}
    if path is not None:
        for fact, valid in GRID_FACTS.items():
            if found[fact] not in (*valid, UNSTATED):
                raise ValueError(
                    f"{path}: {fact}={found[fact]} is unknown; choose one of "
                    f"{', '.join((*valid, UNSTATED))}"
                )
        if not isinstance(entries.get("grid_year"), int | None):
            year = entries["grid_year"]
            raise ValueError(f"{path}: grid_year={year} is no year; give one as 2024, or null")
    return found | {"grid_year": entries.get("grid_year")}


def all_sites() -> list[Site]:
    """Every site of conf/site, by name."""
    return [site_of(path.stem) for path in sorted((conf_dir() / "site").glob("*.yaml"))]


def stated_sites(runs: list[Row]) -> list[Site]:
    """The sites that runs state, each once, as their records have them: without prices."""
    found: dict[tuple[Any, ...], Site] = {}
    for run in known(runs, "site", "grid_gco2e_per_kwh", "pue"):
        site = Site(
            *(run["site"], run["grid_gco2e_per_kwh"], run["pue"]),
            wue_l_per_kwh=run.get("wue_l_per_kwh"),
            grid_source=run.get("grid_source"),
            **_stated_grid(run),
        )
        key = (*site.figures, *site.counts)
        found[key] = _agreed(found[key], site) if key in found else site
    return list(found.values())


def _agreed(one: Site, two: Site) -> Site:
    """The first without what the second states otherwise."""
    default = {field.name: field.default for field in fields(Site)}
    differ = [name for name in default if getattr(one, name) != getattr(two, name)]
    return replace(one, **{name: default[name] for name in differ})


def common_site(runs: list[Row]) -> Site | None:
    """The site that all runs were given. None where they differ or do not say.

    Its price and sources are those of conf/site, as long as that still has the runs' figures. What
    its factor counts is what the runs state. It is unstated in records from before that field.
    """
    stated = stated_sites(runs)
    if len(stated) != 1:
        return None
    (given,) = stated
    for site in all_sites():
        if site.figures == given.figures and given.counts in (site.counts, _unstated(given).counts):
            return replace(site, **{name: getattr(given, name) for name in GRID})
    return given


def _unstated(site: Site) -> Site:
    return replace(site, **dict.fromkeys(GRID_FACTS, UNSTATED))
