"""Which meters this host offers to this job, and why others are missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kdwatts.config.machine import Telemetry
from kdwatts.records.schema import COMPONENTS
from kdwatts.runtime.paths import expanded
from kdwatts.telemetry import host, nvml, rapl
from kdwatts.telemetry.node_share import Allocation, AttributedCounter
from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.readings import Reading

_BY_THE_FIRST = "the first process of this launch on this node (local id 0) reports the whole node"


@dataclass(frozen=True)
class Probes:
    """Every device that can be read."""

    devices: list[Probe]
    """Devices of the job. Where the job has a part of a node, the node's devices come first."""
    clocks: host.Clocks
    absent: dict[str, str]
    """Component to the reason why it has no figure."""
    attributed: dict[str, AttributedCounter]
    """Component to the counter of the job's part of it, where the node is shared."""


def find_probes(
    gpus: Sequence[nvml.OpenDevice],
    settings: Telemetry,
    allocation: Allocation,
    peers: Sequence[int] = (),
) -> Probes:
    """The probes of GPUs, CPU packages and their memory, where these can be read.

    `peers` are processes whose CPU time belongs to this job, though this process did not start
    them.
    """
    clocks = host.Clocks(peers)
    deltas_s = nvml.counter_periods_s(gpus)
    devices = [
        _gpu_probe(gpu, delta_s, settings.interval_s)
        for gpu, delta_s in zip(gpus, deltas_s, strict=True)
    ]
    zones, absent = rapl.find_zones(Path(expanded(settings.rapl_root)))
    is_shared = settings.cpu_scope == "job" or (settings.cpu_scope == "auto" and allocation.is_part)
    if allocation.meter_index > 0 and not is_shared:
        absent |= dict.fromkeys([zone.kind for zone in zones], _BY_THE_FIRST)
        zones = []
    nodes = [_zone_probe(zone, settings.interval_s) for zone in zones]
    attributed: dict[str, AttributedCounter] = {}
    if is_shared:
        for kind in COMPONENTS:
            if parts := [probe for probe in nodes if probe.sensor.kind == kind]:
                attributed[kind] = _share(parts, clocks, allocation)
        for probe in nodes:
            probe.sensor = replace(probe.sensor, kind=f"node_{probe.sensor.kind}")
    devices += nodes
    devices += [_attributed_probe(kind, counter) for kind, counter in attributed.items()]
    if absent.get("cpu", _BY_THE_FIRST) != _BY_THE_FIRST and settings.cpu_estimate == "tdp":
        devices.append(_tdp_probe(settings, clocks))
        del absent["cpu"]
    return Probes(devices, clocks, absent, attributed)


def _gpu_probe(gpu: nvml.OpenDevice, delta_s: float, interval_s: float) -> Probe:
    read = partial(nvml.read, gpu)
    return Probe(
        sensor=nvml.sensor(gpu, delta_s=delta_s, interval_s=interval_s),
        index=gpu.device.index,
        read=read,
        read_edge=read,
        read_slow=partial(nvml.read_slow, gpu),
    )


def _zone_probe(zone: rapl.Zone, interval_s: float) -> Probe:
    counter = rapl.Counter(zone)

    def read() -> Reading:
        energy_counter_j = counter.read_j()
        return Reading(time.monotonic(), energy_counter_j)

    return Probe(
        sensor=rapl.sensor(zone, max_gap_s=3 * interval_s),
        index=zone.package_index,
        read=read,
        read_edge=read,
        close=counter.close,
    )


def _share(
    zones: Sequence[Probe], clocks: host.Clocks, allocation: Allocation
) -> AttributedCounter:
    def node_energy_j() -> float:
        return sum(probe.tally.counted_j for probe in zones)

    return AttributedCounter(node_energy_j, clocks, allocation)


def _attributed_probe(kind: str, counter: AttributedCounter) -> Probe:
    return Probe(
        sensor=host.model_sensor(kind, "attributed"),
        index=None,
        read=partial(counter.read, scan=False),
        read_edge=partial(counter.read, scan=True),
        every_tick=False,
    )


def _tdp_probe(settings: Telemetry, clocks: host.Clocks) -> Probe:
    def reading(time_s: float, job_s: float) -> Reading:
        energy_counter_j = host.tdp_energy_j(
            job_s, cpu_tdp_w=settings.cpu_tdp_w, cpu_tdp_threads=settings.cpu_tdp_threads
        )
        return Reading(time_s, energy_counter_j)

    def read_edge() -> Reading:
        times = clocks.read(scan=True)
        return reading(times.time_s, times.job_s)

    return Probe(
        sensor=host.model_sensor("cpu", "tdp_model"),
        index=None,
        # At every tick, or a kill would lose up to one slow tick.
        read=lambda: reading(*clocks.read_job()),
        read_edge=read_edge,
    )
