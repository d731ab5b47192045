"""Rows of plain words for a page without scripts: results, comparisons, serving, by setting."""

from __future__ import annotations

import pandas as pd

from kdwatts.metrics.break_even import BreakEven
from multirun_analysis.figures.differences import JUDGED
from multirun_analysis.figures.marks import setting_mean, settings_by_kind
from multirun_analysis.statistics.accuracy_words import KEPT, at_chance_words, kept_words
from multirun_analysis.statistics.comparison_words import p_words, seeds_words, size_words
from multirun_analysis.statistics.comparisons import (
    COLUMNS,
    Comparison,
    against_baseline,
    comparable_columns,
    every_pair,
)
from multirun_analysis.statistics.loop_words import loop_label
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.statistics.repayment import count_words, repayments, verdict_words
from multirun_analysis.statistics.seeds import draws_of
from multirun_analysis.statistics.served import served
from multirun_analysis.statistics.site import common_site
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, distinct_students, grouped, known

Table = tuple[list[str], list[list[str]]]
"""Heads and rows."""


def mean_words(rows: list[Row], column: str, unit: str | None = None, *, scale: float = 1.0) -> str:
    """Mean over seeds with its 95 % interval; one seed has none. `unit` takes a prefix."""
    mean = setting_mean(rows, column)
    if mean is None:
        return units.MISSING
    error = None if mean.half_width is None else scale * mean.half_width
    value = scale * mean.number
    words = (
        units.with_error(value, error) if unit is None else units.quantity(value, unit, error=error)
    )
    count = len(known(rows, column))
    return words if count == len(rows) else f"{words} (of {count})"


def result_rows(students: list[Row]) -> Table:
    """Quality and energy of each setting, below them the teachers'.

    Without a site in common there is no CO2e: a mean, and the column, would mix unlike factors.
    """
    site = common_site(students)
    draws = draws_of(students).capitalize()
    heads = ["Setting", draws, "Accuracy kept", "OM_perf", "Bits per byte", "Building"]
    heads += ["With inherited share", "Training", "CO2e", "Energy is"]
    rows = [
        [
            setting.label,
            str(len(setting.rows)),
            _kept_and_marks(setting.rows),
            mean_words(setting.rows, "om_perf"),
            mean_words(setting.rows, "student_bits_per_byte"),
            mean_words(setting.rows, "own_energy_j", "J"),
            mean_words(setting.rows, "total_amortised_energy_j", "J"),
            mean_words(setting.rows, "train_j_per_token", "J/token"),
            mean_words(setting.rows, "co2e_kg", "g", scale=1000) if site else units.MISSING,
            setting.kind,
        ]
        for setting in settings_by_kind(students, "own_energy_quality")
    ]
    pairs = grouped(known(students, "teacher_bits_per_byte"), "model")
    for pair, taught in pairs.items():
        name = "teacher" if len(pairs) == 1 else f"teacher of {pair}"
        kept = "100 %" if known(taught, KEPT) else units.MISSING
        if marks := at_chance_words(taught[:1], subject="teacher"):
            kept = f"{kept}, {marks}"
        plain = "1" if known(taught, "om_perf") else units.MISSING
        bits = units.number(taught[0]["teacher_bits_per_byte"])
        rows.append([name, "", kept, plain, bits, *[units.MISSING] * 4, ""])
    return heads, rows


def _kept_and_marks(rows: list[Row]) -> str:
    """Accuracy kept, of how many seeds where not of all, and on what they are at chance."""
    told = known(rows, KEPT)
    some = f" (of {len(told)})" if told and len(told) < len(rows) else ""
    return ", ".join(filter(None, (f"{kept_words(rows)}{some}", at_chance_words(rows))))


def comparison_rows(runs: pd.DataFrame) -> Table:
    """Each setting against plain fine-tuning, p corrected within each column."""
    heads = ["Compared", "Setting", "Difference", "Relative", "p, corrected", "Pairs", "Verdict"]
    heads += ["Seeds to decide"]
    rows = []
    for column in comparable_columns(runs):
        compared = f"{COLUMNS[column].words}{_kinds(runs, column)}"
        for c in against_baseline(runs, [column]):
            size, percent = size_words(c)
            p = units.MISSING if c.p_holm is None else p_words(c.p_holm)
            seeds = seeds_words([c.seeds_needed]) or units.MISSING
            rows.append([compared, c.label, size, percent, p, str(c.num_pairs), c.verdict, seeds])
    return heads, rows


def noise_words(runs: pd.DataFrame) -> list[str]:
    """For each of JUDGED, which settings differ beyond noise, and which do not."""
    distilled = runs.loc[runs["paradigm"] != "sft"]
    found = []
    for column in [column for column in JUDGED if column in comparable_columns(runs)]:
        parts = [
            _judged_words(against_baseline(runs, [column]), "against plain fine-tuning (sft)"),
            _judged_words(every_pair(distilled, [column]), "between distilled settings"),
        ]
        title = COLUMNS[column].words
        title = f"{title[:1].upper()}{title[1:]}{_kinds(runs, column)}"
        found += [f"{title} {words}" for words in parts if words]
    return found


