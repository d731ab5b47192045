"""Whether the energy of CPU and memory can be read, or the command that makes it so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kdwatts.doctor.patient import Patient
from kdwatts.records.doctor_record import Verdict
from kdwatts.runtime.paths import expanded
from kdwatts.telemetry.rapl import find_zones

REAL_TREE = "/sys/devices/virtual/powercap"
"""Where the links of /sys/class/powercap lead; a container must be given this folder."""
_AGAINST = "a RAPL counter that this user can read (the kernel's powercap tree)"


def cpu_counters(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The verdicts on RAPL's counters of the packages and of their memory."""
    del seconds
    root = Path(expanded(patient.config.telemetry.rapl_root))
    zones, denied = find_zones(root)
    for kind, name, what in (("cpu", "rapl", "CPU"), ("dram", "rapl_dram", "memory")):
        names = [zone.name for zone in zones if zone.kind == kind]
        if names:
            yield Verdict(name, "right", f"counters of the {what}: {', '.join(names)}", _AGAINST)
        elif kind == "dram" and not _is_closed(denied[kind]):
            found = f"{denied[kind]}; many processors count it with the package, or not at all"
            yield Verdict(name, None, found)
        else:
            yield Verdict(name, "attention", denied[kind], _AGAINST, _remedy(root, denied[kind]))


def _is_closed(reason: str) -> bool:
    return "permission denied" in reason


def _remedy(root: Path, reason: str) -> str:
    if _is_closed(reason):
        return f"until the next restart: sudo chmod a+r {root}/intel-rapl:*/energy_uj"
    if _is_contained():
        return (
            "start the container with -v /sys/class/powercap:/sys/class/powercap:ro "
            f"-v {REAL_TREE}:{REAL_TREE}:ro, where its host has counters"
        )
    return (
        "sudo modprobe intel_rapl_msr (AMD, too); a virtual machine has counters only where its "
        "host passes them on. Else set telemetry.cpu_estimate=tdp with the figures of your "
        "processor: telemetry.cpu_tdp_w, telemetry.cpu_tdp_threads"
    )


def _is_contained() -> bool:
    """Whether this is a container, by the marks of Docker, Podman, and systemd."""
    marks = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
    return "container" in os.environ or any(Path(mark).exists() for mark in marks)
