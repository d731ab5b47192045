"""Ticks of one run, as many as a test needs."""

import pandas as pd

from kdwatts.records.schema import TelemetryRow


def ticks_of(*rows, **common):
    """Ticks of one run; `common` holds for all of them."""
    known = {
        "time_utc": "", "attempt": 1, "window": "run/distill", "device_kind": "gpu",
        "device_index": 0, "method": "nvml_counter",
    }  # fmt: skip
    told = [{"node": 1} | known | common | row for row in rows]
    nodes = [row.pop("node") for row in told]
    table = pd.DataFrame([vars(TelemetryRow(**row)) for row in told]).assign(node=nodes)
    numbers = ["power_w", "energy_counter_j", "util_pct", "power_limit_w", "throttle_reasons"]
    return table.astype(dict.fromkeys([*numbers, "temperature_c", "memory_used_gib"], "float64"))


def at(second, counter_j=None, power_w=None, **more):
    return {"monotonic_s": float(second), "energy_counter_j": counter_j, "power_w": power_w, **more}
