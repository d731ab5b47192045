"""Ticks of runs, one run at a time: all of them together need not fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from multirun_analysis.reading import ticks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Telemetry:
    """Where the ticks of each run are. Nothing is read before it is asked for."""

    parts: Mapping[str, Path | None]
    """File of each run that has ticks, in the order of runs; None where none was written."""
    folders: Mapping[str, Path]
    """Folder of each run."""

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs that have ticks."""
        return tuple(self.parts)

    def of(self, run: str) -> pd.DataFrame:
        """The ticks of one run, sorted by attempt and time; no rows where it has none.

        Raises ValueError for a record of a foreign or newer schema.
        """
        part_path = self.parts.get(run)
        if part_path is not None:
            try:
                return ticks.read_part(part_path).to_pandas()
            except (OSError, ValueError) as error:
                log.warning("%s does not read (%s); reading the run's own file", part_path, error)
        if run not in self.parts:
            return ticks.PART_SCHEMA.empty_table().to_pandas()
        table, problem = ticks.read_whole(run, self.folders[run] / ticks.FILE)
        if problem:
            log.warning("%s: %s", run, problem)
        return table.to_pandas()
