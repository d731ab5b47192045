"""When distilling pays: how many tokens served, or students of one teacher, repay the joules.

Definitions of arXiv 2605.13981. An answer is a number only where the data settle it: `never` where
there is nothing to gain, `unresolved` where the gain is below twice its own uncertainty, `not
reached` where plain fine-tuning never gets as good, `unknown` where a measurement is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """A number with one standard deviation of it, both in the unit that the name says."""

    value: float | None
    sd: float | None = None
    """None where nothing is known of the error; it is then taken for 0."""


@dataclass(frozen=True)
class BreakEven:
    """How many it takes."""

    verdict: str
    """reached, never, unresolved, not reached or unknown."""
    value: float | None = None
    """Tokens or students; None unless reached."""
    low: float | None = None
    """Its 95 % interval, never below 0."""
    high: float | None = None


def tokens_to_break_even(
    extra_j: Amount, reference_j_per_token: Amount, student_j_per_token: Amount
) -> BreakEven:
    """T*: tokens that must be served until building the student is repaid.

    T* = extra joules / (reference - student J/token), the reference being the model that the
    student takes the place of, with (u_T / T)^2 = (u_E / E)^2 + (u_ref^2 + u_S^2) / (reference -
    student)^2.
    """
    gain = _difference(reference_j_per_token, student_j_per_token)
    return _ratio(extra_j, gain)


def students_to_break_even(teacher_j: Amount, baseline_j: Amount, distill_j: Amount) -> BreakEven:
    """N*: students that must share a teacher until its joules are repaid.

    N* = teacher's joules / (baseline - distillation), both of building one student. The baseline is
    what plain fine-tuning needs to be as good (`energy_at_quality`); None means that it never was,
    so that joules alone decide nothing: `not reached`.
    """
    if baseline_j.value is None:
        return BreakEven("not reached")
    return _ratio(teacher_j, _difference(baseline_j, distill_j))


def energy_at_quality(
    curve: Sequence[tuple[float, float]], quality: float, *, higher_is_better: bool = False
) -> float | None:
    """Joules at which a training curve of (joules, quality) first reaches `quality`.

    Between two readings the way is taken as straight. None where it never does, or for no curve.
    """
    sign = 1.0 if higher_is_better else -1.0
    points = sorted(curve)
    before: tuple[float, float] | None = None
    for joules, value in points:
        if sign * (value - quality) >= 0:
            if before is None or value == before[1]:
                return joules
            share = (quality - before[1]) / (value - before[1])
            return before[0] + share * (joules - before[0])
        before = (joules, value)
    return None


def _difference(one: Amount, other: Amount) -> Amount:
    if one.value is None or other.value is None:
        return Amount(None)
    return Amount(one.value - other.value, math.hypot(one.sd or 0.0, other.sd or 0.0))


def _ratio(cost: Amount, gain: Amount) -> BreakEven:
    """What it takes for `gain` to repay `cost`."""
    if cost.value is None or gain.value is None:
        return BreakEven("unknown")
    if cost.value <= 0:  # Nothing to repay.
        return BreakEven("reached", 0.0, 0.0, 0.0)
    gain_sd = gain.sd or 0.0
    if abs(gain.value) < 2 * gain_sd:
        return BreakEven("unresolved")
    if gain.value <= 0:
        return BreakEven("never")
    value = cost.value / gain.value
    relative = math.hypot((cost.sd or 0.0) / cost.value, gain_sd / gain.value)
    half_width = 1.96 * relative * value
    return BreakEven("reached", value, max(0.0, value - half_width), value + half_width)
