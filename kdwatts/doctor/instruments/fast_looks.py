"""Readings as fast as a sensor answers: how often it is renewed, how late it is, what it averages.

The sensor of a GPU tells the mean of its power over some time, renewed now and then: an A100 and an
H100 tell that of 25 ms each 100 ms (arXiv 2312.02741). Under a load whose times are known, the mean
over any time is known too, but for the powers with the load and without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import fdtri

from kdwatts.doctor.instruments.known_load import Pulse
from kdwatts.metrics.quantity import Quantity
from kdwatts.telemetry.readings import Reading

LOOK_S = 0.001
"""Seconds between two looks."""

LEAST_CHANGES = 8
"""With fewer changes nothing is said of a sensor's time."""

_WINDOWS_S = np.geomspace(0.002, 2.5, 64)
_LAGS_S = np.linspace(0.0, 1.0, 101)
_ZOOMS, _POINTS = 12, 21


@dataclass
class Looks:
    """What one device said at each look."""

    readings: list[Reading] = field(default_factory=list)
    """In the order of time."""

    def changes(self, name: str) -> Changes:
        """When a quantity of the readings changed: `energy_counter_j` or `power_w`."""
        pairs = [
            (one.time_s, value)
            for one in self.readings
            if (value := getattr(one, name)) is not None
        ]
        times_s, values = np.array(pairs, dtype=float).reshape(-1, 2).T
        at = np.flatnonzero(np.diff(values)) + 1
        return Changes(
            times_s=(times_s[at - 1] + times_s[at]) / 2,
            widths_s=times_s[at] - times_s[at - 1],
            values=values[at],
            watched_s=float(np.ptp(times_s)) if len(times_s) else 0.0,
        )


@dataclass(frozen=True)
class Changes:
    """Moments at which a quantity got a new value: arrays of one length."""

    times_s: np.ndarray
    """Halfway between the looks before and after it, in monotonic s."""
    widths_s: np.ndarray
    """Seconds between these looks."""
    values: np.ndarray
    """The new values."""
    watched_s: float = 0.0
    """Seconds from the first look to the last."""

    def sharp(self) -> Changes:
        """Those between looks that were about as close as usual."""
        if not len(self.times_s):
            return self
        is_sharp = self.widths_s <= 3 * np.median(self.widths_s)
        return replace(
            self,
            times_s=self.times_s[is_sharp],
            widths_s=self.widths_s[is_sharp],
            values=self.values[is_sharp],
        )


@contextmanager
def looking(read: Callable[[], Reading]) -> Iterator[Looks]:
    """A thread that reads a device about every millisecond. A look that fails is left out."""
    looks, ended = Looks(), threading.Event()

    def look() -> None:
        while not ended.is_set():
            try:
                looks.readings.append(read())
            except Exception:  # Whatever a library raises: the next look may be answered.
                ended.wait(0.1)
            time.sleep(LOOK_S)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        ended.set()
        thread.join()


def period_of(changes: Changes) -> Quantity | None:
    """Seconds between two renewals; None for fewer than 8 changes.

    Times of changes against their numbers lie on a line, whose slope is the period (least squares).
    A renewal that was not seen, or that said the same as before, is a number left out.
    """
    times_s = changes.sharp().times_s
    if len(times_s) < LEAST_CHANGES:
        return None
    apart_s = np.diff(times_s)
    # A late look cuts one interval short for each that it draws out.
    period_s = float(np.median(apart_s))
    period_s = float(apart_s.sum() / np.maximum(1, np.round(apart_s / period_s)).sum())
    numbers = np.cumsum(np.concatenate(([0.0], np.maximum(1, np.round(apart_s / period_s)))))
    centred = numbers - numbers.mean()
    slope_s = float(centred @ times_s / (centred @ centred))
    rests_s = times_s - times_s.mean() - slope_s * centred
    degrees = len(times_s) - 2
    sd_s = float(np.sqrt(rests_s @ rests_s / degrees / (centred @ centred)))
    return Quantity(slope_s, sd_s, unit="s", degrees=degrees)


@dataclass(frozen=True)
class Between:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SensorTimes:
    """What a sensor averages and how late it is, with 95 % intervals, in s."""

    window_s: Between
    """Its value is the mean power over this time."""
    lag_s: Between
    """The end of that time, before the moment at which the value is told."""
    low_w: float
    """Power without the load."""
    high_w: float
    """Power with it."""


