"""From loads to figures: the loads of the settings, and the capacity at an SLO."""

from __future__ import annotations

import random

from kdwatts.config.serving import Serving
from kdwatts.records.serving_record import Capacity, ServingPoint
from kdwatts.serving.bench import Bench
from kdwatts.serving.capacity import find_capacity
from kdwatts.serving.load.replayed_log import ReplayedLog, part_of
from kdwatts.serving.load.requests import Load
from kdwatts.serving.one_load import (
    measure_idle_server,
    measure_load,
    measure_load_and_phases,
)

UNSERVED = (0.01, 1.0)
"""Requests a second between which a capacity is looked for where no load was served."""


def loads_of(settings: Serving, log: ReplayedLog | None) -> list[Load]:
    """The loads of the settings, in their order; of a replay one for each speed.

    Raises ValueError for a speed at which too little of the log fits the time for one load.
    """
    if log is not None and settings.is_replayed:
        times_s, most_s = log.times_s, settings.max_window_s
        parts = [part_of(times_s, speed, most_s) for speed in settings.replay.speeds]
        return [Load("replay", part.rate_per_s, speed=part.speed) for part in parts]
    kind = settings.arrivals if settings.rates_per_s else "closed"
    return [Load(kind, level, settings.burstiness) for level in settings.loads]


def measure_curve(bench: Bench) -> list[ServingPoint]:
    """The figures of every load, in the order of the settings.

    They are measured in an order that the seed shuffles, so that a slow drift of the machine is
    not taken for an effect of the load.
    """
    loads = loads_of(bench.settings, bench.logged.log if bench.logged else None)
    order = random.Random(bench.seed).sample(range(len(loads)), len(loads))
    idle = measure_idle_server(bench)
    measured = {number: measure_load_and_phases(bench, loads[number], idle) for number in order}
    return [measured[number] for number in range(len(loads))]


def measure_capacity(bench: Bench, curve: list[ServingPoint]) -> Capacity | None:
    """The greatest Poisson rate that keeps the SLO. None without an SLO.

    It is looked for from an eighth of the least rate of the curve to twice its greatest.
    """
    if not bench.settings.slo.is_set:
        return None
    served = [one.requests_per_s.value for one in curve if one.requests_per_s.value]
    low, high = (min(served) / 8, 2 * max(served)) if served else UNSERVED
    return find_capacity(
        lambda rate_per_s: measure_load(bench, Load("poisson", rate_per_s)),
        low_per_s=low,
        high_per_s=high,
        known=[one for one in curve if one.load == "poisson"],
    )
