"""Where watts become joules: the energy between two readings of one device. Pure functions.

With a counter it is the difference, if the device can have drawn that much. With power samples it
is the area under the straight line between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kdwatts.telemetry.readings import ACCEPTED_OVER_LIMIT, MAX_DELTA_S, Reading, Sensor

STILL_S = 1.0
"""A counter that does not move for longer than this, ten of the slowest updates, has stopped."""


def integrate_power_j(
    times_s: Sequence[float], powers_w: Sequence[float], max_gap_s: float | None = None
) -> float:
    """Joules under the straight lines between power samples.

    Two samples that are more than `max_gap_s` seconds apart add nothing.

    Raises ValueError for lists of different lengths, and for times that go back.
    """
    if len(times_s) != len(powers_w):
        raise ValueError(
            f"integrate_power_j: there are {len(times_s)} times but {len(powers_w)} powers; give "
            "one power per time"
        )
    energy_j = 0.0
    for index in range(1, len(times_s)):
        step_s = times_s[index] - times_s[index - 1]
        if step_s < 0:
            raise ValueError(
                f"integrate_power_j: time {times_s[index]} s comes after {times_s[index - 1]} s; "
                "sort the samples by time"
            )
        if max_gap_s is None or step_s <= max_gap_s:
            energy_j += step_s * (powers_w[index - 1] + powers_w[index]) / 2
    return energy_j


def may_be_step(step_j: Any, elapsed_s: Any, *, limit_w: Any, delta_s: float) -> Any:
    """Whether a counter may have risen by so many joules, for one step or an array of steps.

    0 <= dE <= 1.5 limit (dt + 2 delta): two updates may fall into one tick. A model has no limit.
    """
    # An infinite limit times no time, at two looks at one moment, is NaN.
    most_j = ACCEPTED_OVER_LIMIT * limit_w * (elapsed_s + 2 * delta_s)
    is_within = (step_j <= most_j) | (limit_w == math.inf)
    return (step_j >= 0) & (step_j < math.inf) & is_within


def stands_still(step_j: Any, stood_s: Any, *, limit_w: Any) -> Any:
    """Whether a counter stands still too long to be believed, for one step or an array of steps.

    `stood_s` are the seconds since it last moved. A model may stand still: its device does nothing.
    """
    return (step_j == 0) & (stood_s > STILL_S) & (limit_w < math.inf)


def counter_step_j(
    before_j: float,
    after_j: float,
    elapsed_s: float,
    *,
    limit_w: float,
    delta_s: float,
    range_j: float | None = None,
) -> float | None:
    """Joules between two counter values. None when the counter was reset in between.

    A difference is accepted by `may_be_step`. A counter with a range wraps at most once in the time
    it takes to fill half of the range at the limit. After a longer silence the number of wraps is
    unknown, and the answer is None.
    """
    step_j = after_j - before_j
    if range_j is not None:
        if elapsed_s * limit_w > range_j / 2:
            return None
        # Also a value that was misread leaves whole ranges behind in a counter that counts on.
        step_j %= range_j
    return step_j if may_be_step(step_j, elapsed_s, limit_w=limit_w, delta_s=delta_s) else None


def step_between_j(before: Reading, after: Reading, sensor: Sensor) -> float | None:
    """Joules between two readings with a counter. None when the counter was reset in between."""
    return counter_step_j(
        before.energy_counter_j or 0.0,
        after.energy_counter_j or 0.0,
        after.time_s - before.time_s,
        limit_w=sensor.limit_w,
        # A GPU's updates are not always as close as at the start.
        delta_s=MAX_DELTA_S if sensor.method == "nvml_counter" else sensor.delta_s,
        range_j=sensor.range_j,
    )


def trapezoid(
    before: Reading | None, after: Reading, max_gap_s: float
) -> tuple[float, float, float]:
    """Joules between two power samples, the seconds between them, and the variance in J^2.

    All three are 0 where a sample is missing or the two are too far apart. A step of power at an
    unknown moment between the samples leaves an error of dP dt / sqrt(12).
    """
    if before is None or before.power_w is None or after.power_w is None:
        return 0.0, 0.0, 0.0
    elapsed_s = after.time_s - before.time_s
    if not 0 <= elapsed_s <= max_gap_s:
        return 0.0, 0.0, 0.0
    energy_j = elapsed_s * (before.power_w + after.power_w) / 2
    return energy_j, elapsed_s, (elapsed_s * (after.power_w - before.power_w)) ** 2 / 12