def sensor_times(changes: Changes, drawn: Sequence[Pulse]) -> SensorTimes | None:
    """The lag and the window of a sensor that tells the mean power over a time before each change.

    With the share x of that time in which the load was on, the value is low + (high - low) x. Both
    powers are fitted by least squares for each lag and window of a grid that closes in on the best.
    The 95 % region of both together is where the sum of squares is below 1 + 2 F / (n - 4) times
    the least one (Bates and Watts 1988, Nonlinear Regression Analysis, section 6.1), with as many
    independent residuals n as their correlation leaves. To its bounds half of the time between two
    looks is added. None where there are too few changes, or where values do not follow the load.
    """
    changes = changes.sharp()
    if len(changes.times_s) < LEAST_CHANGES or not drawn:
        return None
    times_s, values = changes.times_s, changes.values
    squares = _squares(times_s, values, drawn, _WINDOWS_S, _LAGS_S)
    bounds = _bounds(squares, squares.min() * 1.5, _WINDOWS_S, _LAGS_S)
    best = (0.0, 0.0)
    for _ in range(_ZOOMS):
        (low_w, high_w), (low_l, high_l) = bounds
        windows_s = np.linspace(low_w, high_w, _POINTS)
        lags_s = np.linspace(low_l, high_l, _POINTS)
        squares = _squares(times_s, values, drawn, windows_s, lags_s)
        row, column = np.unravel_index(squares.argmin(), squares.shape)
        best = float(windows_s[row]), float(lags_s[column])
        most = _most_squares(times_s, values, drawn, best)
        bounds = _bounds(squares, most, windows_s, lags_s)
    rests, powers = _fit(times_s, values, drawn, *best)
    spread = values.std()
    if spread == 0 or np.sqrt((rests**2).mean()) > spread / 2 or powers[1] <= 0:
        return None
    blur_s = float(np.median(changes.widths_s)) / 2
    between = [
        Between(value, max(0.0, low - blur_s), high + blur_s)
        for value, (low, high) in zip(best, bounds, strict=True)
    ]
    return SensorTimes(*between, low_w=float(powers[0]), high_w=float(powers[0] + powers[1]))


def _on_shares(
    times_s: np.ndarray, drawn: Sequence[Pulse], window_s: float, lag_s: float | np.ndarray
) -> np.ndarray:
    """Share of the window before each time in which the load was on."""
    knots_s = np.array([edge_s for pulse in drawn for edge_s in pulse])
    on_s = np.concatenate(
        ([0.0], np.cumsum(np.diff(knots_s) * (np.arange(len(knots_s) - 1) % 2 == 0)))
    )
    ends_s = times_s - lag_s
    until_s, from_s = (
        np.interp(moment_s, knots_s, on_s) for moment_s in (ends_s, ends_s - window_s)
    )
    return (until_s - from_s) / window_s


def _fit(
    times_s: np.ndarray, values: np.ndarray, drawn: Sequence[Pulse], window_s: float, lag_s: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """The residuals, and the power without the load and what the load adds."""
    shares = _on_shares(times_s, drawn, window_s, lag_s)
    centred = shares - shares.mean()
    slope = float(centred @ values / max(1e-12, centred @ centred))
    return values - values.mean() - slope * centred, (
        float(values.mean() - slope * shares.mean()),
        slope,
    )


def _squares(
    times_s: np.ndarray,
    values: np.ndarray,
    drawn: Sequence[Pulse],
    windows_s: np.ndarray,
    lags_s: np.ndarray,
) -> np.ndarray:
    """Sum of squared residuals for each window (rows) and each lag (columns)."""
    centred_values = values - values.mean()
    found = np.empty((len(windows_s), len(lags_s)))
    for row, window_s in enumerate(windows_s):
        shares = _on_shares(times_s, drawn, window_s, lags_s[:, None])
        shares = shares - shares.mean(axis=1, keepdims=True)
        with_values = shares @ centred_values
        found[row] = centred_values @ centred_values - with_values**2 / np.maximum(
            1e-12, (shares**2).sum(axis=1)
        )
    return np.maximum(found, 0.0)


def _most_squares(
    times_s: np.ndarray, values: np.ndarray, drawn: Sequence[Pulse], best: tuple[float, float]
) -> float:
    """The sum of squares at the border of the 95 % region."""
    rests, _ = _fit(times_s, values, drawn, *best)
    least = float(rests @ rests)
    if least <= 0:
        return 1e-9
    alike = float(np.clip(rests[1:] @ rests[:-1] / least, 0.0, 0.9))
    degrees = max(2.0, len(rests) * (1 - alike) / (1 + alike) - 4)
    return least * (1 + 2 / degrees * float(fdtri(2, degrees, 0.95))) + 1e-9


def _bounds(
    squares: np.ndarray, most: float, windows_s: np.ndarray, lags_s: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The least box of the grid around all that is below `most`, with one cell beyond it."""
    is_in = squares <= max(most, squares.min())
    ends = []
    for axis, grid in ((1, windows_s), (0, lags_s)):
        inside = np.flatnonzero(is_in.any(axis=axis))
        low, high = max(0, inside[0] - 1), min(len(grid) - 1, inside[-1] + 1)
        ends.append((float(grid[low]), float(grid[high])))
    return ends[0], ends[1]
