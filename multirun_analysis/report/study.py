"""What a page is about: the tables of the runs, the figures over them, and what was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from multirun_analysis.collect.collection import Collected
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.looks import Look, look_in
from multirun_analysis.statistics.choice import Gate
from multirun_analysis.statistics.fleet_choice import FleetChoice, choose_fleet
from multirun_analysis.statistics.fleets import fleets
from multirun_analysis.statistics.operating_point import OperatingPoint
from multirun_analysis.statistics.rent import Rent
from multirun_analysis.statistics.site import Site
from multirun_analysis.values.rows import Row, distinct_students, to_rows

Exhibits = dict[str, Exhibit]
ENOUGH, FREE = Gate(), Rent()


@dataclass(frozen=True)
class Service:
    """What is asked about a service at a load."""

    point: OperatingPoint
    """The load, and the limits of its latencies."""
    rent: Rent = FREE
    """What GPUs cost by the hour."""
    gate: Gate = ENOUGH
    """What a candidate must keep."""
    days: float = 365.0
    """How long it is served."""


@dataclass(frozen=True)
class Study:
    """Runs and their exhibits; what each section of a page is made of."""

    collected: Collected
    shown: Exhibits
    site: Site | None
    """Whose price and factors a year of service has; None where the runs have none in common."""
    tokens_per_day: float = 1e9
    """Of a service that the eager loop answers for; `service` is None then."""
    service: Service | None = None
    """What servers are sized for; None where no load was given."""

    @property
    def runs(self) -> pd.DataFrame:
        return self.collected.runs

    @cached_property
    def rows(self) -> list[Row]:
        return to_rows(self.runs)

    @property
    def students(self) -> list[Row]:
        return distinct_students(self.rows)

    @cached_property
    def fleet_choice(self) -> FleetChoice | None:
        """The fleets of the service, ranked; None without a load.

        Raises ValueError where no server was measured in an open loop.
        """
        asked = self.service
        if asked is None:
            return None
        serving = to_rows(self.collected.serving)
        found = fleets(serving, self.rows, asked.point, rent=asked.rent, site=self.site)
        return choose_fleet(found, self.rows, gate=asked.gate, days=asked.days)

    @cached_property
    def look(self) -> Callable[[str], Look]:
        """Colour and shape of a setting, by its group."""
        return look_in(self.rows)
