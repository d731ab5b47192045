"""The options that every command with a meter has."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdwatts.config.machine import Telemetry


def add_meter_options(parser: argparse.ArgumentParser) -> None:
    """Add how energy is measured, and what stands in where it cannot be."""
    add = parser.add_argument
    add(
        "--interval",
        type=float,
        default=0.1,
        metavar="S",
        help="seconds between two samples (default 0.1)",
    )
    add(
        "--idle",
        type=float,
        default=0.0,
        metavar="S",
        help="measure idle power this long at first (default 0)",
    )
    add("--allow-shared", action="store_true", help="measure GPUs that others use too, and say so")
    add(
        "--openmetrics",
        metavar="PATH",
        help="write live figures to this .prom or .om file or folder",
    )
    add(
        "--cpu-estimate-tdp",
        type=float,
        metavar="W",
        help="where there is no RAPL, estimate the CPU from processor time and this rated power",
    )
    add(
        "--cpu-estimate-threads",
        type=int,
        metavar="N",
        help="hardware threads that share the rated power (default: all of this host)",
    )
    add(
        "--rapl-root",
        default="/sys/class/powercap",
        metavar="DIR",
        help="where RAPL's counters are",
    )
    add("--cgroup-root", default="/sys/fs/cgroup", metavar="DIR", help="folder of CPU quotas")


def meter_settings(options: argparse.Namespace, *, cpu_scope: str = "auto") -> Telemetry:
    """The settings of the meter that these options state. Raises ValueError for a wrong value."""
    from kdwatts.config.machine import Telemetry

    threads = options.cpu_estimate_threads
    if options.cpu_estimate_tdp is None and threads is not None:
        raise ValueError("--cpu-estimate-threads needs --cpu-estimate-tdp; give both")
    estimate = {}
    if options.cpu_estimate_tdp is not None:
        estimate = {
            "cpu_estimate": "tdp",
            "cpu_tdp_w": options.cpu_estimate_tdp,
            "cpu_tdp_threads": threads if threads is not None else os.cpu_count() or 1,
            "cpu_tdp_source": "--cpu-estimate-tdp",
        }
    return Telemetry(
        interval_s=options.interval,
        slow_interval_s=max(1.0, options.interval),
        cpu_scope=cpu_scope,
        rapl_root=options.rapl_root,
        cgroup_root=options.cgroup_root,
        allow_shared=options.allow_shared,
        idle_s=options.idle,
        openmetrics=options.openmetrics,
        **estimate,
    )
