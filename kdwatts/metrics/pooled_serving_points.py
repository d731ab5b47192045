"""Several measurements of one load, each with a fresh server, as one.

It works on the JSON form of records.serving_record.ServingPoint: mappings, whose figures are
mappings of value, low, high, random_sd, shared_sd, degrees and quality.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdwatts.metrics.binomial import share_interval
from kdwatts.metrics.quantity import MEASURED, Quantity, add, interval_95, mean_of

BEST_FIRST = (*MEASURED, "estimated", "mixed", "missing")
"""Qualities of joules."""
WORST_FIRST = ("failed", "client_bound", "saturated", "unsteady", "steady")
"""Verdicts: that of the worst measurement is that of all."""

SUMS = ("duration_s", "completed", "failed", "prompt_tokens", "output_tokens")
SUMS += ("server_cpu_s", "client_cpu_s", "independent_attempts")
MEANS = ("warm_up_s", "mean_in_flight")
PERCENTILES = ("ttft_s", "tpot_s", "e2e_s")
WORST = ("send_lag_p99_s", "usage_error")


def pooled_points(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping in the form of a ServingPoint, with `measurements`: how many are in it.

    `points` are independent measurements of one load and one model. A figure is the mean over them.
    Its interval is t[R-1] times the spread of R measurements, or what their own random errors give
    together where that is wider; the meter's calibration is shared by all. What one of them lacks
    is missing from the mean. Counts, joules and seconds are sums. A single measurement stays as it
    is.

    A percentile is the mean of their percentiles. It has an end where each of them has it: the mean
    p99 of 30 or 100 requests each is too low, and t[2] times the spread ends below the truth in 14
    of 100 cases.

    Joules of the best quality alone are pooled, and those of the same components: others are not
    mixed with them. Measurements that failed are left out while there is another. `remarks` say so
    in each case.

    Raises ValueError for no points, and for points of different loads.
    """
    if not points:
        raise ValueError("pooled_points: 0 points given; give at least one")
    loads = sorted({(p["load"], p["level"], p.get("burstiness", 1.0)) for p in points})
    if len(loads) > 1:
        raise ValueError(f"pooled_points: points of the loads {loads} given; give those of one")
    kept, remarks = _alike(points)
    first = dict(kept[0])
    remarks = list(dict.fromkeys([*(r for p in kept for r in p.get("remarks", ())), *remarks]))
    pooled = first if len(kept) == 1 else _pooled(kept)
    return pooled | {"remarks": remarks, "measurements": len(kept)}


