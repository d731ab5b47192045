"""A meter around a run: nested windows state their energy, and a thread writes the trace.

```python
with Meter(out_dir, settings) as meter:
    with meter.window("distill", key=key) as window:
        window.tokens += 1024
```
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from kdwatts.config.machine import Telemetry
from kdwatts.metrics.quantity import Quantity
from kdwatts.records.schema import COMPONENTS, StageRow
from kdwatts.runtime.interrupt import Preempted
from kdwatts.runtime.paths import expanded
from kdwatts.telemetry import host, nvml, parts
from kdwatts.telemetry.discovery import find_probes
from kdwatts.telemetry.energy import Tally, span
from kdwatts.telemetry.journal import Journal
from kdwatts.telemetry.node_share import find_allocation
from kdwatts.telemetry.openmetrics import Exposition, run_labels
from kdwatts.telemetry.probe import Probe
from kdwatts.telemetry.sampler import Sampler
from kdwatts.telemetry.strangers import Watch
from kdwatts.telemetry.window_edges import find_edge

log = logging.getLogger(__name__)

MAX_IDLE_LOAD_PCT = 10.0
"""Load of the node above which it is not idle. Its power then says nothing about idle power."""


class OpenWindow:
    """A part of the run with an energy of its own. Callers count its work as it happens."""

    def __init__(self, meter: Meter, path: str, key: str | None, parent: OpenWindow | None) -> None:
        self.path = path
        self.parent = parent
        self.key = key
        self.tokens = 0
        self.steps = 0
        self.data_wait_s = 0.0
        self.synchronize: Callable[[], None] | None = None
        """Waits for the devices' queued work at both edges."""
        self.outcome = "done"
        """A caller that finds the work already done sets `reused`. Errors set the other words."""
        self.row: StageRow | None = None
        """The window's record with its energy. None while the window is open."""
        self.start_utc = ""
        self.start_s = 0.0
        self.starts: dict[Probe, Tally] = {}
        """The tally of each probe at the start. A device that has been silent since has none."""
        self._meter = meter

    def so_far(self) -> Quantity:
        """Joules from the start to the sampler's last tick. This is cheap: no device is read."""
        duration_s = self._meter.last_tick_s() - self.start_s
        return parts.total(self._meter.parts_of(self, {}, max(0.0, duration_s)))


