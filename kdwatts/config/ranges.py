"""Checks of single values; each error names the value and the valid range."""

from __future__ import annotations

import math

from kdwatts.runtime import plugins


def choice(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{key}={value} is unknown; choose one of {', '.join(valid)}")


def choice_or_plugin(key: str, value: str, shipped: tuple[str, ...], group: str) -> None:
    """As `choice`, also of what installed packages offer in a group of entry points."""
    offered = [name for name in plugins.names(group) if name not in shipped]
    choice(key, value, (*shipped, *offered))
    offering = plugins.packages(group, value)
    if value in shipped and offering:
        raise ValueError(
            f"{key}={value} names two functions, one of kdwatts and one of package "
            f"{' and '.join(offering)}; rename the latter in its entry points ({group})"
        )
    if len(offering) > 1:
        raise ValueError(
            f"{key}={value} is offered by the packages {' and '.join(offering)}; rename one of "
            f"them in its entry points ({group}), or uninstall its package"
        )


def at_least(key: str, value: float, low: float) -> None:
    if not low <= value < math.inf:
        raise ValueError(f"{key}={value} is out of range; give at least {low}")


def above_zero(key: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{key}={value} is out of range; give a number above 0")


def between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key}={value} is out of range; give {low} to {high}")
