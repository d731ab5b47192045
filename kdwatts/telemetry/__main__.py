"""`python -m kdwatts.telemetry [options] [-- COMMAND ...]`: the meter around anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kdwatts.runtime.paths import argument_path
from kdwatts.runtime.streams import print_anywhere, until_unread
from kdwatts.runtime.whole_install import EXIT_REFUSED, needs_the_whole_install
from kdwatts.telemetry.meter_options import add_meter_options, meter_settings

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

With --listen it also answers another host, which measures a server here from there:

  python -m kdwatts.telemetry --listen 10.0.0.7:9400 -- vllm serve MODEL
  python -m kdwatts.serving --url http://10.0.0.7:8000 --meter-url http://10.0.0.7:9400 ...
"""

EPILOG = """\
It writes telemetry.jsonl (a row for each device and sample), stages.jsonl (a row for each measured
window) and, at the end, summary.json. It prints a table of the energies to stderr.
If kill -9 ends the meter, the rows up to the last sample are there and summary.json is not; the
command is then ended by SIGTERM, and five seconds later by SIGKILL.
The meter passes signals on to the command. It does not wait for what the command leaves in the
background.
Without a host, --listen answers this host alone. KDWATTS_METER_TOKEN, or the file that
KDWATTS_METER_TOKEN_FILE names, holds the token that both sides must have; nothing is encrypted.
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
    parser.add_argument(
        "--out",
        type=argument_path,
        metavar="DIR",
        help="folder of the records (default runs/telemetry/DATE/TIME)",
    )
    parser.add_argument(
        "--listen",
        metavar="[HOST:]PORT",
        help="answer whoever measures a server of this host from another one",
    )
    parser.add_argument(
        "--pid",
        type=int,
        action="append",
        default=[],
        metavar="PID",
        help="with --listen: a process of a server that runs already, whose CPU time, with that of "
        "all that it started, is told apart; repeatable",
    )
    add_meter_options(parser)
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
    if options.pid and (command or not options.listen):
        parser().error("--pid names a server that runs already: give it with --listen, without --")
    if options.cpu_estimate_tdp is not None and command is None and not options.pid:
        parser().error(
            "--cpu-estimate-tdp counts a command's processor time; give a command after --"
        )

    # Late: --help needs none of it.
    with needs_the_whole_install("python -m kdwatts.telemetry"):
        from kdwatts.telemetry.command import measure

    try:
        # Beside a job, the CPU time of this process tree says nothing about the job.
        settings = meter_settings(options, cpu_scope="auto" if command or options.pid else "node")
    except ValueError as error:
        print(f"kdwatts: {error}", file=sys.stderr)
        return EXIT_REFUSED
    return measure(command, settings, options.out, listen=options.listen, pids=options.pid)


if __name__ == "__main__":
    with until_unread():
        sys.exit(main(sys.argv[1:]))
