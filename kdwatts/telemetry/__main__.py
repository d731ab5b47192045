"""`python -m kdwatts.telemetry [options] [-- COMMAND ...]`: the meter around anything."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from kdwatts.runtime.paths import argument_path
from kdwatts.runtime.streams import print_anywhere, until_unread
from kdwatts.runtime.whole_install import needs_the_whole_install

EXIT_REFUSED = 2

DESCRIPTION = """\
Runs COMMAND and meanwhile measures the energy of this job's GPUs, CPUs and memory. stdin, stdout
and the exit code are the command's. The exit code is 128 + N when signal N killed the command, 127
when it was not found, 126 when it cannot be executed, and 2 when the meter refuses to start.
Without a command it measures beside a job until SIGINT, SIGTERM or SIGHUP: CPU and memory of the
whole node, and the job's GPUs. Start it before the job uses them, or give --allow-shared.
"""

EPILOG = """\
Leaves telemetry.jsonl (one row per device and tick), stages.jsonl (one row per window) and, at the
end, summary.json. After kill -9 the meter leaves the rows up to its last tick and no summary.json;
the command then gets SIGTERM and, five seconds later, SIGKILL.
The meter passes the signals it gets on to the command. A signal that reached the whole process
group, such as Ctrl-C, is not sent twice. The meter does not wait for what the command leaves in
the background.
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
    add("--interval", type=float, default=0.1, metavar="S", help="seconds between samples (0.1)")
    add(
        "--out",
        type=argument_path,
        metavar="DIR",
        help="folder of the records (runs/telemetry/DATE/TIME)",
    )
    add(
        "--idle",
        type=float,
        default=0.0,
        metavar="S",
        help="measure idle power so many seconds before the command",
    )
    add("--allow-shared", action="store_true", help="measure GPUs that others use, and say so")
    add("--openmetrics", metavar="PATH", help="live figures in a .prom or .om file, or in a folder")
    add(
        "--cpu-estimate-tdp",
        type=float,
        metavar="W",
        help="without RAPL, estimate the CPU from processor time and this rated power",
    )
    add(
        "--cpu-estimate-threads",
        type=int,
        metavar="N",
        help="hardware threads that have the rated power together (all of this host)",
    )
    add(
        "--rapl-root",
        default="/sys/class/powercap",
        metavar="DIR",
        help="folder of RAPL's counters",
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
        parser().error(f"{strays[0]} is no option; write -- before the command")
    if command == []:
        parser().error("nothing follows --; give a command or leave -- out")
    threads = options.cpu_estimate_threads
    if options.cpu_estimate_tdp is None and threads is not None:
        parser().error("--cpu-estimate-threads goes with --cpu-estimate-tdp; give both")
    if options.cpu_estimate_tdp is not None and command is None:
        parser().error("--cpu-estimate-tdp estimates a command's processor time; give a command")

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
