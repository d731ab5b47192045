"""Plain words for a comparison: verdict, size with interval, p, and what would settle it."""

from __future__ import annotations

from collections.abc import Iterable

from kdwatts.metrics.comparing import MOST_SEEDS, POWER
from multirun_analysis.statistics.comparisons import (
    ALPHA,
    COLUMNS,
    JOULE_MARGINS_PCT,
    SCORE_MARGINS_PCT,
    Comparison,
)
from multirun_analysis.values import units

FEW_PAIRS = 3
"""Up to here a test sees only large differences: a sentence about them says how large."""


def comparison_words(comparison: Comparison) -> str:
    """A comparison in one or two sentences: verdict, size with interval, p, and its limits."""
    c, about = comparison, COLUMNS[comparison.column]
    head = f"{c.label} against {c.baseline_label}, {about.words}: {c.verdict}"
    if c.difference is None:
        return f"{head}. One is measured and the other estimated, so they are not compared."
    pairs = units.count(c.num_pairs, "pair")
    apart = f"; {c.num_apart} left out, where one run is estimated" if c.num_apart else ""
    size, percent = size_words(c)
    if about.is_share:
        size = percent
    elif c.effect_pct is not None:
        size += f" or {percent}"
    if c.num_pairs < 2:
        return f"{head}. Difference {size} ({pairs}{apart}). One pair cannot be tested."
    if c.p is None or c.p_holm is None:
        return (
            f"{head}. Difference {size} in each of {pairs}{apart}. "
            "Differences without any spread cannot be tested."
        )
    p = p_words(c.p_holm)
    text = f"{head}. Difference {size} (95 % interval, {pairs}{apart}); p is {p}."
    if c.is_same and c.p_same_holm is not None:
        p = p_words(c.p_same_holm)
        return f"{text} For a difference of {c.same_within_pct} % or more p is {p}."
    if c.num_pairs <= FEW_PAIRS and c.verdict == "within noise" and c.effect_half_width_pct:
        least = f"{units.significant(c.effect_half_width_pct, 2)} {about.effect_unit}"
        text += f" {pairs} cannot show a difference below {least}."
    return f"{text}{_settling_words(c)}"


def _settling_words(c: Comparison) -> str:
    """How many seeds would tell a difference that is within noise, or show that there is none."""
    if c.verdict != "within noise":
        return ""
    if c.seeds_needed is None:
        return " No pair differs, so the number of seeds that would decide is not known."
    words = seeds_words([c.seeds_needed])
    text = (
        f" {words[:1].upper()}{words[1:]} seeds would decide it, "
        "if the true difference is the observed one."
    )
    if c.seeds_for_same is not None and c.seeds_for_same <= MOST_SEEDS:
        margin = COLUMNS[c.column].margins_pct[0]
        text += (
            f" If there is no difference, about {c.seeds_for_same} seeds would show that both are "
            f"the same within {margin} %."
        )
    return text


def seeds_words(counts: Iterable[int | None]) -> str:
    """A number of seeds, such as `about 5`, `about 4 to 8` or `more than 50`.

    Empty where unknown.
    """
    found = sorted({count for count in counts if count is not None})
    told = [str(count) for count in found if count <= MOST_SEEDS]
    if not told:
        return f"more than {MOST_SEEDS}" if found else ""
    last = told[-1] if len(told) == len(found) else f"more than {MOST_SEEDS}"
    return f"about {told[0]}" if last == told[0] else f"about {told[0]} to {last}"


def size_words(comparison: Comparison) -> tuple[str, str]:
    """The difference in words, in its unit and in per cent or points, with 95 % intervals."""
    c, unit = comparison, COLUMNS[comparison.column].unit
    size = percent = units.MISSING
    if c.difference is not None:
        size = units.signed(c.difference, unit, error=c.difference_half_width, prefixed="J" in unit)
    if c.effect_pct is not None:
        relative = COLUMNS[c.column].effect_unit
        percent = units.signed(
            c.effect_pct, relative, error=c.effect_half_width_pct, prefixed=False
        )
    return size, percent


def verdict_note() -> str:
    """How to read the verdicts, in sentences below a heading."""
    joules, scores = (
        f"{', '.join(map(str, margins[:0:-1]))} and {margins[0]} %"
        for margins in (JOULE_MARGINS_PCT, SCORE_MARGINS_PCT)
    )
    return (
        f"Within noise: p is {ALPHA:g} or more, so chance alone may explain the difference. "
        "Beside it stands how many seeds in all would decide it. That many decide it in "
        f"{100 * POWER:.0f} % of cases, if the true difference is the observed one. From few seeds "
        "this number is only a rough guess. The same within x %: two one-sided t-tests show that "
        "the settings differ by less than x %. x is the smallest that passes, of "
        f"{scores} for accuracy and bits per byte and of {joules} for energy. These tests are "
        "corrected in the same way. Energy per token served (eager loop) is not compared "
        "between students of one architecture: they share one figure."
    )


def p_words(p: float) -> str:
    """The p-value in words."""
    return "below 0.001" if p < 0.001 else units.significant(p, 2)
