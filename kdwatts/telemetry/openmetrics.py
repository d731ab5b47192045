"""Live power and energy in a file that Prometheus' node_exporter reads (textfile collector).

A path that ends in .prom is a file in Prometheus' text format, the only one that node_exporter
reads. A path that ends in .om is a file in OpenMetrics. Any other path is a folder, in which each
process has its own `kdwatts_<host>_<pid>.prom`: use the collector's folder where several runs share
a node. Every series carries the run's folder and the host, so files of two runs, or of two nodes of
one, never hold the same series. node_exporter would refuse all of them then.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil

from kdwatts.telemetry.energy import Span
from kdwatts.telemetry.parts import QUALITY

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

SUFFIXES = (".prom", ".om")

_DEVICE = ("run", "host", "kind", "index", "uuid")
_SOURCE = (*_DEVICE, "method", "quality")
"""Labels that tell estimates from measurements. A query that sums over them mixes the two."""


@dataclass(frozen=True)
class Live:
    """One device at one slow tick. What is None is absent from the file, never 0."""

    kind: str
    """gpu, cpu, dram or host. node_cpu and node_dram are the whole node beside a job's share."""
    index: int | None
    uuid: str | None
    method: str | None
    quality: str | None
    power_w: float | None
    energy_j: float | None
    """Joules since the meter started. They never decrease."""
    util_pct: float | None = None
    memory_used_gib: float | None = None
    temperature_c: float | None = None


def live(row: Mapping[str, Any], used: Span | None = None) -> Live:
    """What the file says about the device of a TelemetryRow.

    `used` is counted from the meter's start.
    """
    return Live(
        kind=row["device_kind"],
        index=row["device_index"],
        uuid=row["uuid"],
        method=row["method"],
        quality=QUALITY.get(row["method"]),
        power_w=_finite(row["power_w"]),
        energy_j=_finite(used.energy_j) if used is not None and used.covered_s > 0 else None,
        util_pct=_finite(row["util_pct"]),
        memory_used_gib=_finite(row["memory_used_gib"]),
        temperature_c=_finite(row["temperature_c"]),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def place_of_node(place: str | Path, number: int) -> Path:
    """Where a node of a run writes: NAME.n2.prom beside NAME.prom; a folder is the same for all."""
    path = Path(place)
    is_file = number > 1 and path.suffix in SUFFIXES
    return path.with_name(f"{path.stem}.n{number}{path.suffix}") if is_file else path


def run_labels(run_dir: Path, attempt: int) -> dict[str, str]:
    """The labels that tell this attempt from all others. A label that does not apply is empty."""
    return {
        "run": str(run_dir.absolute()),
        "host": socket.gethostname(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID", ""),
        "attempt": str(attempt),
    }


class Exposition:
    """The file. `write` replaces it as a whole, and `close` removes it.

    It is removed because an old figure would be read for ever as if it were live. The series end at
    once instead, and the run's records keep the energy. A killed run leaves its file:
    `kdwatts_last_sample_timestamp_seconds` tells its age. The next run that writes into the same
    folder on this host removes it.

    A file that cannot be written is logged once and never stops the run.
    """

    def __init__(self, path: str | Path, labels: Mapping[str, str]) -> None:
        """`labels` as from `run_labels`; run and host go on every series, the others on one."""
        # Late, because it costs a fifth of a second and few runs ask for it.
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

        place = Path(path)
        is_file = place.suffix in SUFFIXES
        if not is_file:
            _remove_files_of_the_dead(place)
        self.path = place if is_file else place / f"{_own_prefix()}{os.getpid()}.prom"
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        # A path may hold bytes that are no UTF-8; the file must be.
        self._labels = {name: _utf8(value) for name, value in labels.items()}
        self._encode = generate_openmetrics if place.suffix == ".om" else generate_latest
        self._registry = CollectorRegistry()
        self._registry.register(cast("Collector", self))
        self._samples: Sequence[Live] = ()
        self._window = ""
        self._warned = False

    def write(self, samples: Sequence[Live], *, window: str = "") -> None:
        """Replace the file with these samples."""
        self._samples, self._window = samples, _utf8(window)
        try:
            self._temporary.write_bytes(self._encode(self._registry))
            self._temporary.replace(self.path)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        """Remove the file: its figures are no longer live."""
        for path in (self._temporary, self.path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._warn(error)

    def collect(self) -> Iterator[Metric]:
        """The metric families that have a sample, for the registry of prometheus_client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        power = GaugeMetricFamily(
            "kdwatts_power_watts", "Power of a device at the last sample.", labels=_SOURCE
        )
        energy = CounterMetricFamily(
            "kdwatts_energy_joules", "Energy of a device since the meter started.", labels=_SOURCE
        )
        utilization = GaugeMetricFamily(
            "kdwatts_utilization_ratio", "Busy share of a device, 0 to 1.", labels=_DEVICE
        )
        memory = GaugeMetricFamily(
            "kdwatts_memory_used_bytes", "Memory of a device in use.", labels=_DEVICE
        )
        temperature = GaugeMetricFamily(
            "kdwatts_temperature_celsius", "Temperature of a device.", labels=_DEVICE
        )
        run, node = self._labels.get("run", ""), self._labels.get("host", "")
        for one in self._samples:
            index = "" if one.index is None else str(one.index)
            device = [run, node, one.kind, index, _utf8(one.uuid or "")]
            source = [*device, one.method or "", one.quality or ""]
            if one.power_w is not None:
                power.add_metric(source, one.power_w)
            if one.energy_j is not None:
                energy.add_metric(source, one.energy_j)
            if one.util_pct is not None:
                utilization.add_metric(device, one.util_pct / 100)
            if one.memory_used_gib is not None:
                memory.add_metric(device, one.memory_used_gib * 2**30)
            if one.temperature_c is not None:
                temperature.add_metric(device, one.temperature_c)
        for family in (power, energy, utilization, memory, temperature):
            if family.samples:
                yield family
        last = GaugeMetricFamily(
            "kdwatts_last_sample_timestamp_seconds",
            "Unix time of the last sample; old where a run was killed.",
            labels=("run", "host"),
        )
        last.add_metric([run, node], time.time())
        yield last
        yield InfoMetricFamily(
            "kdwatts_run",
            "The run that the series belong to, and the window that is open.",
            value={**self._labels, "window": self._window},
        )

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            log.warning(
                "telemetry.openmetrics: cannot write %s (%s); the run goes on without this file; "
                "make the folder %s, or make it writable, and the next sample is written there",
                self.path,
                error.strerror or error,
                self.path.parent,
            )
        self._warned = True


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


def _own_prefix() -> str:
    return f"kdwatts_{socket.gethostname()}_"


def _remove_files_of_the_dead(folder: Path) -> None:
    """Remove what killed processes of this host left: it would be scraped for ever."""
    prefix = _own_prefix()
    for path in folder.glob(f"{prefix}*.prom"):
        pid = path.stem.removeprefix(prefix)
        if not pid.isdigit() or psutil.pid_exists(int(pid)):
            continue
        try:
            path.unlink(missing_ok=True)
            log.info("telemetry.openmetrics: removed %s, whose process has ended", path)
        except OSError as error:
            log.warning(
                "telemetry.openmetrics: %s is out of date and cannot be removed (%s)", path, error
            )
