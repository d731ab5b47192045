"""Numbers for readers: a fitting prefix, a unit, and no more digits than are known."""

from __future__ import annotations

import math

from kdwatts.metrics.footprint import J_PER_KWH
from kdwatts.metrics.quantity import Quantity, interval_95
from kdwatts.metrics.significant_digits import MISSING, significant, with_error

DAYS_A_YEAR = 365

_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def prefix(value: float, *, lowest: float = 1.0) -> tuple[float, str]:
    """Factor and prefix that bring a value to 1 up to 1000. None is below `lowest`."""
    fitting = ((f, name) for f, name in _PREFIXES if abs(value) >= f or f <= lowest)
    return next(fitting) if value else (1.0, "")


def with_ends(value: float, low: float | None, high: float | None) -> str:
    """Such as `0.60 (0.52 to 0.69)`: the ends of an interval, nothing finer than its half width."""
    if low is None or high is None or low >= high:
        return significant(value)
    error = (high - low) / 2
    leading = math.floor(math.log10(error))
    decimals = -leading if error / 10**leading >= 3 else 1 - leading
    # Adding 0 makes 0 of the -0 to which a small negative number is rounded.
    middle, *ends = (
        f"{round(v, decimals) + 0.0:,.{max(decimals, 0)}f}" for v in (value, low, high)
    )
    return f"{middle} ({' to '.join(ends)})"


def count(number: int, what: str) -> str:
    """A number of things, such as `1 run` or `4 runs`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def number(value: float | None, digits: int = 3) -> str:
    """A number in words, and a dash where it is missing."""
    return MISSING if value is None else significant(value, digits)


def plain_count(value: float | None) -> str:
    """How many, as one says it: `690,000` or `1.29 million`, three digits of it."""
    if value is None:
        return MISSING
    rounded = float(f"{value:.2e}")
    for factor, name in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if abs(rounded) >= factor:
            return _short(value / factor) + name
    return _short(value)


def _short(value: float) -> str:
    """Three digits, without a tail of zeros."""
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def quantity(value: float | None, unit: str, *, error: float | None = None) -> str:
    """A value with its unit, such as `412 ± 21 kJ`. A dash where the value is missing."""
    if value is None:
        return MISSING
    # The prefix is that of the rounded value: 999.6 J are 1.00 kJ.
    factor, name = prefix(float(f"{value:.{2 if error is None else 1}e}"), lowest=1e-6)
    return with_error(value / factor, None if error is None else error / factor, f"{name}{unit}")


def ends_in_brackets(low: float | None, high: float | None, unit: str) -> str:
    """Both ends of an interval, to stand after its value; empty where one is not known."""
    return (
        "" if low is None or high is None else f" ({quantity(low, unit)} to {quantity(high, unit)})"
    )


def quantity_words(amount: Quantity) -> str:
    """Joules with half of their 95 % interval.

    Calibration is left out: all on one meter share it.
    """
    ends = interval_95(amount, calibration=False)
    unit = amount.unit or "J"
    if amount.value is None or ends is None:
        return quantity(amount.value, unit)
    if ends[0] <= 0:  # So few measurements that joules below 0 would be in it.
        return f"{quantity(amount.value, unit)} (up to {quantity(ends[1], unit)})"
    return quantity(amount.value, unit, error=ends[1] - amount.value)


def energy(energy_j: float | None, *, error_j: float | None = None) -> str:
    """Joules with a fitting prefix."""
    return quantity(energy_j, "J", error=error_j)


def watt_hours(energy_j: float | None) -> str:
    """Joules as watt-hours, with a fitting prefix."""
    return MISSING if energy_j is None else quantity(energy_j / J_PER_KWH * 1e3, "Wh")


def duration(duration_s: float | None) -> str:
    """Seconds in words, such as `42 s`, `12 min` or `3.4 h`."""
    if duration_s is None:
        return MISSING
    factor, unit = time_scale(duration_s)
    return f"{significant(duration_s / factor)} {unit}"


def time_scale(duration_s: float) -> tuple[float, str]:
    """Seconds per unit, and the unit in which a duration is easy to read."""
    if duration_s < 300:
        return 1.0, "s"
    return (60.0, "min") if duration_s < 3 * 3600 else (3600.0, "h")


def signed(value: float, unit: str, *, error: float | None = None, prefixed: bool = True) -> str:
    """A difference with its sign, such as `+4.1 ± 0.3 kJ`."""
    text = quantity(value, unit, error=error) if prefixed else with_error(value, error, unit)
    return text if text.startswith("-") else f"+{text}"
