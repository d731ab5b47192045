"""Several measurements of one true value. Each is a run with several windows.

Runs differ by more than their windows show. On two cores, the 95 % interval from the windows of one
run holds the true value in 56 of 100 cases. That from the means of runs holds it in 95. So the
means of runs are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdwatts.metrics.quantity import Quantity, mean_of


@dataclass(frozen=True)
class Spread:
    """How far run means lie from their common mean: one relative standard deviation of one run."""

    relative_sd: float
    degrees: float


def relative_spread(groups: Sequence[Sequence[float]]) -> Spread | None:
    """The spread that groups of run means have in common. None where no group has two means.

    Each group gives the variance of value over group mean, weighted by its degrees of freedom. A
    group whose mean is 0 has no relative spread and is left out.
    """
    squares, degrees = 0.0, 0
    for values in groups:
        mean = math.fsum(values) / len(values) if values else 0.0
        if len(values) > 1 and mean:
            squares += math.fsum((value / mean - 1) ** 2 for value in values)
            degrees += len(values) - 1
    return Spread(math.sqrt(squares / degrees), degrees) if degrees else None


def pool(
    run_means: Sequence[float],
    *,
    unit: str = "",
    quality: str = "measured",
    shared_relative: float | None = None,
    borrowed: Spread | None = None,
) -> Quantity:
    """The mean of R independent runs, with Student's t of R - 1 degrees of freedom, in `unit`.

    A single run has no spread of its own. `borrowed` is the spread of other runs on the same
    machine; without it the random error is unknown. `shared_relative` is one standard deviation of
    the meter's calibration over the value, which is not part of the spread.
    """
    mean = mean_of(run_means, unit=unit, quality=quality)
    if mean.value is None:
        return mean
    size = abs(mean.value)
    if len(run_means) == 1 and borrowed:
        random_sd = borrowed.relative_sd * size
        mean = replace(mean, random_sd=random_sd, degrees=borrowed.degrees)
    return replace(mean, shared_sd=None if shared_relative is None else shared_relative * size)


def agree_p(runs: Sequence[Sequence[float]]) -> float | None:
    """p of the F test that all runs have one mean, from the windows within them (Fisher 1925).

    A small p says that runs differ by more than their windows do. None for fewer than two runs,
    where no run has two windows, and where windows do not differ at all.
    """
    windows = [len(run) for run in runs]
    between, within = len(runs) - 1, sum(windows) - len(runs)
    if between < 1 or within < 1:
        return None
    means = [math.fsum(run) / len(run) for run in runs]
    whole = math.fsum(map(math.fsum, runs)) / sum(windows)
    inside = math.fsum(
        (value - mean) ** 2 for run, mean in zip(runs, means, strict=True) for value in run
    )
    apart = math.fsum(n * (mean - whole) ** 2 for n, mean in zip(windows, means, strict=True))
    if inside <= 0:
        return None
    from scipy.special import fdtrc

    return float(fdtrc(between, within, (apart / between) / (inside / within)))
