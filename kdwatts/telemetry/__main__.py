"""`python -m kdwatts.telemetry [options] [-- COMMAND ...]`: the meter around anything."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from kdwatts.runtime.paths import argument_path
from kdwatts.runtime.streams import print_anywhere, until_unread
from kdwatts.runtime.whole_install import EXIT_REFUSED, needs_the_whole_install

DESCRIPTION = """\
Runs COMMAND and measures the energy that this job's GPUs, CPUs and memory draw meanwhile.

  python -m kdwatts.telemetry -- python train.py
  python -m kdwatts.telemetry --out energy --cpu-estimate-tdp 65 -- python train.py

The command keeps its stdin, its stdout and its exit code. The exit code is 128 + N if signal N
killed the command, 127 if it was not found, 126 if it cannot be executed, and 2 if the meter
refused before it started anything.
Without a command the meter measures until it gets SIGINT (Ctrl-C), SIGTERM or SIGHUP: the CPUs and
the memory of the whole node, and the GPUs of the job. Start it before the job uses the GPUs, or
give --allow-shared.
"""

EPILOG = """\
It writes telemetry.jsonl (a row for each device and sample), stages.jsonl (a row for each measured
window) and, at the end, summary.json. It prints a table of the energies to stderr.
If kill -9 ends the meter, the rows up to the last sample are there and summary.json is not; the
command is then ended by SIGTERM, and five seconds later by SIGKILL.
The meter passes signals on to the command. It does not wait for what the command leaves in the
background.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the options before `--`. The command after `--` is not in it."""
    parser = argparse.ArgumentParser(
        prog="python -m kdwatts.telemetry",
        usage="%(prog)s [options] [-- COMMAND ...]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--interval",
        type=float,
        default=0.1,
        metavar="S",
        help="seconds between two samples (default 0.1)",
    )
    add(
        "--out",
        type=argument_path,
        metavar="DIR",
        help="folder of the records (default runs/telemetry/DATE/TIME)",
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
    return parser


def main(words: Sequence[str]) -> int:
    """The exit code of a command line."""
    print_anywhere()
    own = list(words)
    command: list[str] | None = None
    if "--" in own:
        start = own.index("--")
        own, command = own[:start], own[start + 1 :]
    options, strays = parser().parse_known_args(own)
    if strays:
        parser().error(f"{strays[0]} is no option of the meter; write -- before the command")
    if command == []:
        parser().error("no command follows --; give one, or leave -- out")
    threads = options.cpu_estimate_threads
    if options.cpu_estimate_tdp is None and threads is not None:
        parser().error("--cpu-estimate-threads needs --cpu-estimate-tdp; give both")
    if options.cpu_estimate_tdp is not None and command is None:
        parser().error(
            "--cpu-estimate-tdp counts a command's processor time; give a command after --"
        )

    # Late: --help needs none of it.
    with needs_the_whole_install("python -m kdwatts.telemetry"):
        from kdwatts.config.machine import Telemetry
        from kdwatts.telemetry.command import measure

    estimate = {}
    if options.cpu_estimate_tdp is not None:
        estimate = {
            "cpu_estimate": "tdp",
            "cpu_tdp_w": options.cpu_estimate_tdp,
            "cpu_tdp_threads": threads if threads is not None else os.cpu_count() or 1,
            "cpu_tdp_source": "--cpu-estimate-tdp",
        }
    try:
        settings = Telemetry(
            interval_s=options.interval,
            slow_interval_s=max(1.0, options.interval),
            # Beside a job, the CPU time of this process tree says nothing about the job.
            cpu_scope="auto" if command else "node",
            rapl_root=options.rapl_root,
            cgroup_root=options.cgroup_root,
            allow_shared=options.allow_shared,
            idle_s=options.idle,
            openmetrics=options.openmetrics,
            **estimate,
        )
    except ValueError as error:
        print(f"kdwatts: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return measure(command, settings, options.out)


if __name__ == "__main__":
    with until_unread():
        sys.exit(main(sys.argv[1:]))
