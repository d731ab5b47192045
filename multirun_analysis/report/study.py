"""What a page is about: the tables of the runs, the figures over them, and what was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from multirun_analysis.collect.collection import Collected
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.looks import Look, look_in
from multirun_analysis.statistics.site import Site
from multirun_analysis.values.rows import Row, distinct_students, to_rows

Exhibits = dict[str, Exhibit]


@dataclass(frozen=True)
class Study:
    """Runs and their exhibits; what each section of a page is made of."""

    collected: Collected
    shown: Exhibits
    site: Site | None
    """Whose price and factors a year of service has; None where the runs have none in common."""
    tokens_per_day: float = 1e9

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
    def look(self) -> Callable[[str], Look]:
        """Colour and shape of a setting, by its group."""
        return look_in(self.rows)
