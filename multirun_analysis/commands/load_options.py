"""What --rate and --replay have beside them, and the operating point that they ask for."""

from __future__ import annotations

import argparse

from kdwatts.traffic.logs import summary
from multirun_analysis.statistics.operating_point import Limits, OperatingPoint, of_log, of_rate

LOAD_OPTIONS = ("peak_factor", "slo_ttft_p99_s", "slo_tpot_p99_s", "slo_e2e_p99_s")
LOAD_OPTIONS += ("price_per_card_hour",)
"""As `argparse` names them. None has a meaning without a load."""


def add_load_options(found: argparse.ArgumentParser) -> None:
    """The options that --rate and --replay have beside them."""
    found.add_argument(
        "--peak-factor",
        type=float,
        metavar="F",
        help="peak over the mean rate, which the replicas must carry (default: of a log its "
        "busiest 5 minutes, of a rate 1)",
    )
    for name, words in (("ttft", "the first"), ("tpot", "each later"), ("e2e", "the last")):
        found.add_argument(
            f"--slo-{name}-p99-s",
            type=float,
            metavar="S",
            help=f"seconds within which {words} token must come in 99 of "
            "100 requests (default, with the two others: the limits that all measurements share)",
        )
    found.add_argument(
        "--price-per-card-hour",
        action="append",
        metavar="USD",
        help="rent of a GPU for an hour, such as 2.5, or H100=2.5,L4=0.9 by parts of their names",
    )


def limits_asked(options: argparse.Namespace) -> Limits:
    """The latencies that the options name."""
    return Limits(options.slo_ttft_p99_s, options.slo_tpot_p99_s, options.slo_e2e_p99_s)


def point_asked(options: argparse.Namespace, limits: Limits) -> OperatingPoint:
    """The load of --rate or --replay with these limits. Raises ValueError for what is none."""
    if options.rate is not None:
        return of_rate(options.rate, limits, peak_factor=options.peak_factor)
    return of_log(summary(options.replay), limits, peak_factor=options.peak_factor)
