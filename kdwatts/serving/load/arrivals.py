"""When requests of an open loop come: seeded gaps whose mean is one over the rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kdwatts.serving.load.requests import Load

BLOCK = 1024
"""Gaps that are drawn at once."""

Gaps = Callable[[np.random.Generator, Load], NDArray[np.float64]]
"""Draws the next BLOCK gaps, in units of the mean gap."""

GAPS: dict[str, Gaps] = {
    "poisson": lambda draw, load: draw.standard_exponential(BLOCK),
    # A gamma variable of shape k has the mean k, so over k its mean is 1.
    "gamma": lambda draw, load: draw.standard_gamma(load.burstiness, BLOCK) / load.burstiness,
    "constant": lambda draw, load: np.ones(BLOCK),
}
"""Kind of load to its gaps."""


def arrival_times(load: Load, *, seed: int) -> Iterator[float]:
    """Seconds after the start at which requests come, without an end. The first comes one gap late.

    The mean gap is 1 / `load.level` exactly, in expectation: gaps are never rescaled to end at a
    round time, which would take the chance out of their sum. Equal loads and seeds give equal
    times.

    Raises ValueError for a closed loop, where answers decide when requests are sent.
    """
    if load.kind not in GAPS:
        raise ValueError(
            f"a {load.kind} load has no arrival times; ask for one of {', '.join(GAPS)}"
        )
    return _times(load, np.random.default_rng(seed))


def _times(load: Load, draw: np.random.Generator) -> Iterator[float]:
    # Gaps are summed in their own unit, in which constant ones add up without rounding.
    before = 0.0
    while True:
        sums = before + np.cumsum(GAPS[load.kind](draw, load))
        yield from (sums / load.level).tolist()
        before = float(sums[-1])