def _kinds(runs: pd.DataFrame, column: str) -> str:
    """In brackets, how the joules of a column were obtained, where they are not all measured."""
    quality = COLUMNS[column].quality
    if quality is None:
        return ""
    kinds = {energy_class(run[quality]) for run in known(distinct_students(runs), column)}
    return "" if kinds == {"measured"} else f" ({', '.join(sorted(kinds))})"


def _judged_words(comparisons: list[Comparison], where: str) -> str:
    """What differs beyond noise, how many pairs do not, how large a difference these hide, and how
    many seeds would show one as large as was observed."""
    if not comparisons:
        return ""
    total, lines = len(comparisons), []
    if differing := [c for c in comparisons if c.verdict in ("better", "worse")]:
        lines.append(f"{', '.join(map(_sure_words, differing))}.")
    if noise := [c for c in comparisons if c.verdict == "within noise"]:
        widths = [c.effect_half_width_pct for c in noise if c.effect_half_width_pct is not None]
        unit = COLUMNS[noise[0].column].effect_unit
        most = f" (95 % intervals up to ± {units.significant(max(widths), 2)} {unit})"
        lines.append(f"{len(noise)} of {total} within noise{most if widths else ''}.")
        if seeds := seeds_words(c.seeds_needed for c in noise):
            lines.append(
                f"{seeds[:1].upper()}{seeds[1:]} seeds would decide, if the true difference is the "
                "observed one."
            )
    if same := [c.same_within_pct or 0 for c in comparisons if c.is_same]:
        lines.append(f"{len(same)} of {total} the same within {max(same)} %.")
    if few := sum(c.verdict == "too few seeds to tell" for c in comparisons):
        lines.append(f"{few} of {total} with too few seeds to tell.")
    return f"{where}: {' '.join(lines)}"


def _sure_words(c: Comparison) -> str:
    """A difference beyond noise; of joules worse is more."""
    is_energy = COLUMNS[c.column].quality and not COLUMNS[c.column].higher_is_better
    words = {"better": "takes less", "worse": "takes more"} if is_energy else {}
    word = words.get(c.verdict, f"is {c.verdict}")
    return f"{c.label} {word} than {c.baseline_label} ({size_words(c)[1]})"


def serving_rows(runs: pd.DataFrame, train: pd.DataFrame) -> Table:
    """What a token costs served by student and by teacher, and when distilling is repaid."""
    heads = ["Setting", "Student", "Teacher", "Repaid after", "Students to share", "Energy is"]
    rows = [
        [
            r.label,
            units.quantity_words(r.student),
            units.quantity_words(r.teacher),
            _break_even_words(r.tokens, "tokens"),
            _break_even_words(r.students, "students"),
            r.energy_class,
        ]
        for r in repayments(runs, train)
    ]
    return heads, rows


def served_alike_words(runs: pd.DataFrame) -> list[str]:
    """For students that serve alike: what one token takes.

    They differ by their weights alone, so what differs between settings is noise of measuring.
    """
    found = []
    alike = grouped(known(distinct_students(runs), "student_served_key"), "student_served_key")
    for rows in alike.values():
        if len({run["group"] for run in rows}) < 2:
            continue
        first, limit_w = rows[0], rows[0]["power_limit_w"]
        label = loop_label(rows)
        limit = "" if limit_w is None else f" at {limit_w:g} W"
        count = first["student_served_measurements"]
        single = [run["student_total_j_per_token"] for run in known(rows, _OF_ONE_RUN)]
        kind = energy_class(first["inference_energy_quality"])
        words = (
            f"The {len(rows)} students of {first['model']} on {first['gpu']}{limit} have one "
            f"architecture, so they share one serving energy{f' ({label})' if label else ''}: "
            f"{units.quantity_words(served(first, 'student'))} (95 % interval, {kind}, "
            f"{units.count(count, 'measurement')})."
        )
        if len(set(single)) > 1:
            ends = " to ".join(units.quantity(end, "J") for end in (min(single), max(single)))
            words += f" Single runs measured {ends}. These differences are measurement noise."
        found.append(words)
    return found


_OF_ONE_RUN = "student_total_j_per_token"


def _break_even_words(found: BreakEven, what: str) -> str:
    """How many with a 95 % interval, or why there is no number."""
    if found.value is None:
        return units.MISSING if found.verdict == "unknown" else verdict_words(found)
    ends = " to ".join(count_words(end) for end in (found.low, found.high))
    return f"{verdict_words(found)} {what} ({ends})"
