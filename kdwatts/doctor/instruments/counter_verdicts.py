"""The energy counter beside the integral of power: in size, in proportion, in units, and at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdwatts.doctor.instruments.load_windows import Joules
from kdwatts.metrics.student_t import mean_and_half_width, to_half_width
from kdwatts.records.doctor_record import COUNTER_CHECK, Verdict
from kdwatts.telemetry.parts import AGREEMENT

RIGHT_PCT = 100 * AGREEMENT
"""The meter's own limit, above which it flags windows of 10 s and more."""

WRONG_PCT = 5.0
"""The meter's limit for shorter windows, and the calibration error that it states for a GPU: most
sensors were found 0.2 to 6 % off (arXiv 2312.02741). More is neither noise nor calibration."""

LIMITS = f"{RIGHT_PCT:.0f} %, and {WRONG_PCT:.0f} % for wrong: limits of the meter's cross-check"

UNIT_FACTOR = 500.0
"""Counter and integral apart by this factor differ in their units: milli is a factor of 1000."""

REPORT = "do not trust this GPU's joules; update the driver, and report GPU and driver"


@dataclass(frozen=True)
class Difference:
    """A difference in % of something, with its 95 % interval."""

    pct: float
    low_pct: float
    high_pct: float


def with_figure(verdict: Verdict, apart: Difference | None, *, of: str = "") -> Verdict:
    """The verdict with its figure, which is in % of something where `of` says so."""
    unit = f"% {of}".strip()
    if apart is None:
        return replace(verdict, unit=unit)
    return replace(verdict, value=apart.pct, low=apart.low_pct, high=apart.high_pct, unit=unit)


def signed(pct: float) -> str:
    """A difference in % with its sign and one decimal."""
    return f"{pct:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")


NO_METER = "quote no joules of this GPU; choose another, or another driver"

MAY_BE_OFF = "say so where you quote its joules, and report GPU and driver"

LOST = "look for its Xid errors in dmesg, and for other processes that reset it"

LONGER = "look again with more --minutes"


def judged(value: float, low: float, high: float, *, right: float, wrong: float) -> str | None:
    """The verdict on a difference with its interval, held against 0.

    wrong where the whole interval is beyond `wrong`, attention where it is beyond `right`. right
    where the value is within `right` and the whole interval within `wrong`. None where the interval
    is too wide to tell: a healthy meter that is read too briefly gives no alarm.
    """
    if low > wrong or high < -wrong:
        return "wrong"
    if low > right or high < -right:
        return "attention"
    return "right" if abs(value) <= right and max(-low, high) <= wrong else None


def too_wide(low: float, high: float) -> str:
    """Why `judged` says None, in words."""
    return f"{signed(low)} to {signed(high)} % is too wide to tell"


def difference(windows: Sequence[Joules]) -> Difference | None:
    """The counter over the integral of power in all windows together; None without both.

    The ratio of the sums, with the standard deviation of a ratio of sums (Cochran 1977, Sampling
    Techniques, section 6.3) by Student's t. A few windows may agree by chance: it is never less
    than what the counter's steps and the jumps between samples allow.
    """
    pairs = [(one.counter_j, one.sampled_j) for one in windows]
    known = [(c, s) for c, s in pairs if c is not None and s is not None]
    sampled_j = math.fsum(s for _, s in known)
    if not known or sampled_j <= 0:
        return None
    ratio = math.fsum(c for c, _ in known) / sampled_j
    count = len(known)
    steps_j = math.sqrt(math.fsum(one.counter_sd_j**2 + one.sampled_sd_j**2 for one in windows))
    half = to_half_width(max(ratio, 1.0) * steps_j / sampled_j)
    if count > 1:
        rests = math.fsum((c - ratio * s) ** 2 for c, s in known)
        sd = math.sqrt(count / (count - 1) * rests) / sampled_j
        half = max(half, to_half_width(sd, count - 1))
    return Difference(100 * (ratio - 1), 100 * (ratio - half - 1), 100 * (ratio + half - 1))