class Meter:
    """Measures the devices of this job between `__enter__` and `__exit__`.

    Enter it before anything uses the GPU: a process that already uses it may look like a
    stranger's. The meter writes telemetry.jsonl and stages.jsonl into `out_dir`. Open and close
    windows in one thread.

    For a run on the CPU set `use_gpus=False`: idle GPUs beside it are not its energy. `peers` are
    the run's other processes on this node that this process did not start. Where several processes
    of a launch have a meter each, `meter_of` says which of how many this one is.

    On entry it raises RuntimeError when another process uses a GPU of this job, or when the job has
    only a MIG slice, unless `settings.allow_shared` is set. It raises ValueError when the
    environment names an unknown GPU.
    """

    def __init__(
        self,
        out_dir: Path,
        settings: Telemetry,
        *,
        attempt: int = 1,
        use_gpus: bool = True,
        peers: Sequence[int] = (),
        meter_of: tuple[int, int] = (0, 1),
    ) -> None:
        self.gpus: list[nvml.Device] = []
        """The GPUs of this job, once entered."""
        self.row: StageRow | None = None
        """The record of the root window `run`, once left."""
        self.idle_power_w: dict[str, float | None] = dict.fromkeys(COMPONENTS)
        """W of this job's idle devices before the first window; on a shared node, its share."""
        self._out_dir = out_dir
        self._settings = settings
        self._attempt = attempt
        self._use_gpus = use_gpus
        self._peers = peers
        self._meter_of = meter_of
        self._stack: list[OpenWindow] = []

    def __enter__(self) -> Meter:
        settings = self._settings
        gpus, no_gpu = nvml.open_gpus() if self._use_gpus else ([], "this run uses no GPU")
        self._has_nvml = bool(gpus)
        self.gpus = [gpu.device for gpu in gpus]
        self._allocation = find_allocation(
            meter_of=self._meter_of, cgroup_root=Path(expanded(settings.cgroup_root))
        )
        try:
            self._watch = Watch(gpus, allowed=settings.allow_shared, peers=self._peers)
            self._probes = find_probes(gpus, settings, self._allocation, self._peers)
        except BaseException:
            self._close_nvml()
            raise
        self._devices = self._probes.devices
        if no_gpu:
            self._probes.absent["gpu"] = no_gpu
        for kind, reason in self._probes.absent.items():
            log.info("telemetry: no energy for %s: %s", kind, reason)
        self._out_dir.mkdir(parents=True, exist_ok=True)
        self._telemetry = Journal(self._out_dir / "telemetry.jsonl")
        self._stages = Journal(self._out_dir / "stages.jsonl", tell_lost=True)
        exposition = None
        if settings.openmetrics is not None:
            place = expanded(settings.openmetrics)
            exposition = Exposition(place, run_labels(self._out_dir, self._attempt))
        self._sampler = Sampler(
            self._devices,
            self._probes.clocks,
            self._telemetry,
            attempt=self._attempt,
            interval_s=settings.interval_s,
            slow_interval_s=settings.slow_interval_s,
            look=self._watch.look,
            exposition=exposition,
        )
        sensed = any(parts.QUALITY[p.sensor.method] == "measured" for p in self._devices)
        measures_idle = sensed and settings.idle_s > 0
        self._sampler.window = "idle" if measures_idle else "run"
        self._sampler.start()
        if measures_idle:
            self._measure_idle(settings.idle_s)
        self._root = self._open("run", None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.row = self._close(self._root, error)
        self._sampler.stop()
        self._telemetry.close()
        self._stages.close()
        for probe in self._devices:
            probe.close()
        self._close_nvml()

    @contextmanager
    def window(
        self,
        name: str,
        *,
        key: str | None = None,
        synchronize: Callable[[], None] | None = None,
    ) -> Iterator[OpenWindow]:
        """A window inside the innermost open one.

        `synchronize` waits for the devices' queued work. It is also used by the windows inside this
        one, unless they have their own. Opening and closing a window wait for the next update of
        the GPUs' counters, for at most two periods of the counter. A window that raises is written
        as `preempted` or `failed`, and the error goes on.
        """
        assert self._stack, "a window opens inside an entered meter"
        synchronize = synchronize or self._stack[-1].synchronize
        if synchronize is not None:
            synchronize()
        window = self._open(f"{self._stack[-1].path}/{name}", key)
        window.synchronize = synchronize
        try:
            yield window
            if synchronize is not None:
                synchronize()
        except BaseException as error:
            self._close(window, error)
            raise
        self._close(window, None)

    def live_power_w(self) -> float | None:
        """Latest power in W of all measured components. Where none is measured, the estimate."""
        return self._sampler.power_w()

    def look_for_children(self) -> None:
        """Count the CPU time of processes that were just started, from now on.

        Without this call they are found in time for the end of the window. But on a shared node,
        what they used until then would be counted too late to be believed.
        """
        with self._sampler.lock:
            self._probes.clocks.read(scan=True)

    def last_tick_s(self) -> float:
        """Monotonic seconds of the latest reading of any device. Minus infinity without one."""
        latest = [p.tally.counter or p.tally.sample for p in self._devices]
        return max((reading.time_s for reading in latest if reading), default=-math.inf)

    def parts_of(
        self, window: OpenWindow, ends: Mapping[Probe, Tally], duration_s: float
    ) -> dict[str, parts.Part]:
        """Every component of a window.

        Where `ends` has no tally, the device's last reading counts.
        """
        components: dict[str, parts.Part] = {}
        for kind in COMPONENTS:
            part = self._part(kind, window, ends, duration_s)
            if kind in self._probes.attributed:
                node = self._part(f"node_{kind}", window, ends, duration_s)
                components[f"node_{kind}"] = node
                part = parts.attributed(part, node)
            ended = self._ended_before(window.start_s + duration_s)
            components[kind] = parts.remarked(part, ended)
        return components

    def _ended_before(self, end_s: float) -> str | None:
        """Why nothing was sampled any more at the end of a window; None where something was."""
        ended = self._sampler.ended
        return ended[1] if ended and ended[0] < end_s else None

    def _part(
        self, kind: str, window: OpenWindow, ends: Mapping[Probe, Tally], duration_s: float
    ) -> parts.Part:
        spans = [
            span(probe.sensor, window.starts.get(probe), ends.get(probe, probe.tally))
            for probe in self._devices
            if probe.sensor.kind == kind
        ]
        if not spans:
            return parts.missing(self._probes.absent.get(kind, "not measured"))
        return parts.component(
            spans,
            duration_s,
            idle_power_w=self.idle_power_w.get(kind),
            note=self._remark(kind, spans[0].sensor.method, window.start_s),
        )

    def _remark(self, kind: str, method: str, since_s: float) -> str | None:
        """Who else uses or counts what a figure is of."""
        num_others, others = self._allocation.num_meters - 1, None
        if num_others and kind in COMPONENTS:
            processes = "process" if num_others == 1 else "processes"
            launch = f"{num_others} more {processes} of this launch"
            if kind == "gpu":
                others = f"the meters of {launch} may count these GPUs, too"
            elif method == "rapl":
                others = f"the whole node, shared with {launch} on it"
        return parts.joined(self._watch.remark(since_s) if kind == "gpu" else None, others) or None

    def _open(self, path: str, key: str | None) -> OpenWindow:
        window = OpenWindow(self, path, key, self._stack[-1] if self._stack else None)
        window.start_s, window.starts = self._edge()
        window.start_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        for probe in self._devices:
            if probe not in window.starts:
                probe.late_starts.append(window.starts)
        self._stack.append(window)
        self._sampler.window = path
        return window

    def _close(self, window: OpenWindow, error: BaseException | None) -> StageRow:
        popped = self._stack.pop()
        assert popped is window, f"{window.path} closes while {popped.path} is open"
        end_s, ends = self._edge()
        duration_s = end_s - window.start_s
        self._sampler.window = window.parent.path if window.parent else ""
        if error is not None:
            window.outcome = "preempted" if isinstance(error, Preempted) else "failed"
        counted = window.steps > 0 or window.data_wait_s > 0
        row = StageRow(
            window=window.path,
            parent=window.parent.path if window.parent else None,
            key=window.key,
            attempt=self._attempt,
            outcome=window.outcome,
            start_utc=window.start_utc,
            start_s=window.start_s,
            duration_s=duration_s,
            data_wait_s=window.data_wait_s if counted else None,
            tokens=window.tokens or None,
            steps=window.steps or None,
            idle_power_w=dict(self.idle_power_w),
            **parts.columns(self.parts_of(window, ends, duration_s)),
        )
        self._stages.write([row])
        window.row = row
        return row

    def _edge(self) -> tuple[float, dict[Probe, Tally]]:
        return find_edge(self._devices, self._sampler.lock)

    def _measure_idle(self, idle_s: float) -> None:
        idle = self._open("idle", None)
        before = self._cpu_times()
        time.sleep(idle_s)
        self._stack.pop()
        end_s, ends = self._edge()
        duration_s = end_s - idle.start_s
        load_pct = host.utilisation_pct(before, self._cpu_times()) or 0.0
        power_w = {
            kind: part.energy_j / duration_s
            for kind, part in self.parts_of(idle, ends, duration_s).items()
            if part.energy_j is not None and part.quality == "measured"
        }
        if "gpu" in power_w and self._watch.remark(idle.start_s) is None:
            self.idle_power_w["gpu"] = power_w["gpu"]
        if load_pct > MAX_IDLE_LOAD_PCT:
            log.warning(
                "telemetry: the node was %.0f %% busy while its idle power was measured, so there "
                "are no net figures for cpu and dram",
                load_pct,
            )
            power_w = {}
        for kind in ("cpu", "dram"):
            if counter := self._probes.attributed.get(kind):
                counter.idle_power_w = power_w.get(f"node_{kind}", 0.0)
                if counter.idle_power_w:
                    self.idle_power_w[kind] = counter.idle_power_w * self._allocation.share
            elif kind in power_w:
                self.idle_power_w[kind] = power_w[kind]
        log.info("telemetry: idle power over %.1f s: %s W", duration_s, self.idle_power_w)

    def _cpu_times(self) -> host.CpuTimes:
        with self._sampler.lock:
            return self._probes.clocks.read()

    def _close_nvml(self) -> None:
        if self._has_nvml:
            nvml.close()
