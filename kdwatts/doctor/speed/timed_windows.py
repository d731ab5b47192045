"""How fast work is done: the same work again and again, in windows of time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kdwatts.metrics.quantity import Quantity, interval_95, mean_of

NUM_WINDOWS = 10
LEAST_WINDOWS = 3
"""A window may take long; so many are taken whatever the time."""

WARM_SHARE = 0.2
"""Share of the seconds in which the work is done and not timed: clocks rise, caches fill."""


def wait(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Windows:
    """Seconds that one repetition of the same work took, on average in each window."""

    each_s: tuple[float, ...]
    count: int
    """All repetitions, those before the first window included."""

    def rate(self, amount: float, unit: str) -> Quantity:
        """How much of `amount`, which one repetition does, is done a second: the mean of windows.

        Neighbouring repetitions share clocks and guests of the machine, so they are no independent
        draws. Means of windows nearly are (batch means: Law, Simulation Modeling and Analysis,
        section 9.5.3). A clock that falls or a guest that comes widens the interval.
        """
        return mean_of([amount / each_s for each_s in self.each_s], unit=unit)

    def best(self, amount: float) -> float:
        """The rate of the fastest window."""
        return amount / min(self.each_s)

    def median(self, amount: float) -> float:
        """The median rate of the windows."""
        return amount / statistics.median(self.each_s)


def timed_windows(work: Callable[[], object], device: torch.device, *, seconds: float) -> Windows:
    """The times of `work`, repeated for about so many seconds on a device that is warm."""
    ends_s = time.monotonic() + seconds
    each_s = _repeated(work, device, 1)
    warm_until_s = time.monotonic() + WARM_SHARE * seconds - each_s
    count = 1
    while time.monotonic() < warm_until_s:
        each_s = _repeated(work, device, 1)
        count += 1
    window_s = max(0.0, ends_s - time.monotonic()) / NUM_WINDOWS
    times_s: list[float] = []
    while len(times_s) < LEAST_WINDOWS or (
        len(times_s) < NUM_WINDOWS and time.monotonic() < ends_s
    ):
        number = max(1, math.ceil(window_s / max(each_s, 1e-9)))
        each_s = _repeated(work, device, number) / number
        count += number
        times_s.append(each_s)
    return Windows(tuple(times_s), count)


def _repeated(work: Callable[[], object], device: torch.device, number: int) -> float:
    """Seconds of so many repetitions, between which the device does not pause."""
    wait(device)
    started_s = time.perf_counter()
    for _ in range(number):
        work()
    wait(device)
    return time.perf_counter() - started_s


def ends_of(rate: Quantity) -> tuple[float | None, float | None]:
    """The ends of a rate's 95 % interval, the lower at 0 or above; None where there is none."""
    ends = interval_95(rate)
    return (None, None) if ends is None else (max(0.0, ends[0]), ends[1])


def figure(value: float) -> str:
    """A number with three digits, and whole numbers from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def with_interval(value: float, low: float | None, high: float | None, unit: str) -> str:
    """A figure in words, with its unit and its 95 % interval."""
    said = f"{figure(value)} {unit}".rstrip()
    if low is None or high is None:
        return f"{said}, without an interval"
    return f"{said} (95 % interval {figure(low)} to {figure(high)})"
