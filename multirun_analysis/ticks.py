"""What the ticks of one run say: joules so far of each device, and how busy devices were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from kdwatts.telemetry.energy import ACCEPTED_OVER_LIMIT, MAX_DELTA_S, UNKNOWN_LIMIT_W
from kdwatts.telemetry.recover import MODELS

IDLE_UTIL_PCT = 0.0
"""A card that reports this runs no kernel; what it draws then is idle power."""


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


def summarise_ticks(ticks: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Stage to how busy, hot and thirsty its devices were, of the ticks of one run.

    Means are over time and over cards. `gpu_floor_w` is the least power of all cards together while
    they report 0 % utilisation, in the whole run: a stand-in for idle power where none was measured
    before it. What no tick tells is None.
    """
    if not len(ticks):
        return {}
    stages = ticks["window"].astype("string").str.split("/").str[1]
    floor_w = _floor_w(ticks)
    return {
        str(stage): _summary(part) | {"gpu_floor_w": floor_w}
        for stage, part in ticks.groupby(stages, sort=False)
    }


def summary_table(summaries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """One row for each run and stage of summaries by run, as `idle_and_wait` wants them."""
    rows = [
        {"run": run, "stage": stage, **numbers}
        for run, stages in summaries.items()
        for stage, numbers in stages.items()
    ]
    return pd.DataFrame(rows, columns=["run", "stage", *_SUMMARY, "gpu_floor_w"])


_SUMMARY = (
    "num_ticks",
    "gpu_util_pct_mean",
    "gpu_power_w_mean",
    "gpu_memory_used_gib_max",
    "gpu_temperature_c_max",
    "gpu_throttled_share",
    "host_util_pct_mean",
)
_SOFT_REASONS = 0x1 | 0x2
"""NVML's bits for an idle card and for clocks that an application set: neither slows work down."""


def _summary(ticks: pd.DataFrame) -> dict[str, float | None]:
    cards: Any = ticks[ticks["device_kind"] == "gpu"]
    host = ticks[ticks["device_kind"] == "host"]
    device_power_w = _means(cards, "power_w")
    reasons = cards["throttle_reasons"].dropna()
    throttled = [bool(int(bits) & ~_SOFT_REASONS) for bits in reasons]
    return {
        "num_ticks": float(len(ticks)),
        "gpu_util_pct_mean": _mean(_means(cards, "util_pct")),
        "gpu_power_w_mean": math.fsum(device_power_w) if device_power_w else None,
        "gpu_memory_used_gib_max": _most(cards, "memory_used_gib"),
        "gpu_temperature_c_max": _most(cards, "temperature_c"),
        "gpu_throttled_share": sum(throttled) / len(throttled) if throttled else None,
        "host_util_pct_mean": _mean(_means(host, "util_pct")),
    }


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _most(ticks: Any, column: str) -> float | None:
    values = _numbers(ticks, column)
    return None if np.isnan(values).all() else float(np.nanmax(values))


def _means(ticks: Any, column: str) -> list[float]:
    """Mean over time of each device that has the column: a tick stands until the next one."""
    found = []
    for _, rows in ticks.groupby(["device_kind", "device_index"], dropna=False):
        values = _numbers(rows, column)
        here = ~np.isnan(values)
        if not here.any():
            continue
        seconds = pd.Series(_numbers(rows, "monotonic_s"), index=rows.index)
        spans: Any = seconds.groupby(rows["attempt"].to_numpy()).diff(-1).abs()
        usual_s = float(np.nanmedian(spans)) if spans.notna().any() else 1.0
        # A gap is nobody's, and the last tick has no next one.
        weights = spans.fillna(usual_s).clip(upper=3 * usual_s).to_numpy()[here]
        weights = weights if weights.sum() > 0 else np.ones(here.sum())
        found.append(float(np.average(values[here], weights=weights)))
    return found


def _floor_w(ticks: pd.DataFrame) -> float | None:
    """Least watts of all cards together at 0 % utilisation; None where one of them is never idle.

    The least, because a card that waits inside a program draws more than one that idles.
    """
    floors = []
    cards = ticks[ticks["device_kind"] == "gpu"]
    for _, rows in cards.groupby("device_index", dropna=False):
        power_w, util_pct = _numbers(rows, "power_w"), _numbers(rows, "util_pct")
        idle_w = power_w[(util_pct <= IDLE_UTIL_PCT) & ~np.isnan(power_w)]
        if not len(idle_w):
            return None
        floors.append(float(idle_w.min()))
    return math.fsum(floors) if floors else None
