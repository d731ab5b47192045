"""Differences between settings by pairs of one seed, and whether chance alone would make them.

Two runs of one seed see the same data in the same order, so that much of what differs between
seeds cancels in their difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations

import pandas as pd
from scipy.special import stdtr

from multirun_analysis import units
from multirun_analysis.metrics import mean_interval
from multirun_analysis.pareto import energy_class
from multirun_analysis.rows import Row, distinct_students, grouped, known

ALPHA = 0.05
"""Chance of calling any difference of a family real where there is none."""

FEW_PAIRS = 3
"""Up to here a test sees only large differences: a sentence about them says how large."""


@dataclass(frozen=True)
class Column:
    """What a number of a run means to a comparison."""

    words: str
    unit: str
    higher_is_better: bool
    quality: str | None = None
    """Column that says how its joules were obtained; None where there are none in it."""


COLUMNS: Mapping[str, Column] = {
    "accuracy_kept": Column("accuracy kept", "", True),
    "om_perf": Column("OM_perf", "", True),
    "student_bits_per_byte": Column("bits per byte", "bits/byte", False),
    "own_energy_j": Column("own energy", "J", False, "own_energy_quality"),
    "total_amortised_energy_j": Column(
        "energy with its share of inherited work", "J", False, "total_energy_quality"
    ),
    "student_total_j_per_token": Column(
        "energy per token served", "J/token", False, "inference_energy_quality"
    ),
    "eff_overall": Column("Eff_overall", "", True, "inference_energy_quality"),
}
"""What settings are compared by."""


@dataclass(frozen=True)
class Comparison:
    """One setting against another in one column, over the seeds that both have."""

    column: str
    group: str
    label: str
    baseline_group: str
    baseline_label: str
    num_pairs: int
    """Seeds of which both have the number, its joules obtained alike."""
    num_apart: int
    """Seeds of which both have it, but one measured and one estimated: never compared."""
    mean: float | None
    baseline_mean: float | None
    """Both over the pairs, in the unit of the column."""
    difference: float | None
    """Mean of setting less baseline, in the unit of the column."""
    difference_half_width: float | None
    """Half of its 95 % interval, by Student's t; not corrected for many comparisons."""
    effect_pct: float | None
    """Difference relative to the baseline's mean."""
    effect_half_width_pct: float | None
    p: float | None
    """Two-sided, of a paired t-test; None for one pair and for differences that are all alike."""
    p_holm: float | None
    """The same, corrected for all comparisons that were made together."""
    verdict: str
    """better, worse, within noise, or too few seeds to tell."""


def told_columns(runs: pd.DataFrame) -> list[str]:
    """What settings may be compared by: no ratio of scores where accuracy kept cannot be told."""
    if known(distinct_students(runs), "accuracy_kept"):
        return list(COLUMNS)
    return [column for column in COLUMNS if column not in ("om_perf", "eff_overall")]


def against_baseline(
    runs: pd.DataFrame, columns: Sequence[str] = tuple(COLUMNS), *, baseline: str = "sft"
) -> list[Comparison]:
    """Each setting against its baseline, column by column; p is corrected over the whole list.

    The baseline is the setting of that paradigm with the same pair, data, card, power limit and
    overrides, those of the paradigm itself apart. A setting without one is not in the list.
    Ask for one column at a time to correct within that column only.
    """
    settings = grouped(distinct_students(runs), "group")
    found = []
    for rows in settings.values():
        if rows[0]["paradigm"] != baseline and (
            other := _baseline_of(rows[0], settings.values(), baseline)
        ):
            found.append((rows, other))
    return _compared(found, columns)


def every_pair(runs: pd.DataFrame, columns: Sequence[str] = tuple(COLUMNS)) -> list[Comparison]:
    """Each pair of settings, column by column; p is corrected over the whole list."""
    settings = list(grouped(distinct_students(runs), "group").values())
    return _compared([(b, a) for a, b in combinations(settings, 2)], columns)


def baseline_key(run: Row) -> tuple[str, ...]:
    """What a setting has in common with what it is held against."""
    own = run["setting"].split(", ") if run["setting"] else []
    shared = sorted(text for text in own if not text.startswith(("paradigm.", "teacher.")))
    same = ("model", "data", "gpu", "power_limit_w")
    return (*(str(run.get(key)) for key in same), str(run["origin"] is not None), *shared)


def _baseline_of(run: Row, settings: Iterable[list[Row]], baseline: str) -> list[Row] | None:
    """The runs of the baseline; of several that fit, those with the fewest overrides."""
    fitting = [
        rows
        for rows in settings
        if rows[0]["paradigm"] == baseline and baseline_key(rows[0]) == baseline_key(run)
    ]
    return min(fitting, key=lambda rows: len(rows[0]["setting"] or ""), default=None)


def _compared(
    pairs: Sequence[tuple[list[Row], list[Row]]], columns: Sequence[str]
) -> list[Comparison]:
    for column in columns:
        if column not in COLUMNS:
            raise ValueError(
                f"compare by {column}: it is not known which way is better; "
                f"choose from {', '.join(COLUMNS)}"
            )
    found = [_comparison(mine, other, column) for column in columns for mine, other in pairs]
    found = [comparison for comparison in found if comparison.num_pairs or comparison.num_apart]
    corrected = iter(holm([c.p for c in found if c.p is not None]))
    judged = []
    for comparison in found:
        p_holm = None if comparison.p is None else next(corrected)
        judged.append(replace(comparison, p_holm=p_holm, verdict=_verdict(comparison, p_holm)))
    return judged


