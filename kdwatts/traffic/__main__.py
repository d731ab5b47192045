"""`python -m kdwatts.traffic LOG`: what a log of requests says of its traffic."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from kdwatts.runtime.interrupt import ended_in_a_sentence
from kdwatts.runtime.paths import argument_path
from kdwatts.runtime.streams import print_anywhere, until_unread
from kdwatts.runtime.whole_install import EXIT_REFUSED, needs_the_whole_install
from kdwatts.traffic.traffic_summary import FORMATS

DESCRIPTION = """\
Reads a log of requests and prints its rates, bursts, lengths and sessions.

  python -m kdwatts.traffic log.jsonl
  python -m kdwatts.traffic --json BurstGPT_1.csv
"""

EPILOG = """\
Formats: JSONL with t_s (kdwatts), the CSV of Azure's and of BurstGPT's logs, Mooncake's JSONL. A
file may be gzipped. No text of a log is printed. The exit code is 0, or 2 where the log cannot be
read.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m kdwatts.traffic",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("log", type=argument_path, metavar="LOG", help="file of the log")
    parser.add_argument(
        "--format", choices=FORMATS, default="auto", help="default: known by the first line"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the summary as JSON, for a program"
    )
    return parser


def main(words: Sequence[str]) -> int:
    """The exit code of a command line."""
    print_anywhere()
    options = parser().parse_args(words)
    with needs_the_whole_install("python -m kdwatts.traffic"):
        from kdwatts.traffic.logs import summary
        from kdwatts.traffic.traffic_table import traffic_table
    try:
        found = summary(options.log, options.format)
    except ValueError as error:
        print(f"kdwatts: {error}", file=sys.stderr)
        return EXIT_REFUSED
    if options.json:
        print(json.dumps(asdict(found) | {"rate_per_s": found.rate_per_s}, indent=2))
    else:
        print(traffic_table(found))
    return 0


if __name__ == "__main__":
    with until_unread(), ended_in_a_sentence("python -m kdwatts.traffic"):
        sys.exit(main(sys.argv[1:]))
