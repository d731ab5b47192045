"""Each setting against fine-tuning, seed by seed, in words: also what is within noise."""

from __future__ import annotations

from multirun_analysis.report.render import Values
from multirun_analysis.report.study import Study
from multirun_analysis.statistics.comparison_words import comparison_words
from multirun_analysis.statistics.comparisons import (
    COLUMNS,
    Comparison,
    against_baseline,
    comparable_columns,
)

MAX_COMPARISONS = 60
"""Rows of each table; the file has all of them."""


def comparisons(study: Study) -> Values | None:
    """A table for each column in which settings can be compared."""
    tables = {
        COLUMNS[column].words: found
        for column in comparable_columns(study.runs)
        if (found := against_baseline(study.runs, [column]))
    }
    if not tables:
        return None
    return {
        "tables": {
            f"{words[:1].upper()}{words[1:]}": [_row(c) for c in found[:MAX_COMPARISONS]]
            for words, found in tables.items()
        },
        "num_left_out": sum(max(0, len(found) - MAX_COMPARISONS) for found in tables.values()),
    }


def _row(c: Comparison) -> Values:
    """The sentence is without what the table's other columns say."""
    words = comparison_words(c)
    return {
        "group": c.group,
        "label": c.label,
        "verdict": c.verdict,
        "kind": "same" if c.is_same else c.verdict.replace(" ", "-"),
        "words": words.partition(". ")[2] or words,
    }