def _comparison(mine: list[Row], other: list[Row], column: str) -> Comparison:
    """Without a verdict, which waits for the correction."""
    by_seed = {run["seed"]: run for run in known(other, column, "seed")}
    both = [(run, by_seed[run["seed"]]) for run in known(mine, column, "seed")
            if run["seed"] in by_seed]  # fmt: skip
    alike = [(one, two) for one, two in both if _obtained_alike(one, two, column)]
    comparison = Comparison(
        column, mine[0]["group"], mine[0]["group_label"], other[0]["group"],
        other[0]["group_label"], len(alike), len(both) - len(alike),
        None, None, None, None, None, None, None, None, "",
    )  # fmt: skip
    if not alike:
        return comparison
    base = mean_interval([two[column] for _, two in alike]).mean
    differences = [one[column] - two[column] for one, two in alike]
    difference = mean_interval(differences)
    scale = 100 / abs(base) if base else None
    half_width = difference.half_width
    return replace(
        comparison,
        mean=mean_interval([one[column] for one, _ in alike]).mean,
        baseline_mean=base,
        difference=difference.mean,
        difference_half_width=half_width,
        effect_pct=None if scale is None else scale * difference.mean,
        effect_half_width_pct=None if scale is None or half_width is None else scale * half_width,
        p=paired_p(differences, scale=abs(base)),
    )


def _obtained_alike(one: Row, two: Row, column: str) -> bool:
    quality = COLUMNS[column].quality
    if quality is None:
        return True
    kinds = {energy_class(one[quality]), energy_class(two[quality])}
    return len(kinds) == 1 and kinds != {"missing"}


def paired_p(differences: Sequence[float], *, scale: float = 0.0) -> float | None:
    """Two-sided p of Student's paired t-test that the mean difference is 0 (Student 1908).

    t = mean / (s / sqrt(n)) with n - 1 degrees of freedom. None for fewer than two differences,
    and for differences that are all alike but not 0: their spread, which t divides by, is unknown
    rather than 0. `scale` is the size of the numbers that were subtracted, whose rounding is no
    spread.
    """
    count = len(differences)
    if count < 2:
        return None
    mean = math.fsum(differences) / count
    spread = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (count - 1))
    rounding = 1e-12 * max(scale, *map(abs, differences))
    if spread <= rounding:
        return 1.0 if abs(mean) <= rounding else None
    return float(2 * stdtr(count - 1, -abs(mean) / (spread / math.sqrt(count))))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for being many, in their order (Holm 1979).

    The k-th smallest of m is multiplied by m - k + 1; none is below a smaller one's, or above 1.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _verdict(comparison: Comparison, p_holm: float | None) -> str:
    if p_holm is None or comparison.difference is None:
        return "too few seeds to tell"
    if p_holm >= ALPHA:
        return "within noise"
    is_higher = comparison.difference > 0
    return "better" if is_higher == COLUMNS[comparison.column].higher_is_better else "worse"


def comparison_words(comparison: Comparison) -> str:
    """One or two sentences, plain text: verdict, size with interval, p, and how little is known."""
    c, about = comparison, COLUMNS[comparison.column]
    head = f"{c.label} against {c.baseline_label}, {about.words}: {c.verdict}"
    if c.difference is None:
        return f"{head}. One is measured and the other estimated, so no pair can be compared."
    pairs = f"{c.num_pairs} pair{'s' * (c.num_pairs != 1)} of one seed"
    apart = f", {c.num_apart} left out where one is estimated" if c.num_apart else ""
    size, percent = size_words(c)
    if c.effect_pct is not None:
        size += f" ({percent})"
    if c.num_pairs < 2:
        return f"{head}. {size} in {pairs}{apart}: one pair says nothing about chance."
    if c.p is None or c.p_holm is None:
        return (
            f"{head}. {size} in each of {pairs}{apart}: "
            "differences that are all alike say nothing about chance."
        )
    text = f"{head}. {size}, 95 % interval, {pairs}{apart}; p {p_words(c.p_holm)}."
    if c.num_pairs <= FEW_PAIRS and c.verdict == "within noise" and c.effect_half_width_pct:
        least = units.significant(c.effect_half_width_pct, 2)
        text += f" So few pairs would not have shown a difference below {least} %."
    return text


def size_words(comparison: Comparison) -> tuple[str, str]:
    """The difference and its share of the baseline's mean, both with their 95 % intervals."""
    c, unit = comparison, COLUMNS[comparison.column].unit
    size = percent = units.MISSING
    if c.difference is not None:
        size = units.signed(c.difference, unit, error=c.difference_half_width, prefixed="J" in unit)
    if c.effect_pct is not None:
        percent = units.signed(c.effect_pct, "%", error=c.effect_half_width_pct, prefixed=False)
    return size, percent


def p_words(p: float) -> str:
    return "below 0.001" if p < 0.001 else units.significant(p, 2)


def comparisons_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One row for each comparison: its fields, and the unit of its column."""
    names = [field.name for field in fields(Comparison)]
    rows = [
        {name: getattr(c, name) for name in names} | {"unit": COLUMNS[c.column].unit}
        for c in comparisons
    ]
    return pd.DataFrame(rows, columns=[*names, "unit"])
