"""Units, read off the ends of names: `power_w` is in W, `timeout_min` in minutes."""

from __future__ import annotations

UNITS = {
    "gco2e_per_kwh": "gCO2e/kWh",
    "usd_per_kwh": "US$/kWh",
    "l_per_kwh": "L/kWh",
    "tokens_per_s": "tokens/s",
    "per_s": "requests/s",
    "j_per_output_token": "J/output token",
    "j_per_request": "J/request",
    "j_per_good_request": "J/request",
    "j_per_token": "J/token",
    "j_per_token_least": "J/token",
    "j_per_token_most": "J/token",
    "interval_95_j": "J/token",
    "bits_per_byte": "bits/byte",
    "tflops": "10^12 operations/s",
    "gb_s": "GB/s",
    "nats": "nats",
    "pct": "%",
    "mhz": "MHz",
    "gib": "GiB",
    "gb": "GB",
    "min": "minutes",
    "kj": "kJ",
    "kg": "kg",
    "usd": "US$",
    "w": "W",
    "j": "J",
    "s": "s",
    "l": "L",
    "c": "°C",
}
"""The end of a name, after a `_`, to its unit."""

WITH_UNITS = ("int", "float", "list[int]", "dict", "Components", "Figure", "Percentiles")
"""Beginnings of the types of fields whose names end in a unit."""

COUNTS = {"tokens": "tokens", "steps": "steps", "params": "parameters"}
"""Ends of the names of whole numbers."""

STATISTICS = ("mean", "max", "least", "most", "low", "high", "longest")
"""A name may have one of these behind its unit: `gpu_power_w_mean`."""


def unit_of(name: str, kind: str) -> str | None:
    """The unit of a number by its name; None where the name ends in none."""
    if name.endswith("_utc"):
        return "ISO 8601"
    if not kind.startswith(WITH_UNITS):
        return None
    ends = UNITS | (COUNTS if kind.startswith("int") else {})
    known = [end for end in ends if name == end or name.endswith(f"_{end}")]
    if known:
        return ends[max(known, key=len)]
    stem, _, last = name.rpartition("_")
    return unit_of(stem, kind) if stem and last in STATISTICS else None
