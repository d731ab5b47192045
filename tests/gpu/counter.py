"""A GPU's energy counter beside the integral of its power: `counter.py OUT [--scale 0.1]`.

The loads are known: nothing, products of two square matrices without a pause, and both in turns
(square waves). Each is a window of the meter, which tells the counter's joules and, apart, those
of its ten power samples a second. Before that the GPU's figures are read as fast as it answers,
to see how often each is renewed. Without a GPU the products run on the CPU, as a rehearsal.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import write_json
from kdwatts.telemetry import nvml
from kdwatts.telemetry.meter import Meter

EQUAL = 3
LOADS = (
    *(("square", 1.0, 10.0), ("idle", None, 5.0), ("full", 0.0, 10.0)),
    *(("square", 0.25, 10.0), ("square", 4.0, 12.0)),
    *((("full", 0.0, 5.0),) * EQUAL + (("full", 0.0, 2.2), ("square", 1.0, 2.2))),
)
"""Name, seconds of a square wave's period (0 never pauses, None never works), seconds in all.

The meter tells no energy of a window below 2 s. The first are those that the bar is about."""


class Products:
    """Products of square bfloat16 matrices, counted."""

    def __init__(self, size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self._device = device
        self._left, self._right = (
            torch.randn(size, size, device=device).bfloat16() for _ in range(2)
        )
        self._out = torch.empty_like(self._left)
        self.num_done = 0

    def wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def work(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            for _ in range(8):  # About 12 ms of a fast GPU: the wave's edges are as sharp.
                torch.matmul(self._left, self._right, out=self._out)
                self.num_done += 1
            self.wait()

    def load(self, period_s: float | None, seconds: float) -> None:
        if period_s is None:
            time.sleep(seconds)
        elif period_s == 0:
            self.work(seconds)
        else:
            for _ in range(math.ceil(seconds / period_s)):
                began_s = time.monotonic()
                self.work(period_s / 2)
                time.sleep(max(0.0, began_s + period_s - time.monotonic()))


def renewals(products: Products, seconds: float) -> dict[str, Any]:
    """Milliseconds between two changes of what the GPU tells, under a square wave of 1 s."""
    gpus, reason = nvml.open_gpus()
    if not gpus:
        return {"reason": reason}
    worker = threading.Thread(target=products.load, args=(1.0, max(1.0, seconds)))
    worker.start()
    names = ("energy_counter_j", "power_w", "power_average_w")
    last: dict[str, Any] = {}
    changed_s: dict[str, list[float]] = {name: [] for name in names}
    num_looks, began_s = 0, time.monotonic()
    while worker.is_alive():
        time.sleep(0.001)  # The thread that works needs the interpreter, too.
        reading = nvml.read(gpus[0])
        num_looks += 1
        for name in names:
            value = getattr(reading, name)
            if value != last.get(name, value):
                changed_s[name].append(reading.time_s)
            last[name] = value
    watched_s = time.monotonic() - began_s
    nvml.close()
    worker.join()
    told: dict[str, Any] = {"looks_per_s": num_looks / watched_s}
    for name, times_s in changed_s.items():
        apart_ms = [1e3 * (b - a) for a, b in itertools.pairwise(times_s)]
        told[name] = {
            "changes": len(times_s),
            "median_ms": statistics.median(apart_ms) if apart_ms else None,
            "least_ms": min(apart_ms, default=None),
            "most_ms": max(apart_ms, default=None),
        }
    return told


def measured(
    meter: Meter, products: Products, name: str, period_s: float | None, seconds: float
) -> dict[str, Any]:
    before = products.num_done
    with meter.window(name, synchronize=products.wait) as window:
        products.load(period_s, seconds)
    row = window.row
    assert row is not None
    energy_j, sampled_j = row.energy_j.get("gpu"), row.sampled_energy_j.get("gpu")
    num_products = products.num_done - before
    return {
        "load": name,
        "period_s": period_s,
        "duration_s": row.duration_s,
        "energy_j": energy_j,
        "sampled_energy_j": sampled_j,
        "difference_pct": 100 * (energy_j / sampled_j - 1) if energy_j and sampled_j else None,
        "uncertainty_j": row.uncertainty_j.get("gpu"),
        "method": row.method.get("gpu"),
        "quality": row.quality.get("gpu"),
        "coverage": row.coverage.get("gpu"),
        "reason": row.reason.get("gpu"),
        "power_w": energy_j / row.duration_s if energy_j else None,
        "products": num_products,
        "j_per_product": energy_j / num_products if energy_j and num_products else None,
    }


def spread_pct(values: list[float | None]) -> float | None:
    """Standard deviation of equal windows, in per cent of their mean."""
    known = [value for value in values if value is not None]
    return 100 * statistics.stdev(known) / statistics.mean(known) if len(known) > 1 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="shortens every window")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record: dict[str, Any] = {"device": device.type, "scale": given.scale, "windows": []}
    path = given.out / "counter.json"
    size = 8192 if device.type == "cuda" else 256
    with (
        tempfile.TemporaryDirectory() as folder,
        Meter(Path(folder), Telemetry(idle_s=5 * given.scale)) as meter,
    ):
        # Entered before the GPU is used.
        record["idle_power_w"] = meter.idle_power_w["gpu"]
        record["gpus"] = [vars(gpu) | {"uuid": None} for gpu in meter.gpus]
        products = Products(size, device)
        products.work(3 * given.scale)
        record["renewals"] = renewals(products, 4 * given.scale)
        for name, period_s, seconds in LOADS:
            row = measured(meter, products, name, period_s, max(2.2, seconds * given.scale))
            record["windows"].append(row)
            write_json(path, record)  # A cut leaves the windows before it.
            print({key: row[key] for key in ("load", "period_s", "power_w", "difference_pct")})
    # Those of 5 s, as long as each other.
    equal = [row for row in record["windows"] if row["load"] == "full"][1 : 1 + EQUAL]
    record["equal_windows_sd_pct"] = {
        key: spread_pct([row[key] for row in equal])
        for key in ("power_w", "j_per_product", "sampled_energy_j")
    }
    write_json(path, record)
    print(record["renewals"], record["equal_windows_sd_pct"])


if __name__ == "__main__":
    main()