def _alike(points: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The measurements that are pooled, and a sentence on each kind that is not."""
    remarks = []
    working = [p for p in points if p["verdict"] != "failed"] or list(points)
    if len(working) < len(points):
        failed = len(points) - len(working)
        remarks.append(f"{failed} of {len(points)} measurements failed and are left out.")
    ordered = sorted(working, key=lambda p: BEST_FIRST.index(p.get("energy_quality", "missing")))
    quality = ordered[0].get("energy_quality", "missing")
    best = MEASURED if quality in MEASURED else (quality,)
    alike = [p for p in ordered if p.get("energy_quality", "missing") in best]
    if len(alike) < len(working):
        others = len(working) - len(alike)
        remarks.append(
            f"{others} of {len(working)} measurements have joules of another quality than "
            f"{quality} and are left out."
        )
    (same, number), *_ = Counter(map(_joules_of, alike)).most_common(1)
    if number < len(alike):
        others = len(alike) - number
        remarks.append(
            f"{others} of {len(alike)} measurements have joules of other components than the rest "
            "and are left out."
        )
    return [p for p in alike if _joules_of(p) == same], remarks


def _joules_of(point: Mapping[str, Any]) -> tuple[str | None, frozenset[str]]:
    """What the joules are of: their scope in words, and the components that gave some."""
    joules = point.get("energy_j") or {}
    return point.get("scope"), frozenset(name for name, j in joules.items() if j is not None)


def _pooled(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Two or more measurements as one. The last has the weakest quality of joules."""
    pooled = dict(points[0])
    for name, value in points[0].items():
        if isinstance(value, Mapping):
            pooled[name] = _pooled_mapping(name, [p.get(name) for p in points])
    for names, join in ((SUMS, math.fsum), (MEANS, _mean), (WORST, _worst)):
        for name in names:
            pooled[name] = _if_all_known([p.get(name) for p in points], join)
    for name in ("completed", "failed", "prompt_tokens", "output_tokens"):
        pooled[name] = int(pooled[name] or 0)
    if "good_share" in pooled:
        pooled["good_share"] = _pooled_share(points, pooled["good_share"])
    verdicts = [p["verdict"] for p in points]
    quality = points[-1].get("energy_quality", "missing")
    return pooled | {"verdict": min(verdicts, key=WORST_FIRST.index), "energy_quality": quality}


def _pooled_mapping(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """A figure, percentiles, kinds of failure with their numbers, or joules per component."""
    known = [value or {} for value in values]
    if "value" in known[0]:
        return _pooled_figure(known)
    keys = list(dict.fromkeys(key for value in known for key in value))
    if name == "failures":
        return {key: sum(value.get(key, 0) for value in known) for key in keys}
    pooled: dict[str, Any] = {}
    for key in keys:
        parts = [value.get(key) for value in known]
        if name in PERCENTILES:
            pooled[key] = _pooled_percentile([part or {} for part in parts])
        elif isinstance(parts[0], Mapping):
            pooled[key] = _pooled_mapping(key, parts)
        else:
            pooled[key] = _if_all_known(parts, math.fsum)
    return pooled


def _pooled_figure(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [value for figure in figures if (value := figure.get("value")) is not None]
    if len(values) < len(figures):
        return dict.fromkeys(figures[0]) | {"quality": figures[-1].get("quality")}
    between = mean_of(values)
    alone = [_quantity(figure) for figure in figures]
    together = add(alone)
    within = Quantity(
        between.value,
        None if together.random_sd is None else together.random_sd / len(figures),
        degrees=together.degrees,
    )
    wider = max(between, within, key=lambda one: one.random_half_width or 0.0)
    shared = None if together.shared_sd is None else together.shared_sd / len(figures)
    pooled = Quantity(wider.value, wider.random_sd, shared, degrees=wider.degrees)
    low, high = interval_95(pooled) or (None, None)
    is_positive = all((figure.get("low") or 0.0) >= 0 for figure in figures)
    return {
        "value": pooled.value,
        "low": max(0.0, low) if is_positive and low is not None else low,
        "high": high,
        "random_sd": pooled.random_sd,
        "shared_sd": shared,
        "degrees": pooled.degrees if math.isfinite(pooled.degrees) else None,
        "quality": figures[-1].get("quality"),
    }


def _pooled_percentile(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    pooled = _pooled_figure(figures)
    lacking = [end for end in ("low", "high") if any(one.get(end) is None for one in figures)]
    return pooled | dict.fromkeys(lacking)


def _quantity(figure: Mapping[str, Any]) -> Quantity:
    degrees = figure.get("degrees")
    random_sd, shared_sd = figure.get("random_sd"), figure.get("shared_sd")
    return Quantity(
        figure["value"], random_sd, shared_sd, degrees=math.inf if degrees is None else degrees
    )


def _pooled_share(points: Sequence[Mapping[str, Any]], mean: Mapping[str, Any]) -> dict[str, Any]:
    """The mean share. Its interval is at least that of all attempts together.

    Where each measurement has the same share, such as all of its attempts, their spread is 0 and
    says nothing.
    """
    if mean.get("value") is None:
        return dict(mean)
    attempts = [p.get("independent_attempts") or p["completed"] + p["failed"] for p in points]
    good = math.fsum(n * p["good_share"]["value"] for n, p in zip(attempts, points, strict=True))
    low, high = share_interval(good, sum(attempts)) or (0.0, 1.0)
    ends = (mean.get("low"), mean.get("high"))
    return dict(mean) | {
        "low": max(0.0, min(low, low if ends[0] is None else ends[0])),
        "high": min(1.0, max(high, high if ends[1] is None else ends[1])),
    }


def _if_all_known(
    values: Sequence[float | None], join: Callable[[Sequence[float]], float]
) -> float | None:
    known = [value for value in values if value is not None]
    return join(known) if len(known) == len(values) else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _worst(values: Sequence[float]) -> float:
    return max(values, key=abs)
