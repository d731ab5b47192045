"""Break-even: how many tokens or requests served, or students of one teacher, repay distilling.

The definitions are those of arXiv 2605.13981. The answer is a number only where the data settle it.
Otherwise it is one of these words:

- `never`: distilling saves nothing.
- `unresolved`: the saving cannot be told from 0.
- `not reached`: plain fine-tuning never gets as good.
- `unknown`: a measurement is missing.

Intervals follow Fieller. So the answer is a number if and only if its interval has two ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdwatts.metrics.fieller import ratio_interval
from kdwatts.metrics.quantity import Quantity, difference, half_width_of

UNSHARED = {"measured": 0.01, "attributed": 0.01, "estimated": 0.20, "mixed": 0.20}
"""How much one meter's error differs between training and decoding, by quality of the energy.

One standard deviation over the energy. This is our judgement: a sensor errs alike at both loads to
about 1 %, a model of a processor's power to about 20 %.
"""


@dataclass(frozen=True)
class BreakEven:
    """A number of tokens, requests or students, or the reason why there is none."""

    verdict: str
    """`reached`, `never`, `unresolved`, `not reached` or `unknown`."""
    value: float | None = None
    """Tokens, requests or students. None unless `reached`."""
    low: float | None = None
    """Lower end of its 95 % interval. Where unresolved, break-even comes no earlier than this."""
    high: float | None = None
    """Upper end of its 95 % interval."""

    def times(self, factor: float) -> BreakEven:
        """The answer in another unit, such as days. `factor` is above 0 and has no error."""
        ends = (self.value, self.low, self.high)
        return BreakEven(self.verdict, *(None if end is None else factor * end for end in ends))


def tokens_to_break_even(
    extra: Quantity, reference: Quantity, student: Quantity, *, same_meter: bool = True
) -> BreakEven:
    """T*: the number of tokens to serve until the joules of building the student are repaid.

    T* = `extra` / (`reference` - `student`). `extra` are the joules of building. `reference` and
    `student` are joules per token; the reference is the model that the student replaces. When one
    meter read everything (`same_meter`), its calibration cancels, and `UNSHARED` of the extra
    joules remains.
    """
    return _repaid(extra, difference(reference, student, same_meter=same_meter), same_meter)


def requests_to_break_even(
    extra: Quantity, reference: Quantity, student: Quantity, *, same_meter: bool = True
) -> BreakEven:
    """The number of requests to serve until the joules of building the student are repaid.

    requests* = `extra` / (`reference` - `student`), as `tokens_to_break_even` with joules per
    request. Both are of one load and one objective, each at the replicas that it needs. A student
    may write longer answers than its teacher: a request holds that, a token does not.
    """
    return _repaid(extra, difference(reference, student, same_meter=same_meter), same_meter)


def students_to_break_even(
    teacher: Quantity, baseline: Quantity, distill: Quantity, *, same_meter: bool = True
) -> BreakEven:
    """N*: the number of students that must share a teacher until the teacher's joules are repaid.

    N* = `teacher` / (`baseline` - `distill`), all in joules. `distill` is what distilling one
    student takes. `baseline` is what plain fine-tuning takes to be as good (`energy_at_quality`). A
    baseline without a value never gets as good: then joules alone decide nothing, and the answer is
    `not reached`.
    """
    if baseline.value is None:
        return BreakEven("not reached")
    return _repaid(teacher, difference(baseline, distill, same_meter=same_meter), same_meter)


def energy_at_quality(
    curve: Sequence[tuple[float, float]], quality: float, *, higher_is_better: bool = False
) -> float | None:
    """Joules at which a training curve of (joules, quality) first reaches `quality`.

    Between two readings the curve is a straight line. None where it never gets there, and for an
    empty curve.
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


def apart_from_serving(building: Quantity, *, same_meter: bool = True) -> Quantity:
    """Joules of building, with the errors that remain when joules of serving are subtracted.

    One meter does not share all of its error between the two loads: `UNSHARED` of the joules counts
    as random. With two meters all of the calibration does.
    """
    if building.value is None or building.random_sd is None:
        return building
    if not same_meter:
        alone = math.hypot(building.random_sd, building.shared_sd or 0.0)
        return replace(building, random_sd=alone, shared_sd=0.0)
    unshared = UNSHARED.get(building.quality, 0.0) * abs(building.value)
    return replace(building, random_sd=math.hypot(building.random_sd, unshared))


def _repaid(cost: Quantity, gain: Quantity, same_meter: bool) -> BreakEven:
    """What it takes for `gain` to repay `cost`."""
    if cost.value is None or gain.value is None:
        return BreakEven("unknown")
    if cost.value <= 0:  # Nothing to repay.
        return BreakEven("reached", 0.0, 0.0, 0.0)
    if same_meter:
        cost = apart_from_serving(cost)
    cost_half = half_width_of(cost, same_meter=same_meter)
    gain_half = half_width_of(gain, same_meter=same_meter)
    if cost_half is None or gain_half is None:
        return BreakEven("unresolved")
    if gain.value <= -gain_half:
        return BreakEven("never")
    repaid = ratio_interval(cost.value or 0.0, cost_half, gain.value, gain_half)
    if gain.value > gain_half and repaid.is_bounded:
        return BreakEven("reached", repaid.value, max(0.0, repaid.low or 0.0), repaid.high)
    return BreakEven("unresolved", low=repaid.low)
