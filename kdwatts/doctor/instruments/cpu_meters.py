"""The meters of a CPU, and of a host without a GPU the meter's sampler."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch

from kdwatts.doctor.instruments import rapl_verdicts
from kdwatts.doctor.instruments.fast_looks import looking
from kdwatts.doctor.instruments.known_load import Load, MakeLoad, Products
from kdwatts.doctor.instruments.load_windows import (
    NUM_EQUAL,
    SETTLE_S,
    LoadPass,
    joules,
    load_pass,
)
from kdwatts.doctor.instruments.noise_verdicts import noise
from kdwatts.doctor.instruments.sampler_verdicts import sampling
from kdwatts.doctor.patient import Patient
from kdwatts.records.doctor_record import Verdict
from kdwatts.runtime.paths import expanded
from kdwatts.telemetry import rapl
from kdwatts.telemetry.readings import Reading

CPU_WINDOW_S = (1.0, 3.0)
"""Least and most seconds of a window of the CPU: RAPL is updated each millisecond."""

_NUM_CPU_WINDOWS = 2 + NUM_EQUAL

LEAST_CPU_S = 2 * SETTLE_S + 1.0 + _NUM_CPU_WINDOWS * CPU_WINDOW_S[0] + 2.0


def needs_no_cpu_meter(patient: Patient) -> bool:
    """Whether there is a GPU, and no counter of the CPU beside it."""
    return patient.gpu is not None and not _cpu_zones(patient)[0]


def look_at_cpu(
    patient: Patient, seconds: float, *, make_load: MakeLoad | None = None
) -> Iterator[Verdict]:
    """The verdicts on RAPL and, without a GPU, on the sampler. `make_load` draws power instead."""
    telemetry = patient.config.telemetry
    zones, reason = _cpu_zones(patient)
    has_rapl, has_gpu = bool(zones), patient.gpu is not None
    if not has_rapl:
        yield from rapl_verdicts.without_rapl(telemetry, reason, is_gpu_alone=has_gpu)
        if has_gpu:
            return
    window_s = min(
        CPU_WINDOW_S[1], CPU_WINDOW_S[0] + max(0.0, seconds - LEAST_CPU_S) / _NUM_CPU_WINDOWS
    )
    folder = patient.work_dir / "meters-of-the-cpu"
    with load_pass(folder, telemetry, use_gpus=False) as found:
        found.idle(window_s)
        with closing((make_load or _cpu_products)()) as load:
            if has_rapl:
                found.steady(load, 0.5, [("half", window_s)])
            found.steady(load, 1.0, [("full", window_s)] * (NUM_EQUAL if has_rapl else 2))
            if has_rapl:
                yield from _of_rapl(found, load, zones)
        if not has_gpu:
            yield from sampling(found, "cpu", "node_cpu")


def _cpu_zones(patient: Patient) -> tuple[list[rapl.Zone], str]:
    """The counters of the packages, and why there are none."""
    zones, denied = rapl.find_zones(Path(expanded(patient.config.telemetry.rapl_root)))
    return [one for one in zones if one.kind == "cpu"], denied.get("cpu", "")


def _cpu_products() -> Load:
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Products(torch.device("cpu"), num_threads=threads or 1)


def _of_rapl(found: LoadPass, load: Load, zones: Sequence[rapl.Zone]) -> Iterator[Verdict]:
    probes = [one for one in found.probes("cpu", "node_cpu") if one.sensor.method == "rapl"]
    idle, half, full = (
        [one for window in found.equal(name) if (one := joules(window, probes)) is not None]
        for name in ("idle", "half", "full")
    )
    yield rapl_verdicts.rapl_linearity(idle, half, full)
    idle, full = ([one.believed for one in windows] for windows in (idle, full))
    yield rapl_verdicts.rapl_idle_power(idle, full, num_cpus=os.cpu_count() or 1)
    yield rapl_verdicts.rapl_power(full, zones)
    yield from noise(full, prefix="rapl_", delta_s=rapl.DELTA_S, least_s=0.0)
    counter = rapl.Counter(zones[0])
    load.begin()
    try:
        with looking(lambda: Reading(time.monotonic(), counter.read_j())) as looks:
            time.sleep(1.0)
    finally:
        load.end()
        counter.close()
    yield rapl_verdicts.rapl_period(looks.changes("energy_counter_j"))
