"""Student's t: the quantiles that turn a standard deviation into an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom (any statistics table); beyond 30
# the last one is used, which is wider than exact by at most 4 %.
_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half of its 95 % interval by Student's t, values taken as independent draws.

    A single value has no interval. Raises ValueError for none.
    """
    if not values:
        raise ValueError("mean_and_half_width: 0 values given; give at least one")
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, _T_975[min(count - 1, len(_T_975)) - 1] * math.sqrt(variance / count)
