"""The figures over all runs, each with its title, its note and its table."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import plotly.graph_objects as go

from multirun_analysis.figures.by_stage import energy_by_stage, energy_by_stage_table
from multirun_analysis.figures.carbon import co2e_by_site, co2e_by_site_table
from multirun_analysis.figures.curves import (
    loss_curves,
    loss_curves_table,
    quality_against_joules,
    quality_against_joules_table,
)
from multirun_analysis.figures.decisions import (
    break_even_over_students,
    break_even_over_students_table,
    break_even_over_tokens,
    break_even_over_tokens_table,
)
from multirun_analysis.figures.devices import devices_over_time, devices_over_time_table
from multirun_analysis.figures.differences import differences
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.idle import idle_and_wait, idle_and_wait_table
from multirun_analysis.figures.looks import file_part
from multirun_analysis.figures.marks import MAX_LINES, left_out_words
from multirun_analysis.figures.plots import (
    ACCURACY_KEPT,
    BITS_PER_BYTE,
    ENERGY_TITLES,
    Quality,
    quality_against_energy,
    quality_against_energy_table,
)
from multirun_analysis.figures.quality_kept import (
    ABOVE_TEACHER,
    accuracy_kept_bars,
    accuracy_kept_table,
    eff_overall_bars,
    eff_overall_table,
)
from multirun_analysis.figures.serving import (
    energy_per_token,
    energy_per_token_by_length,
    energy_per_token_table,
    serving_points,
)
from multirun_analysis.statistics.accuracy_words import KEPT
from multirun_analysis.statistics.comparisons import (
    against_baseline,
    comparable_columns,
    comparisons_table,
)
from multirun_analysis.statistics.seeds import draws_of
from multirun_analysis.statistics.site import Site
from multirun_analysis.values.order import options_of
from multirun_analysis.values.rows import distinct_students, to_rows

_NOT_MEASURED = "What is open or dotted is not measured."


def quality_exhibit(runs: pd.DataFrame, *, energy: str, quality: Quality) -> Exhibit:
    draws = draws_of(distinct_students(runs))
    better = "higher is better" if quality.higher_is_better else "lower is better"
    return _exhibit(
        f"{quality.title}, {better}, against {ENERGY_TITLES[energy].lower()}",
        f"Circles are runs, diamonds means over {draws}, which may leave the figure. Intervals of "
        "quality are 95 %: of a run over the benchmarks' samples, of a mean the wider of those "
        f"over {draws} and over samples. The dotted line joins the students that no other beats on "
        f"both counts. {_NOT_MEASURED} Squares are imported.",
        quality_against_energy(runs, energy=energy, quality=quality),
        quality_against_energy_table(runs, energy=energy, quality=quality),
    )


def exhibits(
    runs: pd.DataFrame,
    stages: pd.DataFrame,
    train: pd.DataFrame,
    inference: pd.DataFrame,
    summaries: pd.DataFrame,
    *,
    site: Site | None = None,
) -> dict[str, Exhibit]:
    """Every exhibit over all runs by name, without the empty ones; tables are those of Collected.

    `inference` and `summaries` may be empty. CO2e is at `site`, or at each there is.
    """
    found = {
        f"{quality.column}_against_{energy}": quality_exhibit(runs, energy=energy, quality=quality)
        for quality in (ACCURACY_KEPT, BITS_PER_BYTE)
        for energy in ENERGY_TITLES
    }
    found |= _worth(runs) | _serving(runs, inference) | _decisions(runs, train)
    found["co2e_by_site"] = _carbon(runs, site)
    found["energy_by_stage"] = _exhibit(
        "Energy by stage",
        "All attempts of each run. Hatched stages were reused: the bar is what they once cost "
        "another run, undivided.",
        energy_by_stage(runs, stages),
        energy_by_stage_table(runs, stages),
    )
    found["idle_and_wait"] = _exhibit(
        "Idle power, waiting and utilisation",
        f"While building the student, means over {draws_of(distinct_students(runs))} with 95 % "
        "intervals. Idle share is what idle devices would have drawn in the same time, of all that "
        "was drawn. A paler bar is not from idle power measured before the run, but from the least "
        "that its GPUs drew at 0 % utilisation, and counts their energy alone. Utilisation is the "
        "share of time in which some kernel ran, not how much of the GPU it used.",
        idle_and_wait(runs, stages, summaries),
        idle_and_wait_table(runs, stages, summaries),
    )
    found |= _curves(train, runs)
    return {name: exhibit for name, exhibit in found.items() if not exhibit.is_empty}


def _curves(train: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Exhibit]:
    return {
        "quality_against_joules": _exhibit(
            "Held-out text against energy while training",
            "What each student had learned by the time it had drawn so many joules, on rows that "
            f"are never trained on. Inherited work is not in it. {_NOT_MEASURED}",
            quality_against_joules(train, runs),
            quality_against_joules_table(train, runs),
        ),
        "loss_curves": _exhibit(
            "Loss over training",
            "One line for each student. Losses of different paradigms sum different terms: compare "
            "a term, not the whole.",
            loss_curves(train, runs),
            loss_curves_table(train, runs),
        ),
    }


def curves_by_setting(train: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Exhibit]:
    """The curves of each setting alone, named after what tells it apart; for files.

    None where paradigms alone differ, or where the settings are more than MAX_LINES.
    """
    students = distinct_students(runs)
    settings = {run["group"]: run["group_label"] for run in students}
    if len(settings) > MAX_LINES or not any(map(options_of, students)):
        return {}
    found: dict[str, Exhibit] = {}
    for group, label in settings.items():
        # With all runs beside them, so that the setting looks as it does among the others.
        own = train.loc[train["run"].isin(runs.loc[runs["group"] == group, "run"])]
        for name, exhibit in _curves(own, runs).items():
            if exhibit.is_empty:
                continue
            place = f"{name}-{file_part(label)}"
            place = place if place not in found else f"{place}-{len(found)}"
            found[place] = replace(exhibit, title=f"{exhibit.title}: {label}")
    return found


def _worth(runs: pd.DataFrame) -> dict[str, Exhibit]:
    draws = draws_of(distinct_students(runs))
    return {
        KEPT: _exhibit(
            "Accuracy kept by setting",
            "Mean over benchmarks of (student - chance) over (teacher - chance), of those whose "
            "teacher is above chance: 0 is guessing. The paler bar is OM_perf, the plain ratio. "
            f"Lines are 95 % intervals, the wider of those over {draws} and over the benchmarks' "
            "samples; they may leave the figure. Dots are runs. A hatched bar is "
            f"{ABOVE_TEACHER}.",
            accuracy_kept_bars(runs),
            accuracy_kept_table(runs),
        ),
        "eff_overall": _exhibit(
            "Eff_overall by setting",
            "OM_perf times the teacher's over the student's joules per token served, without "
            f"building. Lines are 95 % intervals, the wider of those over {draws} and over samples "
            "and measurements; they may leave the figure. Dots are runs. A bar that is an outline "
            "is not measured. Settings whose accuracy kept cannot be told are not in it.",
            eff_overall_bars(runs),
            eff_overall_table(runs),
        ),
    }


def _serving(runs: pd.DataFrame, inference: pd.DataFrame) -> dict[str, Exhibit]:
    return {
        "energy_per_token": _exhibit(
            "Joules per token served, by architecture",
            "Filled points are students, rings their teachers, on the same prompts, batch and "
            "device. Students of one architecture serve alike, so all settings have one point. "
            "Bars are 95 % intervals over measurements, which may leave the figure.",
            energy_per_token(runs, inference),
            energy_per_token_table(runs, inference),
        ),
        "energy_per_token_by_length": _exhibit(
            "Joules per token served, by length and batch",
            "A single measurement has the spread of others on its machine, or none. "
            f"{_NOT_MEASURED}",
            energy_per_token_by_length(inference, runs),
            serving_points(inference, runs),
        ),
    }


def _decisions(runs: pd.DataFrame, train: pd.DataFrame) -> dict[str, Exhibit]:
    return {
        "break_even_over_tokens": _exhibit(
            "Tokens served until joules are repaid",
            "The teacher's joules for so many tokens over the student's, building and share of "
            "inherited work included. Above 1 they are repaid; the mark is the break-even with its "
            "95 % interval. never: the student saves nothing a token. unresolved: the joules "
            f"do not tell the saving from none. Accuracy is not in it. {_NOT_MEASURED}",
            break_even_over_tokens(runs),
            break_even_over_tokens_table(runs),
        ),
        "break_even_over_students": _exhibit(
            "How many students must share a teacher",
            "Joules of one student, its part of what all of them inherit included. The dashed line "
            "is fine-tuning without a teacher to the same held-out quality; the mark is the "
            "break-even with its 95 % interval. not reached: fine-tuning never got there. "
            f"{_NOT_MEASURED}",
            break_even_over_students(runs, train),
            break_even_over_students_table(runs, train),
        ),
    }


def _carbon(runs: pd.DataFrame, site: Site | None) -> Exhibit:
    sites = None if site is None else [site]
    draws = draws_of(distinct_students(runs))
    apart = (
        " Sites whose grid factors count unlike things, or do not state what they count, have a "
        "panel of their own: compare within a panel alone."
    )
    return _exhibit(
        "CO2e by site",
        "Of building one student with its share of inherited work; a triangle leaves out what was "
        "inherited, which is unknown. Open marks are from estimated joules. Bars are 95 % "
        f"intervals over {draws}, of the joules alone.{'' if site else apart}",
        co2e_by_site(runs, sites),
        co2e_by_site_table(runs, sites),
    )


def with_comparisons(shown: dict[str, Exhibit], runs: pd.DataFrame) -> dict[str, Exhibit]:
    """The exhibits, and the comparisons with fine-tuning; p is corrected within each column."""
    found = [c for column in comparable_columns(runs) for c in against_baseline(runs, [column])]
    table = Exhibit(
        "Settings against plain fine-tuning, by seed",
        "Differences of runs with one seed, lines are their 95 % intervals. A filled mark differs "
        "beyond noise, by a paired t-test corrected for all settings of its panel (Holm 1979); an "
        "open one does not.",
        differences(runs),
        comparisons_table(found),
    )
    return dict(shown) | ({} if table.is_empty else {"comparisons": table})


def devices_exhibit(ticks: pd.DataFrame, stages: pd.DataFrame, *, run: str) -> Exhibit:
    """What the devices of one run did; `ticks` are its own."""
    estimated = "A dotted curve is estimated, not measured. " if _is_modelled(ticks) else ""
    return _exhibit(
        "Devices over time",
        f"Each device of one run, and the stage it was in. {estimated}Joules are those of the "
        "energy counter where there is one. Long runs are averaged over equal spans.",
        devices_over_time(ticks, stages, run=run),
        devices_over_time_table(ticks, stages, run=run),
    )


def _is_modelled(ticks: pd.DataFrame) -> bool:
    return any(row["method"] == "tdp_model" for row in to_rows(ticks.reindex(columns=["method"])))


def _exhibit(title: str, note: str, figure: go.Figure, table: pd.DataFrame) -> Exhibit:
    return Exhibit(title, f"{note} {left_out_words(figure)}".strip(), figure, table)
