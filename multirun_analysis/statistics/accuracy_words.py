"""Accuracy kept in words: its interval, and what is no better than guessing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from kdwatts.metrics.fieller import Interval
from kdwatts.metrics.quantity import interval_95, mean_of
from multirun_analysis.statistics.seeds import draws_words
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, grouped, known

KEPT = "accuracy_kept"
NOT_TOLD = "not known"
AT_CHANCE = "at chance"
"""Less than two standard errors above what guessing scores."""
MAX_NAMES = 3
"""Benchmarks that a mark names; more are counted, and the table of scores names them."""


@dataclass(frozen=True)
class MeanInterval(Interval):
    """A mean over the seeds of a setting, with its 95 % interval."""

    words: str = ""
    """What the interval is over."""
    num_seeds: int = 0


def mean_interval_of(rows: Sequence[Row], column: str) -> MeanInterval | None:
    """Mean of a column over seeds, with the wider of two intervals. None where no seed has a value.

    For two or more seeds there is Student's interval. Where all seeds have `column_low` and
    `column_high`, there is the interval over the benchmarks' samples: seeds are scored on the same
    samples, so its ends are the means of theirs. The wider one is used, and the words say which.
    """
    rows = known(rows, column)
    if not rows:
        return None
    mean, count = mean_of([row[column] for row in rows]), len(rows)
    seeds = interval_95(mean)
    _, draws = draws_words(rows)
    one = "one run" if draws == "repeats" else "one seed"
    ends = f"{column}_low", f"{column}_high"
    sampled = len(known(rows, *ends)) == len(rows)
    samples = (
        (fmean(r[ends[0]] for r in rows), fmean(r[ends[1]] for r in rows)) if sampled else None
    )
    if seeds and samples:
        is_wider = seeds[1] - seeds[0] >= samples[1] - samples[0]
        words = f"95 % interval over {count} {draws}; over benchmark samples it is narrower"
        if not is_wider:
            words = f"95 % interval over benchmark samples; over {count} {draws} it is narrower"
        return MeanInterval(mean.number, *(seeds if is_wider else samples), words, count)
    if seeds:
        return MeanInterval(mean.number, *seeds, f"95 % interval over {count} {draws}", count)
    if samples:
        words = f"95 % interval over benchmark samples, {one}"
        return MeanInterval(mean.number, *samples, words, count)
    return MeanInterval(mean.number, None, None, f"no interval: {one}", count)


def share_words(share: Interval) -> str:
    """Such as `40 % (25 to 55 %)`: a share with the ends of its interval, no finer than these."""
    value, ends = share_and_ends(share)
    return f"{value} ({ends})" if ends else value


def share_and_ends(share: Interval) -> tuple[str, str]:
    """Such as `40 %` and `25 to 55 %`; the second is empty where the share is missing."""
    if share.value is None:
        return units.MISSING, ""
    low, high = share.low, share.high
    if low is None or high is None or low == high:
        return f"{units.significant(100 * share.value)} %", "interval unknown"
    error_pct = 50 * (high - low)
    leading = math.floor(math.log10(error_pct))
    decimals = max(0, -leading if error_pct / 10**leading >= 3 else 1 - leading)
    # Adding 0 makes 0 of the -0 to which a small negative share is rounded.
    middle, least, most = (
        f"{round(100 * one, decimals) + 0.0:,.{decimals}f}" for one in (share.value, low, high)
    )
    return f"{middle} %", f"{least} to {most} %"


def kept_words(rows: Sequence[Row]) -> str:
    """Accuracy kept by one setting or run, or the reason why there is none, in three words."""
    if spread := mean_interval_of(rows, KEPT):
        return share_words(spread)
    return NOT_TOLD if known(rows, f"{KEPT}_reason") else units.MISSING


def names_of(run: Row, column: str) -> list[str]:
    """The benchmarks of a column, which holds JSON so that tables stay flat."""
    return [str(name) for name in json.loads(run.get(column) or "[]")]


def at_chance_words(rows: Sequence[Row], *, subject: str = "student") -> str:
    """The benchmarks on which the runs of a setting are at chance, in words.

    Empty where on none.
    """
    counts = Counter(name for run in rows for name in names_of(run, f"{subject}_at_chance"))
    if not counts:
        return ""
    if len(counts) > MAX_NAMES:
        return f"{AT_CHANCE} on {len(counts)} benchmarks"
    some = min(counts.values()) < len(rows)
    names = [
        f"{name} ({count} of {len(rows)} {draws_words(rows)[1]})" if some else name
        for name, count in counts.items()
    ]
    return f"{AT_CHANCE} on {', '.join(names)}"


def is_at_chance(rows: Sequence[Row]) -> bool:
    """Whether no run of a setting is above chance on any benchmark that its teacher had too."""
    return bool(rows) and all(
        (at_chance := set(names_of(run, "student_at_chance")))
        and {
            *names_of(run, "accuracy_kept_benchmarks"),
            *names_of(run, "teacher_at_chance"),
        }
        <= at_chance
        for run in rows
    )


def missing_reasons(runs: Sequence[Row]) -> dict[str, list[Row]]:
    """Reason to the runs that have no accuracy kept for this reason."""
    return grouped(known(runs, f"{KEPT}_reason"), f"{KEPT}_reason")
