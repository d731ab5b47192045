"""What a sensor may say: the bounds beyond which a value is refused, alike for every method."""

from __future__ import annotations

import math

ACCEPTED_OVER_LIMIT = 1.5
"""Boards overshoot their limit for milliseconds; half as much again is beyond all of them."""

MAX_DELTA_S = 0.1
"""Slowest update of a GPU's counter seen on cards in use; taken where none was observed."""

STILL_S = 1.0
"""A counter that has not moved for longer, ten of the slowest updates, has stopped counting."""

UNKNOWN_LIMIT_W = 1500.0
"""Bound for a device that tells no power limit: above every card and CPU package sold in 2025."""


def limit_w(told_w: float | None) -> float:
    """The power limit that a device tells, or the general bound where it tells none that may be."""
    is_told = told_w is not None and 0 < told_w <= ACCEPTED_OVER_LIMIT * UNKNOWN_LIMIT_W
    return told_w if is_told and told_w is not None else UNKNOWN_LIMIT_W


def most_w(limit_w: float) -> float:
    """The highest power sample that is believed of a device with this limit."""
    return ACCEPTED_OVER_LIMIT * (limit_w if math.isfinite(limit_w) else UNKNOWN_LIMIT_W)


def may_be_power(power_w: float, limit_w: float) -> bool:
    """Whether a device that is on may draw this: 0 W is what a sensor says that measures nothing.

    Values that are no number fail every comparison.
    """
    return 0 < power_w <= most_w(limit_w)


def counter_step_j(
    before_j: float,
    after_j: float,
    elapsed_s: float,
    *,
    limit_w: float,
    delta_s: float,
    range_j: float | None = None,
) -> float | None:
    """Joules between two counter values, or None when the counter was reset in between.

    Accepted is 0 <= dE <= 1.5 limit (dt + 2 delta): two updates may fall into one tick. A counter
    with a range wraps at most once in the time it takes to fill half the range at the limit;
    after a longer silence the number of wraps is unknown and the step is refused.
    """
    step_j = after_j - before_j
    if range_j is not None:
        if elapsed_s * limit_w > range_j / 2:
            return None
        # Also a value that was misread leaves whole ranges behind in a counter that counts on.
        step_j %= range_j
    # A model has no limit, and two looks at one moment no time: their product is no number.
    most_j = math.inf
    if math.isfinite(limit_w):
        most_j = ACCEPTED_OVER_LIMIT * limit_w * (elapsed_s + 2 * delta_s)
    return step_j if 0 <= step_j <= most_j and step_j < math.inf else None
