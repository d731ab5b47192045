"""The clock of a GPU under full load, and what holds it back."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry.nvml_state import GpuState, harms_of, words_of

NAME = "clock_under_load"

LOW_SHARE = 0.9
"""Of the highest clock. A clock below it has a reason, which NVML states."""

_POWER_LIMIT, _IDLE = 0x4, 0x1


def clock_under_load(rows: Sequence[dict[str, Any]], state: GpuState | None) -> Verdict:
    """The verdict on the clock, from rows of the trace under full load and the state of the GPU."""
    clocks_mhz = [row["sm_clock_mhz"] for row in rows if row.get("sm_clock_mhz") is not None]
    if not clocks_mhz:
        return Verdict(NAME, None, "NVML states no clock of this GPU")
    bits = 0
    for row in rows:
        bits |= row.get("throttle_reasons") or 0
    bits &= ~_IDLE  # Of a look between two products.
    clock_mhz = statistics.median(clocks_mhz)
    most_mhz = None if state is None else state.max_sm_clock_mhz
    found = f"{clock_mhz:.0f} MHz under full load"
    if most_mhz:
        found += f", of at most {most_mhz:.0f}"
    reasons = words_of(bits)
    found += f"; held back: {', '.join(reasons)}" if reasons else "; nothing holds it back"
    against = "its highest clock, and NVML's reasons for a lower one"
    word, remedy = _judged(bits, clock_mhz, most_mhz, state)
    figure: dict[str, Any] = {"value": float(clock_mhz), "low": float(min(clocks_mhz))}
    return Verdict(
        NAME, word, found, against, remedy, **figure, high=float(max(clocks_mhz)), unit="MHz"
    )


def _judged(
    bits: int, clock_mhz: float, most_mhz: float | None, state: GpuState | None
) -> tuple[str | None, str | None]:
    """The verdict's word, and what to do."""
    if harms_of(bits):
        return "wrong", "mend cooling and power supply: speed and joules are those of a fault"
    if not most_mhz:
        return None, None
    if clock_mhz >= LOW_SHARE * most_mhz:
        return "right", None
    if bits & _POWER_LIMIT:
        limit_w = None if state is None else state.power_limit_w
        default_w = None if state is None else state.default_limit_w
        if limit_w is None or default_w is None or limit_w >= default_w:
            return "right", None
        return "attention", f"sudo nvidia-smi -pl {default_w:.0f} sets the default power limit"
    if bits:
        return "attention", "sudo nvidia-smi -rgc, and -rac, give the clocks back to the driver"
    return "attention", "look at nvidia-smi -q -d CLOCK,PERFORMANCE under load: no reason is stated"
