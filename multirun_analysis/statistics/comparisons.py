"""Differences between settings by pairs of one seed, and whether chance alone explains them.

Two runs with one seed see the same data in the same order. So much of what differs between seeds
cancels in their difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import combinations

import pandas as pd

from kdwatts.metrics.comparing import (
    MOST_SEEDS,
    equivalence_p,
    holm,
    holm_over_margins,
    paired_p,
    seeds_needed,
    seeds_needed_for_equivalence,
)
from kdwatts.metrics.quantity import mean_of
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.values.order import settings_of
from multirun_analysis.values.rows import Row, distinct_students, known

ALPHA = 0.05
"""The chance of calling any difference of a family real where there is none."""


@dataclass(frozen=True)
class Column:
    """What a comparison needs to know about a column of runs."""

    words: str
    unit: str
    higher_is_better: bool
    quality: str | None = None
    """The column that says how its joules were obtained. None where it holds no joules."""
    is_share: bool = False
    """A share of the teacher's, so differences are in points.

    Per cent of a baseline that keeps almost nothing could be any number.
    """

    @property
    def effect_unit(self) -> str:
        """The unit of `effect_pct`: points, or %."""
        return "points" if self.is_share else "%"

    @property
    def margins_pct(self) -> tuple[int, ...]:
        """The margins within which two settings may be called the same, in %, the widest first."""
        return JOULE_MARGINS_PCT if self.quality else SCORE_MARGINS_PCT


JOULE_MARGINS_PCT = (10, 5, 3, 1)
"""Paradigms differ by tens of per cent in joules, and meters err by several.

So 10 % changes no choice. The smallest margin that the data show is reported.
"""

SCORE_MARGINS_PCT = (3, 1)
"""Paradigms differ by a few per cent in accuracy and bits per byte: 5 % would hide that."""

SERVING = ("student_total_j_per_token", "eff_overall")
"""Columns whose joules are one figure for all students that serve alike.

What else differs between such students is noise of measuring, or has a column of its own.
"""

COLUMNS: Mapping[str, Column] = {
    "accuracy_kept": Column("accuracy kept", "", True, is_share=True),
    "om_perf": Column("OM_perf", "", True),
    "student_bits_per_byte": Column("bits per byte", "bits/byte", False),
    "own_energy_j": Column("own energy", "J", False, "own_energy_quality"),
    "total_amortised_energy_j": Column(
        "energy with its share of inherited work", "J", False, "total_energy_quality"
    ),
    "student_total_j_per_token": Column(
        "energy per token served (eager loop)", "J/token", False, "inference_energy_quality"
    ),
    "eff_overall": Column("Eff_overall", "", True, "inference_energy_quality"),
}
"""The columns by which settings are compared."""


@dataclass(frozen=True)
class Comparison:
    """One setting against another in one column, over the seeds that both have."""

    column: str
    group: str
    label: str
    baseline_group: str
    baseline_label: str
    num_pairs: int
    """Number of seeds for which both have the value, with joules obtained alike."""
    num_apart: int
    """Number of seeds for which one value is measured and one estimated.

    These are never compared.
    """
    mean: float | None = None
    baseline_mean: float | None = None
    """Both means are over the pairs, in the unit of the column."""
    difference: float | None = None
    """Mean of setting less baseline, in the unit of the column."""
    difference_half_width: float | None = None
    """Half of its 95 % interval by Student's t. It is not corrected for many comparisons."""
    effect_pct: float | None = None
    """The difference over the baseline's mean, in %. Of a share it is in points."""
    effect_half_width_pct: float | None = None
    p: float | None = None
    """Two-sided p of a paired t-test. None for one pair, and for differences that are all equal."""
    p_holm: float | None = None
    """The same p, corrected for all comparisons that were made together (Holm)."""
    verdict: str = ""
    """better, worse, the same within x %, within noise, or too few seeds to tell."""
    p_same_holm: float | None = None
    """p that they differ by `same_within_pct` or more. Where that is None, by the widest margin.

    It is that of two one-sided tests, corrected for all comparisons and margins together.
    """
    same_within_pct: int | None = None
    """The smallest margin, in % of the baseline, within which they are shown to be the same."""
    pairs: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    """Values of setting and baseline."""
    num_tests: int = 1
    """The number of comparisons that p is corrected for."""

    @property
    def is_same(self) -> bool:
        """Whether the two were shown to be the same within a margin."""
        return self.verdict.startswith("the same")

    # The two below take a search: of very many comparisons only those that are shown are asked.

    @cached_property
    def seeds_needed(self) -> int | None:
        """The number of seeds that would show a difference like the observed one.

        It is given where the verdict is "within noise". 51, one more than `MOST_SEEDS`, stands for
        any larger number.
        """
        if self.verdict != "within noise":
            return None
        scale = abs(self.baseline_mean or 0.0)
        return seeds_needed([a - b for a, b in self.pairs], alpha=self._alpha, scale=scale)

    @cached_property
    def seeds_for_same(self) -> int | None:
        """The number of seeds that would show equal settings to be the same, by the widest margin.

        It is given where `seeds_needed` is 51. 51 stands for any larger number.
        """
        if self.seeds_needed is None or self.seeds_needed <= MOST_SEEDS:
            return None
        mine, other = zip(*self.pairs, strict=True)
        margin = COLUMNS[self.column].margins_pct[0] / 100
        return seeds_needed_for_equivalence(mine, other, margin, alpha=self._alpha)

    @property
    def _alpha(self) -> float:
        """The worst level that Holm's correction may ask for."""
        return ALPHA / self.num_tests


