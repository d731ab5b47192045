"""How far another host's monotonic clock is from ours, from questions and answers. Pure functions.

Each clock counts from the start of its own host, so the two may be days apart. A question goes out
at one moment of ours and is answered at a later one. The other host read its clock in between, most
likely halfway (Cristian 1989, "Probabilistic clock synchronization"). So the offset is known to
half of the round trip, whatever the way there and the way back took each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

DRIFT = 1e-3
"""Most by which two clocks drift apart, in s a second: each kernel slews its own clock by no more
than 500 ppm (adjtimex(2)), and the two may go opposite ways."""


class Exchange(NamedTuple):
    """One question for the time, and its answer."""

    asked_s: float
    """Our monotonic seconds when the question went out."""
    remote_s: float
    """Monotonic seconds of the other host's clock in the answer."""
    answered_s: float
    """Our monotonic seconds when the answer was there."""


class ClockOffset(NamedTuple):
    """The other host's monotonic seconds less ours."""

    offset_s: float
    skew_s: float
    """The offset is within this much of the truth."""


def offset_at(now_s: float, exchanges: Iterable[Exchange]) -> ClockOffset:
    """The offset at a moment of ours, from the exchange that bounds it best.

    That is the one with the least round trip, unless it is so old that the clocks may have drifted.
    Raises ValueError without an exchange.
    """
    return min((_offset(one, now_s) for one in exchanges), key=lambda offset: offset.skew_s)


def _offset(one: Exchange, now_s: float) -> ClockOffset:
    half_s = (one.answered_s - one.asked_s) / 2
    age_s = max(0.0, now_s - one.answered_s)
    return ClockOffset(one.remote_s - one.asked_s - half_s, half_s + DRIFT * age_s)
