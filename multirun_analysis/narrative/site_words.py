"""Whose electricity the CO2e of a page is of, and what a grid factor counts, in sentences."""

from __future__ import annotations

from kdwatts.metrics.footprint import UNSTATED
from multirun_analysis.collect.siting import RECORDED
from multirun_analysis.statistics.site import Site, common_site, counts_words, stated_sites
from multirun_analysis.values.rows import Row, distinct_students, known


def site_words(runs: list[Row]) -> str:
    """A sentence on whose electricity a page's CO2e is of; empty where no run states a site."""
    students = distinct_students(runs)
    site, stated = common_site(students), stated_sites(students)
    if site is None:
        return several_words(students) if stated else ""
    text = f"CO2e, water and price on this page are for site {site.name}."
    if others := sorted({run[RECORDED] for run in known(runs, RECORDED)}):
        return f"{text} The runs themselves state {_listed(others)}."
    return text


def several_words(students: list[Row]) -> str:
    """Why runs of several sites have no CO2e in common, and what to do."""
    stated = stated_sites(students)
    names = sorted({site.name for site in stated})
    what = "sites: " if len(names) == len(stated) else "grid factors, of "
    kinds = {site.counts: counts_words(site) for site in stated}
    words = f" Their factors count different things ({'; '.join(kinds.values())})."
    unlike = words if len(kinds) > 1 else ""
    return (
        f"The runs state {len(stated)} {what}{_listed(names)}.{unlike} Each run has the CO2e of "
        "its own site. CO2e is not added, averaged or ranked over sites. Choose one site with "
        "--site."
    )


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def provenance_words(site: Site) -> str:
    """Year, release and licence of the factor; plain text."""
    year = UNSTATED if site.grid_year is None else str(site.grid_year)
    return f"year {year}, release {site.grid_release}, licence {site.grid_licence}"


def factor_words(site: Site) -> str:
    """The site's figures and what its factor counts; plain text."""
    return (
        f"{site.name}: {site.grid_gco2e_per_kwh:g} gCO2e/kWh, PUE {site.pue:g}, "
        f"{counts_words(site)}"
    )
