"""Ticks of runs, one run at a time: all of them together need not fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa

from multirun_analysis.collect import node_traces, tick_blocks
from multirun_analysis.collect.columns import concatenated
from multirun_analysis.collect.device_summaries import SUMMARIES, summarise

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Telemetry:
    """Where the ticks of each run are. Nothing is read before you ask for it."""

    parts: Mapping[str, Path | None]
    """The file of each run that has ticks, in the order of runs. None where none was written."""
    folders: Mapping[str, Path]
    """Folder of each run."""

    kept_summaries: pa.Table | None = None
    """Rows of SUMMARIES, if they were made when the ticks were read."""

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs that have ticks."""
        return tuple(self.parts)

    @cached_property
    def summaries(self) -> pd.DataFrame:
        """One row per run and stage: utilisation, temperature and power of its devices.

        Where nothing was kept, this reads the ticks of all runs, one run after the other.
        """
        table = self.kept_summaries
        if table is None:
            table = concatenated((summarise(run, self._table(run)) for run in self.runs), SUMMARIES)
        return table.to_pandas()

    def of(self, run: str) -> pd.DataFrame:
        """The ticks of one run, sorted by attempt and time. No rows where it has none.

        Raises ValueError for a record of a foreign or newer schema.
        """
        return self._table(run).to_pandas()

    def _table(self, run: str) -> pa.Table:
        part_path = self.parts.get(run)
        if part_path is not None:
            try:
                return tick_blocks.read_part(part_path)
            except (OSError, ValueError) as error:
                log.warning("%s does not read (%s); reading the run's own files", part_path, error)
        if run not in self.parts:
            return tick_blocks.PART_SCHEMA.empty_table()
        table, problem = node_traces.read_whole(run, self.folders[run])
        if problem:
            log.warning("%s: %s", run, problem)
        return table
