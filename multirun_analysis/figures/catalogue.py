"""Every figure over all runs, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from multirun_analysis.figures.accuracy_against_energy import (
    ACCURACY_KEPT,
    BITS_PER_BYTE,
    ENERGY_TITLES,
    quality_against_energy,
)
from multirun_analysis.figures.break_even_curves import (
    break_even_over_students,
    break_even_over_tokens,
)
from multirun_analysis.figures.by_stage import energy_by_stage
from multirun_analysis.figures.carbon import co2e_by_site
from multirun_analysis.figures.curves import loss_curves, quality_against_joules
from multirun_analysis.figures.differences import differences
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.fleet_over_load import fleet_over_load
from multirun_analysis.figures.idle import idle_and_wait
from multirun_analysis.figures.looks import file_part, look_in
from multirun_analysis.figures.marks import MAX_LINES
from multirun_analysis.figures.quality_kept import accuracy_kept, eff_overall
from multirun_analysis.figures.serving_by_architecture import energy_per_token
from multirun_analysis.figures.serving_by_length import energy_per_token_by_length
from multirun_analysis.figures.traffic_by_hour import traffic_by_hour
from multirun_analysis.figures.under_load import under_load
from multirun_analysis.figures.waiting_nodes import waiting_nodes
from multirun_analysis.statistics.one_fleet import Fleet
from multirun_analysis.statistics.operating_point import OperatingPoint
from multirun_analysis.statistics.site import Site
from multirun_analysis.values.order import options_of
from multirun_analysis.values.rows import Row, distinct_students

Exhibits = dict[str, Exhibit]


def exhibits(
    runs: pd.DataFrame,
    stages: pd.DataFrame,
    train: pd.DataFrame,
    inference: pd.DataFrame,
    summaries: pd.DataFrame,
    *,
    serving: pd.DataFrame | None = None,
    site: Site | None = None,
) -> Exhibits:
    """Every exhibit over all runs by name, without empty ones. The tables are those of Collected.

    `inference` and `summaries` may be empty, and `serving` may be missing. CO2e is
    at `site`, or at every site there is.
    """
    found = (
        {
            f"{quality.column}_against_{energy}": quality_against_energy(
                runs, energy=energy, quality=quality
            )
            for quality in (ACCURACY_KEPT, BITS_PER_BYTE)
            for energy in ENERGY_TITLES
        }
        | {
            "accuracy_kept": accuracy_kept(runs),
            "eff_overall": eff_overall(runs),
            "energy_per_token": energy_per_token(runs, inference),
            "energy_per_token_by_length": energy_per_token_by_length(inference, runs),
            "break_even_over_tokens": break_even_over_tokens(runs),
            "break_even_over_students": break_even_over_students(runs, train),
            "co2e_by_site": co2e_by_site(runs, None if site is None else [site]),
            "energy_by_stage": energy_by_stage(runs, stages),
            "idle_and_wait": idle_and_wait(runs, stages, summaries),
            "waiting_nodes": waiting_nodes(runs, stages),
            "quality_against_joules": quality_against_joules(train, runs),
            "loss_curves": loss_curves(train, runs),
        }
        | ({} if serving is None else under_load(serving, runs))
    )
    return _without_empty(found)


def at_load(found: Sequence[Fleet], point: OperatingPoint, runs: list[Row]) -> Exhibits:
    """The exhibits of fleets at an operating point, without empty ones; of a log its hours too.

    `runs` say how settings look.
    """
    shown = {"fleet_over_load": fleet_over_load(found, look_in(runs))}
    if point.log is not None:
        shown |= {"traffic_by_hour": traffic_by_hour(point.log)}
    return _without_empty(shown)


def _without_empty(found: Exhibits) -> Exhibits:
    return {name: exhibit for name, exhibit in found.items() if not exhibit.is_empty}


def with_comparisons(shown: Exhibits, runs: pd.DataFrame) -> Exhibits:
    """The exhibits, and the comparisons with fine-tuning."""
    return shown | _without_empty({"comparisons": differences(runs)})


def curves_by_setting(train: pd.DataFrame, runs: pd.DataFrame) -> Exhibits:
    """The curves of each setting alone, by what tells it apart. They are for files.

    Empty where only paradigms differ, and where there are more than MAX_LINES settings.
    """
    students = distinct_students(runs)
    settings = {run["group"]: run["group_label"] for run in students}
    if len(settings) > MAX_LINES or not any(map(options_of, students)):
        return {}
    found: Exhibits = {}
    for group, label in settings.items():
        # With all runs beside them, so that the setting looks as it does among the others.
        own = train.loc[train["run"].isin(runs.loc[runs["group"] == group, "run"])]
        curves = {
            "quality_against_joules": quality_against_joules(own, runs),
            "loss_curves": loss_curves(own, runs),
        }
        for name, exhibit in _without_empty(curves).items():
            place = f"{name}-{file_part(label)}"
            place = place if place not in found else f"{place}-{len(found)}"
            found[place] = replace(exhibit, title=f"{exhibit.title}: {label}")
    return found