def comparable_columns(runs: pd.DataFrame) -> list[str]:
    """The columns that settings may be compared by.

    A ratio of scores is not among them where accuracy kept cannot be told.
    """
    if known(distinct_students(runs), "accuracy_kept"):
        return list(COLUMNS)
    return [column for column in COLUMNS if column not in ("om_perf", "eff_overall")]


def against_baseline(
    runs: pd.DataFrame, columns: Sequence[str] = tuple(COLUMNS), *, baseline: str = "sft"
) -> list[Comparison]:
    """Each setting against its baseline, column by column. p is corrected over the whole list.

    The baseline is the setting of this paradigm with the same pair, data, GPU, power limit and
    overrides, except for overrides of the paradigm itself. A setting without a baseline is not in
    the list. Give one column at a time to correct within this column only.
    """
    settings = settings_of(distinct_students(runs))
    found = []
    for rows in settings:
        if rows[0]["paradigm"] != baseline and (other := _baseline_of(rows[0], settings, baseline)):
            found.append((rows, other))
    return _compared(found, columns)


def every_pair(runs: pd.DataFrame, columns: Sequence[str] = tuple(COLUMNS)) -> list[Comparison]:
    """Each pair of settings, column by column. p is corrected over the whole list."""
    settings = settings_of(distinct_students(runs))
    return _compared([(b, a) for a, b in combinations(settings, 2)], columns)


def baseline_key(run: Row) -> tuple[str, ...]:
    """What a setting has in common with its baseline."""
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
    made = [
        _comparison(mine, other, column)
        for column in columns
        for mine, other in pairs
        if column not in SERVING or not _served_alike(mine, other)
    ]
    return _judged([c for c in made if c.num_pairs or c.num_apart])


def _served_alike(mine: list[Row], other: list[Row]) -> bool:
    """Whether a token of both has one figure, pooled over the runs that measured it."""
    mine_keys, other_keys = (
        {run.get("student_served_key") for run in rows} - {None} for rows in (mine, other)
    )
    return not mine_keys.isdisjoint(other_keys)


