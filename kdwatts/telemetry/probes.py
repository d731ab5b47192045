"""Which meters this host offers for this job, and why others are absent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kdwatts.schema import Telemetry
from kdwatts.telemetry import host, nvml, rapl
from kdwatts.telemetry.energy import Reading
from kdwatts.telemetry.sampler import Probe


def find_probes(
    cards: Sequence[nvml.Card], settings: Telemetry
) -> tuple[list[Probe], dict[str, str]]:
    """A probe for every device that can be read, and per absent component the reason."""
    deltas_s = nvml.counter_periods_s(cards)
    probes = [
        _gpu_probe(card, delta_s, settings.interval_s)
        for card, delta_s in zip(cards, deltas_s, strict=True)
    ]
    zones, absent = rapl.find_zones(Path(settings.rapl_root))
    probes += [_zone_probe(zone, settings.interval_s) for zone in zones]
    if "cpu" in absent and settings.cpu_estimate == "tdp":
        probes.append(_tdp_probe(settings))
        del absent["cpu"]
    return probes, absent


def _gpu_probe(card: nvml.Card, delta_s: float, interval_s: float) -> Probe:
    read = partial(nvml.read, card)
    return Probe(
        sensor=nvml.sensor(card, delta_s=delta_s, interval_s=interval_s),
        index=card.gpu.index,
        read=read,
        read_edge=read,
        read_counter=partial(nvml.read_counter_mj, card) if card.gpu.has_energy_counter else None,
        read_slow=partial(nvml.read_slow, card),
    )


def _zone_probe(zone: rapl.Zone, interval_s: float) -> Probe:
    def read() -> Reading:
        energy_counter_j = rapl.read_energy_j(zone)
        return Reading(time.monotonic(), energy_counter_j)

    return Probe(
        sensor=rapl.sensor(zone, max_gap_s=3 * interval_s),
        index=zone.package_index,
        read=read,
        read_edge=read,
    )


def _tdp_probe(settings: Telemetry) -> Probe:
    clock = host.TreeClock()

    def read(*, scan: bool) -> Reading:
        now_s, cpu_s = clock.read(scan=scan)
        energy_counter_j = host.tdp_energy_j(
            cpu_s, cpu_tdp_w=settings.cpu_tdp_w, cpu_tdp_threads=settings.cpu_tdp_threads
        )
        return Reading(now_s, energy_counter_j)

    return Probe(
        sensor=host.tdp_sensor(),
        index=None,
        read=partial(read, scan=False),
        read_edge=partial(read, scan=True),
        every_tick=False,
    )
