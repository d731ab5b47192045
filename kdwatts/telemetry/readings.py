"""Readings: one device at one moment, its sensor, and which readings are believed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

ACCEPTED_OVER_LIMIT = 1.5
"""Boards exceed their limit for milliseconds, but none by half as much again."""

MAX_DELTA_S = 0.1
"""The slowest update of a GPU's counter that was seen. It is used where none was observed."""

UNKNOWN_LIMIT_W = 1500.0
"""Bound for a device without a power limit: above every GPU and CPU package sold in 2025."""


# Named tuples, for a tick makes one of each: a frozen dataclass sets field by field in Python.
class Reading(NamedTuple):
    """One device at one moment."""

    time_s: float
    """Monotonic seconds of this host."""
    energy_counter_j: float | None
    power_w: float | None = None
    power_average_w: float | None = None


@dataclass(frozen=True)
class Sensor:
    """What is known about the meter inside one device."""

    kind: str
    """gpu, cpu or dram."""
    label: str
    """UUID or zone, as it appears in messages."""
    method: str
    """nvml_counter, nvml_samples, rapl or tdp_model."""
    limit_w: float
    """Highest power of the device. Infinite for a model, which needs no check."""
    delta_s: float
    """Seconds between two updates of the counter, or between two samples without a counter."""
    max_gap_s: float
    """Samples further apart than this are not joined by a straight line."""
    range_j: float | None = None
    """Where the counter wraps to 0. None where it does not."""


def known_limit_w(limit_w: float | None) -> float:
    """The device's power limit in W, or the general bound where it states none that can be true."""
    may_be = limit_w is not None and 0 < limit_w <= ACCEPTED_OVER_LIMIT * UNKNOWN_LIMIT_W
    return limit_w if may_be and limit_w is not None else UNKNOWN_LIMIT_W


def most_w(limit_w: float) -> float:
    """The highest power sample in W that is believed for a device with this limit."""
    return ACCEPTED_OVER_LIMIT * (limit_w if math.isfinite(limit_w) else UNKNOWN_LIMIT_W)


def may_be_power(power_w: float, limit_w: float) -> bool:
    """Whether a device that is on may draw this power. A sensor that measures nothing says 0 W.

    NaN fails every comparison.
    """
    return 0 < power_w <= most_w(limit_w)
