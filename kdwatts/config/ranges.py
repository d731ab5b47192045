"""Checks of single values; each error names the value and the valid range."""

from __future__ import annotations

import math


def choice(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{key}={value} is unknown; choose one of {', '.join(valid)}")


def at_least(key: str, value: float, low: float) -> None:
    if not low <= value < math.inf:
        raise ValueError(f"{key}={value} is out of range; give at least {low}")


def above_zero(key: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{key}={value} is out of range; give a number above 0")


def between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key}={value} is out of range; give {low} to {high}")