def counter_agreement(
    steady: Sequence[Joules],
    *,
    is_loaded: bool,
    refused_w: float | None,
    remarks: str,
    num_silent: int = 0,
) -> Verdict:
    """The verdict on the counter of a GPU under steady loads, which a sensor cannot miss a part of.

    `refused_w` is the mean power in W that the sensor told and the meter did not believe. In
    `num_silent` more windows the GPU did not answer.
    """

    def verdict(
        word: str | None, found: str, remedy: str | None = None, apart: Difference | None = None
    ) -> Verdict:
        return with_figure(Verdict(COUNTER_CHECK, word, found + remarks, LIMITS, remedy), apart)

    if num_silent:
        remarks += f"; it did not answer in {num_silent} of {num_silent + len(steady)} windows"
    if not steady:
        return verdict("wrong", "the GPU was lost", LOST)
    if all(one.counter_j is None for one in steady):
        if all(one.sampled_j is None for one in steady):
            said = "neither an energy counter nor power" if refused_w is None else ""
            said = said or f"no energy counter, and its power sensor says {refused_w:.4g} W"
            return verdict("wrong", f"the GPU has {said}: it cannot be measured", NO_METER)
        return verdict(
            "attention",
            "no energy counter: power samples are integrated in its place",
            "take windows of 10 s and more, and no steps shorter than the sensor's period",
        )
    counted = [one for one in steady if one.counter_j is not None]
    if any((one.counter_j or 0.0) < 0 for one in counted):
        return verdict("wrong", "the counter fell while it was watched", REPORT)
    if any(one.counter_j == 0 for one in counted):
        drawn = max((one.sampled_w or 0.0) for one in counted if one.counter_j == 0)
        return verdict(
            "wrong",
            f"the counter is stuck: it stood still for a whole window at {drawn:.0f} W",
            REPORT,
        )
    apart = difference(counted)
    if apart is None:
        counter_w = counted[-1].counter_w or 0.0
        if refused_w and not 1 / UNIT_FACTOR < counter_w / refused_w < UNIT_FACTOR:
            return verdict("wrong", _units(counter_w / refused_w), REPORT)
        if refused_w is not None:
            return verdict("attention", _unbelieved(refused_w), MAY_BE_OFF)
        return verdict(None, "the GPU tells no power beside its counter")
    if not 1 / UNIT_FACTOR < apart.pct / 100 + 1 < UNIT_FACTOR:
        return verdict("wrong", _units(apart.pct / 100 + 1), REPORT)
    word = judged(apart.pct, apart.low_pct, apart.high_pct, right=RIGHT_PCT, wrong=WRONG_PCT)
    load = "at idle, half and full load" if is_loaded else "at idle only"
    found = (
        f"counter within {math.ceil(10 * abs(apart.pct)) / 10:.1f} % of the integral of power"
        if word == "right"
        else f"counter {signed(apart.pct)} % off the integral of power"
    ) + f" ({signed(apart.low_pct)} to {signed(apart.high_pct)} %) {load}, {len(counted)} windows"
    if word is None:
        found += "; that is too wide to tell"
    if num_silent and word != "wrong":
        return verdict("attention", found, LOST, apart)
    remedy = {"wrong": REPORT, "attention": MAY_BE_OFF, None: LONGER}.get(word)
    return verdict(word, found, remedy, apart)


def _units(factor: float) -> str:
    return f"counter and power differ in their units: the counter says {factor:.4g} times as much"


def _unbelieved(refused_w: float) -> str:
    return (
        f"the power sensor says {refused_w:.4g} W, so there is nothing to hold the counter against"
    )


def square_wave_agreement(
    waves: Sequence[tuple[float, Joules]], *, is_blind: bool | None, remarks: str
) -> Verdict:
    """The verdict on power samples under square waves: period in s, and what was said of each.

    `is_blind` says whether the sensor sees less than all of the time; None where it is not known.
    """
    name = "square_wave_agreement"
    against = f"{WRONG_PCT:.0f} %, the meter's limit for samples in windows below 10 s"
    found = [(period_s, difference([one])) for period_s, one in waves]
    known = [(period_s, apart) for period_s, apart in found if apart is not None]
    if not known:
        return Verdict(name, None, f"not looked at: no time was left for a square wave{remarks}")
    told = "samples over counter, waves of " + ", ".join(
        f"{period_s:g} s: {signed(-apart.pct)} %" for period_s, apart in known
    )
    worst = max((apart for _, apart in known), key=lambda apart: abs(apart.pct))
    turned = Difference(-worst.pct, -worst.high_pct, -worst.low_pct)
    if abs(worst.pct) <= WRONG_PCT:
        return with_figure(Verdict(name, "right", told + remarks, against), turned)
    is_apart = worst.low_pct > WRONG_PCT or worst.high_pct < -WRONG_PCT
    if is_blind is False and is_apart:
        remedy = "trust the counter; a tool that integrates this GPU's power errs on short work"
        return with_figure(Verdict(name, "attention", told + remarks, against, remedy), turned)
    why = "samples ten times a second do not resolve it"
    if is_blind:
        why = "the sensor does not see all of the time (arXiv 2312.02741)"
    return with_figure(
        Verdict(name, None, f"{told}; {why}, and the counter counts{remarks}"), turned
    )


