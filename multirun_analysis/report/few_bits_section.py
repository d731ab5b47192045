"""Teacher and student in 8 or 4 bits: what each keeps, weighs and draws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kdwatts.metrics.fieller import Interval
from multirun_analysis.report.cells import Cell
from multirun_analysis.report.render import Values
from multirun_analysis.report.study import Study
from multirun_analysis.report.typeset import mark_of
from multirun_analysis.statistics.accuracy_words import share_and_ends
from multirun_analysis.statistics.pareto import energy_class
from multirun_analysis.values import units
from multirun_analysis.values.order import in_order
from multirun_analysis.values.rows import Row


def few_bits(study: Study) -> Values | None:
    """A table of the runs' models in few bits; nothing where there is none."""
    runs = in_order([run for run in study.rows if run["finished"] and run.get("quantized")])
    rows = [row for run in runs for row in _rows(run)]
    return {"rows": rows} if rows else None


def _rows(run: Row) -> Iterator[Row]:
    for model in json.loads(run["quantized"]).values():
        kept, ends = share_and_ends(
            Interval(*(model.get(f"accuracy_kept{end}") for end in ("", "_low", "_high")))
        )
        mark = mark_of({"energy_class": energy_class(model["quantizing_energy_quality"])})
        yield {
            "run": run,
            "model": f"{model['subject']} in {model['quantization']}",
            "cells": [
                Cell(model["scheme"]),
                Cell(kept, ends),
                Cell(units.number(model.get("om_perf"))),
                Cell(units.quantity(model["weights_bytes"], "B")),
                _joules_written(model.get("engine") or {}),
                Cell(units.energy(model["quantizing_energy_j"]) + mark),
            ],
        }


def _joules_written(engine: dict[str, Any]) -> Cell:
    """J per output token behind the engine, at the load that the run states."""
    value = engine.get("j_per_output_token")
    if value is None:
        return Cell(units.MISSING)
    mark = mark_of({"energy_class": energy_class(engine["energy_quality"])})
    return Cell(units.quantity(value, "J") + mark, engine["verdict"])
