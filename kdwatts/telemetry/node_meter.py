"""The meter of one node: its devices, the thread that samples them, and its trace. No windows.

A window is a difference of two edges: `meter.Meter` takes it, of this node and of others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from kdwatts.config.machine import Telemetry
from kdwatts.metrics.quantity import MEASURED
from kdwatts.records.schema import COMPONENTS
from kdwatts.records.traces import trace_name
from kdwatts.runtime.paths import expanded
from kdwatts.telemetry import host, nvml, parts
from kdwatts.telemetry.discovery import find_probes
from kdwatts.telemetry.energy import Span, span
from kdwatts.telemetry.journal import Journal
from kdwatts.telemetry.node_share import find_allocation
from kdwatts.telemetry.openmetrics import Exposition, place_of_node, run_labels
from kdwatts.telemetry.sampler import Sampler
from kdwatts.telemetry.strangers import Watch
from kdwatts.telemetry.window_edges import Edge, find_edge

log = logging.getLogger(__name__)

MAX_IDLE_LOAD_PCT = 10.0
"""Load of the node above which it is not idle. Its power then says nothing about idle power."""


class NodeMeter:
    """Measures the devices of this job on one node between `__enter__` and `__exit__`.

    `number` counts the nodes of a run from 1, and names the trace in `out_dir`. The other arguments
    are as those of `Meter`, and so is what it raises on entry.
    """

    def __init__(
        self,
        out_dir: Path,
        settings: Telemetry,
        *,
        attempt: int = 1,
        number: int = 1,
        use_gpus: bool = True,
        peers: Sequence[int] = (),
        meter_of: tuple[int, int] = (0, 1),
    ) -> None:
        self.gpus: list[nvml.Device] = []
        """The GPUs of this job, once entered."""
        self.idle_power_w: dict[str, float | None] = dict.fromkeys(COMPONENTS)
        """W of this job's idle devices before the first window; on a shared node, its share."""
        self.idle_w_of_gpu: dict[str, float] = {}
        """UUID to the W of that GPU while it was idle."""
        self._out_dir, self._settings = out_dir, settings
        self._attempt, self._number = attempt, number
        self._use_gpus, self._peers, self._meter_of = use_gpus, peers, meter_of

    def __enter__(self) -> NodeMeter:
        settings = self._settings
        gpus, no_gpu = nvml.open_gpus() if self._use_gpus else ([], "this run uses no GPU")
        self._has_nvml = bool(gpus)
        self.gpus = [gpu.device for gpu in gpus]
        self._allocation = find_allocation(
            meter_of=self._meter_of, cgroup_root=Path(expanded(settings.cgroup_root))
        )
        try:
            self.watch = Watch(gpus, allowed=settings.allow_shared, peers=self._peers)
            self.probes = find_probes(gpus, settings, self._allocation, self._peers)
        except BaseException:
            self._close_nvml()
            raise
        self._devices = self.probes.devices
        if no_gpu:
            self.probes.absent["gpu"] = no_gpu
        for kind, reason in self.probes.absent.items():
            log.info("telemetry: no energy for %s: %s", kind, reason)
        self._out_dir.mkdir(parents=True, exist_ok=True)
        self._trace = Journal(self._out_dir / trace_name(self._number))
        exposition = None
        if settings.openmetrics is not None:
            place = place_of_node(expanded(settings.openmetrics), self._number)
            exposition = Exposition(place, run_labels(self._out_dir, self._attempt))
        self._sampler = Sampler(
            self._devices,
            self.probes.clocks,
            self._trace,
            attempt=self._attempt,
            interval_s=settings.interval_s,
            slow_interval_s=settings.slow_interval_s,
            look=self.watch.look,
            exposition=exposition,
        )
        sensed = any(parts.QUALITY[p.sensor.method] == "measured" for p in self._devices)
        measures_idle = sensed and settings.idle_s > 0
        self.begin("idle" if measures_idle else "run")
        self._sampler.start()
        if measures_idle:
            self._measure_idle(settings.idle_s)
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.stop()
        self._trace.close()
        for probe in self._devices:
            probe.close()
        self._close_nvml()

    def begin(self, path: str) -> None:
        """Rows of the trace belong to the window of this path from now on."""
        self._sampler.window = path

    def live_power_w(self) -> float | None:
        """Latest power in W of all measured components. Where none is measured, the estimate."""
        return self._sampler.power_w()

    def look_for_children(self) -> None:
        """Count the CPU time of processes that were just started, from now on.

        Without this call they are found in time for the end of the window. But on a shared node,
        what they used until then would be counted too late to be believed.
        """
        with self._sampler.lock:
            self.probes.clocks.read(scan=True)

    def edge(self) -> Edge:
        """This moment, and what every device has used by now.

        It waits for the next update of the GPUs' counters, for at most two of their periods.
        """
        edge = find_edge(self._devices, self._sampler.lock)
        for probe in self._devices:
            if probe not in edge.tallies:
                probe.late_starts.append(edge.tallies)
        return edge

    def latest(self) -> Edge:
        """The latest reading of any device, and what each that answers had used by its own latest.

        This is cheap: no device is read.
        """
        tallies = {probe: probe.tally for probe in self._devices if probe.error is None}
        last = [tally.counter or tally.sample for tally in tallies.values()]
        return Edge(max((one.time_s for one in last if one), default=time.monotonic()), tallies)

    def job_cpu_s(self) -> float:
        """CPU seconds of this job's processes, the measured ones and this one, until now."""
        return self._cpu_times().job_s

    def counter_period_s(self) -> float:
        """The longest period of the GPUs' energy counters, in s. 0 without a GPU."""
        periods_s = [p.sensor.delta_s for p in self._devices if p.sensor.kind == "gpu"]
        return max(periods_s, default=0.0)

    def idle_power_of_all_w(self, gpus: Collection[str] | None = None) -> tuple[float | None, str]:
        """W of all components with a sensor while they were idle, and the quality.

        Of the GPUs those with these UUIDs count, or all. None where it is unknown for one
        component: the others would pass for all. A model knows no idle power.
        """
        qualities = {p.sensor.kind: parts.QUALITY[p.sensor.method] for p in self._devices}
        kinds = [kind for kind in COMPONENTS if qualities.get(kind) in MEASURED]
        idle_w = self._idle_power_w(gpus)
        powers_w = [power_w for kind in kinds if (power_w := idle_w[kind]) is not None]
        if not kinds or len(powers_w) < len(kinds):
            return None, "missing"
        return sum(powers_w), max((qualities[kind] for kind in kinds), key=MEASURED.index)

    def used_between(
        self, start: Edge, end: Edge, *, gpus: Collection[str] | None = None
    ) -> dict[str, parts.Part]:
        """Every component between two moments.

        Where `end` has no tally, the device's last reading counts. With `gpus`, UUIDs, only these
        GPUs count, and their joules are missing where one of them was not read.
        """
        spans: dict[str, list[Span]] = {}
        for probe in self._devices:
            if gpus is None or probe.sensor.kind != "gpu" or probe.sensor.label in gpus:
                tally = end.tallies.get(probe, probe.tally)
                one = span(probe.sensor, start.tallies.get(probe), tally)
                spans.setdefault(probe.sensor.kind, []).append(one)
        duration_s = max(0.0, end.time_s - start.time_s)
        components = parts.of_window(
            spans,
            duration_s,
            absent=self.probes.absent,
            attributed_kinds=self.probes.attributed,
            idle_power_w=self._idle_power_w(gpus),
            notes=self.notes(start.time_s),
            remark=self.ended_before(end.time_s),
        )
        if gpus is not None and "gpu" in spans:
            components["gpu"] = parts.of_every_gpu(components["gpu"], spans["gpu"], duration_s)
        return components

    def ended_before(self, end_s: float) -> str | None:
        """Why nothing was sampled any more at the end of a window; None where something was."""
        ended = self._sampler.ended
        return ended[1] if ended and ended[0] < end_s else None

    def notes(self, since_s: float) -> dict[str, str | None]:
        """Who else uses or counts what the figures of each component since then are of."""
        methods = {probe.sensor.kind: probe.sensor.method for probe in self._devices}
        notes = {kind: self._allocation.remark(kind, method) for kind, method in methods.items()}
        if "gpu" in notes:
            notes["gpu"] = parts.joined(self.watch.remark(since_s), notes["gpu"]) or None
        return notes

    def _idle_power_w(self, gpus: Collection[str] | None) -> dict[str, float | None]:
        """W of the idle components, with some of the GPUs or all."""
        if gpus is None:
            return self.idle_power_w
        powers_w = [power_w for uuid, power_w in self.idle_w_of_gpu.items() if uuid in gpus]
        known = len(powers_w) == len(set(gpus)) and self.idle_power_w["gpu"] is not None
        return self.idle_power_w | {"gpu": sum(powers_w) if known and powers_w else None}

    def _measure_idle(self, idle_s: float) -> None:
        start = self.edge()
        before = self._cpu_times()
        time.sleep(idle_s)
        end = self.edge()
        duration_s = end.time_s - start.time_s
        load_pct = host.utilisation_pct(before, self._cpu_times()) or 0.0
        power_w = {
            kind: part.energy_j / duration_s
            for kind, part in self.used_between(start, end).items()
            if part.energy_j is not None and part.quality == "measured"
        }
        if "gpu" in power_w and self.watch.remark(start.time_s) is None:
            self.idle_power_w["gpu"] = power_w["gpu"]
            for gpu in self.gpus:
                part = self.used_between(start, end, gpus=[gpu.uuid])["gpu"]
                if part.energy_j is not None:
                    self.idle_w_of_gpu[gpu.uuid] = part.energy_j / duration_s
        if load_pct > MAX_IDLE_LOAD_PCT:
            log.warning(
                "telemetry: the node was %.0f %% busy while its idle power was measured, so there "
                "are no net figures for cpu and dram",
                load_pct,
            )
            power_w = {}
        for kind in ("cpu", "dram"):
            if counter := self.probes.attributed.get(kind):
                counter.idle_power_w = power_w.get(f"node_{kind}", 0.0)
                if counter.idle_power_w:
                    self.idle_power_w[kind] = counter.idle_power_w * self._allocation.share
            elif kind in power_w:
                self.idle_power_w[kind] = power_w[kind]
        log.info("telemetry: idle power over %.1f s: %s W", duration_s, self.idle_power_w)

    def _cpu_times(self) -> host.CpuTimes:
        with self._sampler.lock:
            return self.probes.clocks.read()

    def _close_nvml(self) -> None:
        if self._has_nvml:
            nvml.close()
