"""Where the electricity comes from: the figures of conf/site, or those that runs were given."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kdwatts.paths import conf_dir
from multirun_analysis.rows import Row, known


@dataclass(frozen=True)
class Site:
    """A place's figures; see conf/site for their sources."""

    name: str
    grid_gco2e_per_kwh: float
    pue: float


def site_of(name: str) -> Site:
    """The site of that name; ValueError lists those there are.

    Read by pattern, as this room depends on no YAML reader.
    """
    folder = conf_dir() / "site"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(found.stem for found in folder.glob("*.yaml")))
        raise ValueError(f"--site {name}: there is no such site; choose one of {names}")
    text = path.read_text()
    return Site(name, _number(text, "grid_gco2e_per_kwh"), _number(text, "pue"))


def all_sites() -> list[Site]:
    """Every site of conf/site, by name."""
    return [site_of(path.stem) for path in sorted((conf_dir() / "site").glob("*.yaml"))]


def _number(text: str, key: str) -> float:
    found = re.search(rf"^{key}: *([0-9.]+)", text, re.MULTILINE)
    assert found, f"conf/site states {key} of every site"
    return float(found[1])


def common_site(runs: list[Row]) -> Site | None:
    """The site that all runs were given; None where they differ or do not say."""
    found = {
        Site(run["site"], run["grid_gco2e_per_kwh"], run["pue"])
        for run in known(runs, "site", "grid_gco2e_per_kwh", "pue")
    }
    return found.pop() if len(found) == 1 else None
