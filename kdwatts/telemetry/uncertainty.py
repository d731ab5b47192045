"""How far the joules of a window may be off: uncovered time, and one standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdwatts.telemetry.energy import Span

EDGE_S = 0.05
"""Reading all devices at the edge of a window takes up to this long."""


def gap_s(one: Span, duration_s: float) -> float:
    """Seconds of the window that nothing covers.

    One counter update or less belongs to the edges.
    """
    missing_s = duration_s - one.covered_s
    edges_s = EDGE_S if one.num_resets else max(one.sensor.delta_s, EDGE_S)
    return missing_s if missing_s > edges_s else 0.0


def uncertainty_j(
    spans: Sequence[Span],
    duration_s: float,
    *,
    calibration: float,
    idle_power_w: float | None = None,
) -> float:
    """One standard deviation in J: u^2 = u_quantum^2 + u_gap^2 + u_sampling^2 + u_cal^2.

    - u_quantum = P delta / sqrt(6). Both edges are uniform within one counter update. So are both
      sides of a reset, where P is the power limit.
    - u_gap: the power is between idle i (0 W where it was not measured) and the limit l. Uncovered
      time t adds no energy, also where it is too short for `gap_s`. So its error is the root mean
      square of what may be missing, t sqrt((i^2 + i l + l^2) / 3). Time that only samples fill errs
      by t (l - i) / sqrt(12).
    - u_sampling is the error of the power samples of GPUs without a counter.
    - u_cal is shared by devices of one kind, so it adds up linearly over them.
    """
    idle_w = (idle_power_w or 0.0) / len(spans)
    squares = 0.0
    for one in spans:
        # A model has no limit, and nothing of it is ever uncovered.
        limit_w = one.sensor.limit_w if math.isfinite(one.sensor.limit_w) else 0.0
        uncovered_s = max(0.0, duration_s - one.covered_s)
        if gap_s(one, duration_s):
            # The last counter before a gap may be as old as an update.
            uncovered_s += one.sensor.delta_s
        if duration_s > 0:
            squares += (one.energy_j / duration_s * one.sensor.delta_s) ** 2 / 6
        squares += one.num_resets * (limit_w * one.sensor.delta_s) ** 2 / 6
        squares += uncovered_s**2 * (idle_w**2 + idle_w * limit_w + limit_w**2) / 3
        squares += (one.filled_s * (limit_w - idle_w)) ** 2 / 12
        if one.sensor.method == "nvml_samples":
            squares += one.sampled_var_j2
    return math.sqrt(squares + (calibration * sum(one.energy_j for one in spans)) ** 2)