def _comparison(mine: list[Row], other: list[Row], column: str) -> Comparison:
    """Without a verdict, which waits for the correction."""
    by_seed = {run["seed"]: run for run in known(other, column, "seed")}
    both = [(run, by_seed[run["seed"]]) for run in known(mine, column, "seed")
            if run["seed"] in by_seed]  # fmt: skip
    alike = [(one[column], two[column]) for one, two in both if _obtained_alike(one, two, column)]
    comparison = Comparison(
        column=column,
        group=mine[0]["group"],
        label=mine[0]["group_label"],
        baseline_group=other[0]["group"],
        baseline_label=other[0]["group_label"],
        num_pairs=len(alike),
        num_apart=len(both) - len(alike),
    )
    if not alike:
        return comparison
    base = mean_of([two for _, two in alike]).number
    differences = [one - two for one, two in alike]
    difference = mean_of(differences)
    scale = 100 / abs(base) if base else None
    if COLUMNS[column].is_share:
        scale = 100.0
    half_width = difference.half_width
    return replace(
        comparison,
        pairs=tuple(alike),
        mean=mean_of([one for one, _ in alike]).number,
        baseline_mean=base,
        difference=difference.number,
        difference_half_width=half_width,
        effect_pct=None if scale is None else scale * difference.number,
        effect_half_width_pct=None if scale is None or half_width is None else scale * half_width,
        p=paired_p(differences, scale=abs(base)),
    )


def _obtained_alike(one: Row, two: Row, column: str) -> bool:
    quality = COLUMNS[column].quality
    if quality is None:
        return True
    kinds = {energy_class(one[quality]), energy_class(two[quality])}
    return len(kinds) == 1 and kinds != {"missing"}


def _judged(made: Sequence[Comparison]) -> list[Comparison]:
    """Each with its verdict, p corrected over all of them."""
    corrected = iter(holm([c.p for c in made if c.p is not None]))
    at_margins = [_p_at_margins(c) for c in made]
    same = iter(holm_over_margins([ps for ps in at_margins if ps]))
    num_tests = sum(c.p is not None for c in made)
    judged = []
    for c, ps in zip(made, at_margins, strict=True):
        if c.p is not None:
            c = replace(c, p_holm=next(corrected), num_tests=num_tests)
        if ps:
            c = _with_margin(c, next(same))
        judged.append(replace(c, verdict=_verdict(c)))
    return judged


def _p_at_margins(c: Comparison) -> list[float]:
    """One p for each margin of the column; none where nothing is known about chance."""
    if c.p is None:
        return []
    mine, other = zip(*c.pairs, strict=True)
    ps = [equivalence_p(mine, other, margin / 100) for margin in COLUMNS[c.column].margins_pct]
    return [p for p in ps if p is not None] if None not in ps else []


def _with_margin(c: Comparison, corrected: Sequence[float]) -> Comparison:
    margins = dict(zip(COLUMNS[c.column].margins_pct, corrected, strict=True))
    passed = [margin for margin, p in margins.items() if p < ALPHA]
    margin = min(passed, default=None)
    p = corrected[0] if margin is None else margins[margin]
    return replace(c, p_same_holm=p, same_within_pct=margin)


def _verdict(c: Comparison) -> str:
    if c.p_holm is None or c.difference is None:
        return "too few seeds to tell"
    if c.p_holm < ALPHA:
        is_higher = c.difference > 0
        return "better" if is_higher == COLUMNS[c.column].higher_is_better else "worse"
    return "within noise" if c.same_within_pct is None else f"the same within {c.same_within_pct} %"


def comparisons_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One row for each comparison: what it found, the seeds it needs, and its column's unit."""
    names = [each.name for each in fields(Comparison) if each.name not in ("pairs", "num_tests")]
    names += ["seeds_needed", "seeds_for_same"]
    rows = [
        {name: getattr(c, name) for name in names} | {"unit": COLUMNS[c.column].unit}
        for c in comparisons
    ]
    counts = ("same_within_pct", "seeds_needed", "seeds_for_same")
    table = pd.DataFrame(rows, columns=[*names, "unit"])
    return table.astype(dict.fromkeys(counts, "Int64"))
