"""Joules of each device since the first tick of its run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from kdwatts.telemetry.energy import ACCEPTED_OVER_LIMIT, MAX_DELTA_S, UNKNOWN_LIMIT_W
from kdwatts.telemetry.recover import MODELS


def cumulative_energy_j(ticks: pd.DataFrame) -> pd.Series:
    """Joules of one device since its first tick, one for each tick, all attempts added up.

    By the rule of the meter (`kdwatts.telemetry.energy.advance`): accepted differences of the
    counter; where one is refused, as after a reset, the straight line between the power samples on
    both sides if they are close, else nothing. A device without a counter has the straight lines
    alone. The wait between two attempts adds nothing. Ticks are in order within an attempt.
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
    """Whether joules can be told of a device: it has a counter, or power samples."""
    return bool(_filled(ticks, "energy_counter_j").any() or _filled(ticks, "power_w").any())


def _filled(ticks: pd.DataFrame, column: str) -> np.ndarray:
    return ~np.isnan(_numbers(ticks, column))


def _numbers(ticks: Any, column: str) -> np.ndarray:
    values: Any = ticks[column]
    return values.to_numpy(dtype="float64", na_value=math.nan)


def _steps_j(ticks: pd.DataFrame) -> np.ndarray:
    """Joules that each tick of one device and attempt adds to those before it."""
    time_s, power_w = _numbers(ticks, "monotonic_s"), _numbers(ticks, "power_w")
    counter_j = _numbers(ticks, "energy_counter_j")
    steps_j = np.zeros(len(ticks))
    gaps_s = np.diff(time_s)
    interval_s = float(np.median(gaps_s)) if len(gaps_s) else 0.0
    sampled_at = np.flatnonzero(~np.isnan(power_w))
    if np.isnan(counter_j).all():
        if len(sampled_at) > 1:
            steps_j[sampled_at[1:]] = _lines_j(
                time_s, power_w, sampled_at[:-1], sampled_at[1:], 3 * interval_s
            )
        return steps_j
    at = np.flatnonzero(~np.isnan(counter_j))
    before, after = at[:-1], at[1:]
    found_j = counter_j[after] - counter_j[before]
    limit_w = _limit_w(ticks)
    most_j = ACCEPTED_OVER_LIMIT * limit_w[after] * (time_s[after] - time_s[before] + 2 * _delta_s(
        ticks, interval_s))  # fmt: skip
    accepted = (found_j >= 0) & (found_j <= most_j)
    filled_j = _lines_j(time_s, power_w, before, after, 3 * interval_s)
    # A line joins only neighbours: a sample between them belongs to neither counter.
    neighbours = np.searchsorted(sampled_at, after) - np.searchsorted(sampled_at, before) == 1
    steps_j[after] = np.where(accepted, found_j, np.where(neighbours, filled_j, 0.0))
    return steps_j


def _lines_j(
    time_s: np.ndarray, power_w: np.ndarray, before: np.ndarray, after: np.ndarray, max_gap_s: float
) -> np.ndarray:
    """Joules under straight lines between samples; 0 where one lacks or they are far apart."""
    elapsed_s = time_s[after] - time_s[before]
    lines_j = elapsed_s * (power_w[before] + power_w[after]) / 2
    return np.where(np.isnan(lines_j) | (elapsed_s > max_gap_s), 0.0, lines_j)


def _limit_w(ticks: pd.DataFrame) -> np.ndarray:
    """Most power of the device at each tick, as far as known by then; a model has no limit."""
    if _method(ticks) in MODELS:
        return np.full(len(ticks), math.inf)
    limits: Any = pd.Series(_numbers(ticks, "power_limit_w"))
    return limits.ffill().fillna(UNKNOWN_LIMIT_W).to_numpy()


def _delta_s(ticks: pd.DataFrame, interval_s: float) -> float:
    return MAX_DELTA_S if _method(ticks) == "nvml_counter" else interval_s


def _method(ticks: pd.DataFrame) -> str | None:
    known = ticks["method"].dropna()
    return str(known.iloc[0]) if len(known) else None
