"""Numbers for readers: no more digits than are known, and no powers of ten."""

from __future__ import annotations

import math

MISSING = "-"
"""In place of a number that is not known."""


def significant(value: float, digits: int = 3) -> str:
    """The value rounded to `digits` significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}"


def with_error(value: float | None, error: float | None, unit: str = "") -> str:
    """Value and error, to the error's last digit: two digits of errors led by 1 or 2, else one."""
    if value is None:
        return MISSING
    tail = f" {unit}" if unit else ""
    # An error below a millionth is rounding of the arithmetic, not knowledge.
    if error is None or error <= 1e-6 * abs(value):
        return significant(value) + tail
    if error >= abs(value):
        return f"{significant(value, 2)} ± {significant(error, 2)}{tail}"
    leading = math.floor(math.log10(error))
    decimals = -leading if error / 10**leading >= 3 else 1 - leading
    shown = [f"{round(number, decimals):,.{max(decimals, 0)}f}" for number in (value, error)]
    return f"{shown[0]} ± {shown[1]}{tail}"
