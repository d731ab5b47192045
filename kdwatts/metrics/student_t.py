"""Student's t: it turns a standard deviation into half of an interval, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from statistics import NormalDist
from typing import Any

NORMAL_975 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def t_quantile(degrees: float, confidence: float = 0.95) -> float:
    """Half of a two-sided interval of Student's t, in standard deviations (Student 1908).

    `degrees` of freedom are above 0. With infinitely many it is the normal distribution.
    """
    if math.isinf(degrees) and confidence == 0.95:
        return NORMAL_975
    if find_spec("scipy") is None:
        return _quantile_by_integral(degrees, confidence)
    from scipy.special import ndtri, stdtrit

    quantile = 0.5 + confidence / 2
    return float(ndtri(quantile) if math.isinf(degrees) else stdtrit(degrees, quantile))


def _quantile_by_integral(degrees: float, confidence: float) -> float:
    """The same without scipy, which measuring does not need: a borrowed GPU machine may lack it.

    With t = sqrt(degrees) tan(angle), Student's density is a power of the angle's cosine. The angle
    that holds the share `confidence` is found by bisection.
    """
    import numpy as np

    if math.isinf(degrees):
        return NormalDist().inv_cdf(0.5 + confidence / 2)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    log_scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    scale = math.exp(log_scale) / math.sqrt(math.pi)

    def share_within(angle: float) -> float:
        cosines = np.cos(angle / 2 * (nodes + 1))
        return scale * angle * float(weights @ cosines ** (degrees - 1))

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share_within(middle) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def to_half_width(sd: Any, degrees: float = math.inf, confidence: float = 0.95) -> Any:
    """Half of the interval for one standard deviation, or for each in an array."""
    return t_quantile(degrees, confidence) * sd


def to_sd(half_width: float, degrees: float) -> float:
    """The standard deviation that gives this half of a 95 % interval."""
    return half_width / t_quantile(degrees)


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of its 95 % interval by Student's t. Values count as independent draws.

    A single value has no interval. Raises ValueError for no values.
    """
    if not values:
        raise ValueError("mean_and_half_width: 0 values given; give at least one")
    mean, sd = mean_and_sd(values)
    return mean, None if sd is None else to_half_width(sd, len(values) - 1)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation of the mean, which is None for a single value."""
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)