def counter_linearity(
    idle: Sequence[Joules], half: Sequence[Joules], full: Sequence[Joules]
) -> Verdict:
    """The verdict on how far the counter is from a straight line through 0 and full load.

    Each mean power of the counter is held against that of the samples times their ratio at full
    load. So a wrong scale, which the agreement tells, is no bent line.
    """
    name, against = (
        "counter_linearity",
        f"{RIGHT_PCT:.0f} % of full load, and {WRONG_PCT:.0f} % for wrong",
    )
    at_full = difference(full)
    ratio = None if at_full is None else 1 + at_full.pct / 100
    if at_full is None or not ratio or ratio < 0:
        return Verdict(name, None, "not known: counter or samples are missing, or stand still")
    full_w = sum(one.sampled_w or 0.0 for one in full) / len(full)
    full_half_pct = (at_full.high_pct - at_full.low_pct) / 2
    # All levels are taken to spread alike: one window alone does not show how much it does.
    one_half_pct = full_half_pct * math.sqrt(len(full))
    told, worst = [], None
    for level, windows in (("idle", idle), ("half", half)):
        apart = difference(windows)
        if apart is None or full_w <= 0:
            continue
        level_w = sum(one.sampled_w or 0.0 for one in windows) / len(windows)
        share = level_w / full_w / ratio
        off_pct = 100 * (1 + apart.pct / 100 - ratio) * share
        half_pct = (apart.high_pct - apart.low_pct) / 2
        half_pct = max(half_pct, one_half_pct / math.sqrt(len(windows)))
        error_pct = share * math.hypot(half_pct, full_half_pct)
        told.append(f"{signed(off_pct)} % at {level} ({level_w:.0f} W)")
        if worst is None or abs(off_pct) > abs(worst[0]):
            worst = off_pct, error_pct
    if worst is None:
        return Verdict(name, None, "not known: counter or samples are missing")
    low, high = worst[0] - worst[1], worst[0] + worst[1]
    word = judged(worst[0], low, high, right=RIGHT_PCT, wrong=WRONG_PCT)
    found = f"from the line through 0 and full load ({full_w:.0f} W) it is off by "
    found += f"{', '.join(told)}, in % of full load"
    if word is None:
        found += f"; {too_wide(low, high)}"
    return Verdict(
        name,
        word,
        found,
        against,
        {"right": None, None: LONGER, "attention": MAY_BE_OFF}.get(word, REPORT),
        value=worst[0],
        low=low,
        high=high,
        unit="% of full load",
    )


def joules_per_product(equal: Sequence[Joules], short: Sequence[Joules]) -> Verdict:
    """The verdict on joules a product in a short window beside those in the equal, longer ones."""
    name = "joules_per_product"

    def each(windows: Sequence[Joules]) -> list[float]:
        return [
            one.counter_j / one.window.num_done
            for one in windows
            if one.counter_j and one.window.num_done
        ]

    long_j, short_j = each(equal), each(short)
    if len(long_j) < 2 or not short_j:
        return Verdict(name, None, "not known: no joules or no products")
    mean_j, _ = mean_and_half_width(long_j)
    variance = sum((one - mean_j) ** 2 for one in long_j) / (len(long_j) - 1)
    long_s = sum(one.window.duration_s for one in equal) / len(equal)
    short_s = short[0].window.duration_s
    # White noise: the variance of a mean falls as its time grows.
    sd_j = math.sqrt(variance * (long_s / short_s + 1 / len(long_j)))
    steps = short[0].counter_sd_j / (short[0].counter_j or 1.0)
    half_pct = 100 * max(to_half_width(sd_j, len(long_j) - 1) / mean_j, to_half_width(steps))
    off_pct = 100 * (short_j[0] / mean_j - 1)
    low, high = off_pct - half_pct, off_pct + half_pct
    word = "right" if low <= RIGHT_PCT and high >= -RIGHT_PCT else "attention"
    return Verdict(
        name,
        word,
        f"{mean_j:.3g} J a product in windows of {long_s:.1f} s; one of {short_s:.1f} s says "
        f"{signed(off_pct)} % ({signed(low)} to {signed(high)} %)",
        f"the same in any window, within {RIGHT_PCT:.0f} %",
        None if word == "right" else "compare windows of equal length only, of 10 s and more",
        value=off_pct,
        low=low,
        high=high,
        unit="%",
    )
