"""Joules of each device since the first tick of its run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from kdwatts.telemetry.energy import Tally, advance, span
from kdwatts.telemetry.integration import may_be_step, stands_still
from kdwatts.telemetry.readings import MAX_DELTA_S, Reading, Sensor, known_limit_w
from kdwatts.telemetry.recover import MODELS


def cumulative_energy_j(ticks: pd.DataFrame) -> pd.Series:
    """Joules of one device since its first tick, one value per tick, over all attempts.

    The rule is the meter's (`kdwatts.telemetry.integration`): accepted differences of the counter.
    Where a difference is refused, as after a reset, or the counter stands still, it is the area
    under the straight line between the power samples on both sides, if they are close, else
    nothing. A device without a counter has straight lines alone. The wait between two attempts adds
    nothing. Ticks are in order within an attempt.
    """
    parts: list[pd.Series] = []
    before_j = 0.0
    for _, attempt in ticks.groupby("attempt", sort=True):
        energy_j = before_j + np.cumsum(_steps_j(attempt))
        parts.append(pd.Series(energy_j, index=attempt.index))
        before_j = float(energy_j[-1])
    joules: Any = pd.concat(parts) if parts else pd.Series(dtype="float64")
    return joules


def has_energy(ticks: pd.DataFrame) -> bool:
    """Whether the joules of a device can be known: it has a counter, or power samples."""
    return bool(_filled(ticks, "energy_counter_j").any() or _filled(ticks, "power_w").any())


def _filled(ticks: pd.DataFrame, column: str) -> np.ndarray:
    return ~np.isnan(_numbers(ticks, column))


def _numbers(ticks: Any, column: str) -> np.ndarray:
    values: Any = ticks[column]
    return values.to_numpy(dtype="float64", na_value=math.nan)


def _steps_j(ticks: pd.DataFrame) -> np.ndarray:
    """Joules that each tick of one device and attempt adds to those before it."""
    time_s, counter_j = _numbers(ticks, "monotonic_s"), _numbers(ticks, "energy_counter_j")
    limit_w, gaps_s = _limit_w(ticks), np.diff(time_s)
    interval_s = float(np.median(gaps_s)) if len(gaps_s) else 0.0
    steps_j = np.zeros(len(ticks))
    at = np.flatnonzero(~np.isnan(counter_j))
    before, after = at[:-1], at[1:]
    rises_j, elapsed_s = counter_j[after] - counter_j[before], time_s[after] - time_s[before]
    delta_s, limits_w = _delta_s(ticks, interval_s), limit_w[after]
    with np.errstate(invalid="ignore"):  # Of a model, as `may_be_step` says.
        may_be = may_be_step(rises_j, elapsed_s, limit_w=limits_w, delta_s=delta_s)
    moved_s = np.maximum.accumulate(np.where(rises_j > 0, time_s[after], time_s[at[:1]]))
    is_still = stands_still(rises_j, time_s[after] - moved_s, limit_w=limits_w)
    # Where a counter does what it may, as nearly all do, readings are not folded one by one,
    # which takes ten seconds for a million.
    if len(at) > 1 and (may_be & ~is_still).all():
        steps_j[after] = rises_j
        return steps_j
    return np.diff(_folded_j(ticks, limit_w, interval_s), prepend=0.0)


def _folded_j(ticks: pd.DataFrame, limit_w: np.ndarray, interval_s: float) -> list[float]:
    """Joules since the first tick by the meter's own fold."""
    has_counter = bool(_filled(ticks, "energy_counter_j").any())
    method = _method(ticks) or ""
    if not has_counter:
        method = "nvml_samples"
    columns = ("monotonic_s", "energy_counter_j", "power_w")
    readings = zip(*(_numbers(ticks, column).tolist() for column in columns), strict=True)
    tally, joules = Tally(), []
    for (time_s, counter_j, power_w), most in zip(readings, limit_w.tolist(), strict=True):
        sensor = Sensor("", "", method, most, _delta_s(ticks, interval_s), 3 * interval_s)
        tally = advance(tally, Reading(time_s, _known(counter_j), _known(power_w)), sensor)
        joules.append(span(sensor, Tally(), tally).energy_j)
    return joules


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _limit_w(ticks: pd.DataFrame) -> np.ndarray:
    """Most power of the device at each tick, as far as known by then; a model has no limit."""
    if _method(ticks) in MODELS:
        return np.full(len(ticks), math.inf)
    limits: Any = pd.Series(_numbers(ticks, "power_limit_w"))
    return np.array([known_limit_w(_known(each_w)) for each_w in limits.ffill()])


def _delta_s(ticks: pd.DataFrame, interval_s: float) -> float:
    return MAX_DELTA_S if _method(ticks) == "nvml_counter" else interval_s


def _method(ticks: pd.DataFrame) -> str | None:
    known = ticks["method"].dropna()
    return str(known.iloc[0]) if len(known) else None
