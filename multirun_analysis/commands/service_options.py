"""The load of a report: a rate or a log, with limits and a rent, as `choose` has them."""

from __future__ import annotations

import argparse
from dataclasses import replace

from kdwatts.runtime.paths import argument_path
from multirun_analysis.collect.collection import Collected
from multirun_analysis.commands.load_options import (
    LOAD_OPTIONS,
    add_load_options,
    limits_asked,
    point_asked,
)
from multirun_analysis.report.study import Service
from multirun_analysis.statistics.fleets import fleets
from multirun_analysis.statistics.measured_replicas import measured_replicas
from multirun_analysis.statistics.operating_point import limits_of
from multirun_analysis.statistics.rent import rent_of
from multirun_analysis.values.rows import to_rows

PROFILE = "provider"
"""The page that answers for a load."""


def add_service_options(parser: argparse.ArgumentParser) -> None:
    """--rate, --replay or --tokens-per-day, and what goes with the first two."""
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help=f"with --profile {PROFILE}: requests a second that the service gets all day",
    )
    load.add_argument(
        "--replay",
        type=argument_path,
        metavar="FILE",
        help=f"with --profile {PROFILE}: a log of requests, whose hours are repeated to fill a day",
    )
    load.add_argument(
        "--tokens-per-day",
        type=float,
        default=1e9,
        metavar="N",
        help="tokens that the student will serve, by the eager loop (default 1e9)",
    )
    add_load_options(parser)


def service_of(options: argparse.Namespace) -> Service | None:
    """What the options ask about a service; None without a load.

    Raises ValueError for what cannot be asked. Nothing that was measured is looked at.
    """
    given = [name for name in LOAD_OPTIONS if getattr(options, name) is not None]
    if options.rate is None and options.replay is None:
        if given:
            raise ValueError(
                f"{_option(given[0])} was given without a load; give --rate or --replay beside it"
            )
        return None
    if options.profile != PROFILE:
        name = "rate" if options.replay is None else "replay"
        raise ValueError(
            f"{_option(name)} was given with --profile {options.profile}, whose page has no answer "
            f"for a load; give --profile {PROFILE}"
        )
    limits = limits_asked(options)
    if limits.is_set:
        limits = limits_of(limits, ())
    point = point_asked(options, limits)
    return Service(point, rent_of(options.price_per_card_hour or ()))


def at_measured_limits(service: Service, collected: Collected) -> Service:
    """The service with the limits of the measurements, where the options name none.

    Raises ValueError where the measurements have no answer for any candidate: none in an open loop,
    no limits in common, no GPU with the name of a price.
    """
    serving, runs = to_rows(collected.serving), to_rows(collected.runs)
    measured_replicas(serving, runs)  # What was never measured has no limits either.
    limits = limits_of(service.point.limits, serving)
    service = replace(service, point=replace(service.point, limits=limits))
    fleets(serving, runs, service.point, rent=service.rent)
    return service


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
