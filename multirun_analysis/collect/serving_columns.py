"""serving.json as a table: one row for each load of each measurement of each model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from kdwatts.records.schema import COMPONENTS
from multirun_analysis.collect.columns import RUN
from multirun_analysis.statistics.serving_points import (
    FIGURES,
    PERCENTILES,
    PLAIN,
    RANKS,
    flat_figure,
    flat_point,
    parts_of,
    percentile_column,
)
from multirun_analysis.values.rows import Row

_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
_OF_SERVER = ("parking_power_w", "bare_power_w")
OF_RUN = {
    "model": pa.string(),
    "host": pa.string(),
    "cpu": pa.string(),
    "power_limit_w": pa.float64(),
}
"""What the run's other records say of the pair, and of the machine where the record does not."""

_ASKED = {
    "workload": {
        "prompt_tokens": "int",
        "prompt_tokens_p95": "int",
        "output_tokens": "int",
        "output_tokens_p95": "int",
        "length": "str",
        "prompts": "str",
        "replay_sha256": "str",
        "replay_from_s": "float",
        "replay_for_s": "float",
        "replay_sessions": "str",
    },
    "slo": {"ttft_p99_s": "float", "tpot_p99_s": "float", "e2e_p99_s": "float"},
    "capacity": {"requests_per_s": "float", "first_too_much_per_s": "float", "verdict": "str"},
}
"""What a record says of all its points, to the type of each part."""


def _figure_fields(name: str) -> list[pa.Field]:
    texts = {"quality": pa.string()}
    ends = [pa.field(f"{name}_{p}", texts.get(p, pa.float64())) for p in parts_of(name)]
    return [pa.field(name, pa.float64()), *ends]


def _percentile_fields(name: str) -> list[pa.Field]:
    columns = [percentile_column(name, rank) for rank in RANKS]
    ends = ("", "_low", "_high")
    return [pa.field(f"{column}{end}", pa.float64()) for column in columns for end in ends]


SERVING = pa.schema(
    [
        RUN,
        *(pa.field(name, kind) for name, kind in OF_RUN.items()),
        *(
            pa.field(name, pa.string())
            for name in ("subject", "engine", "engine_version", "flags", "precision")
        ),
        *(pa.field(name, pa.string()) for name in ("quantization", "gpus", "key", "started_utc")),
        pa.field("measurement", pa.int64()),
        pa.field("num_gpus_of_server", pa.int64()),
        *(
            pa.field(f"{group}_{name}", _ARROW[kind])
            for group, parts in _ASKED.items()
            for name, kind in parts.items()
        ),
        *(field for name in _OF_SERVER for field in _figure_fields(name)),
        pa.field("is_of_search", pa.bool_()),
        *(pa.field(name, _ARROW[kind]) for name, kind in PLAIN.items()),
        pa.field("remarks", pa.string()),
        pa.field("failures", pa.string()),
        *(pa.field(f"{part}_energy_j", pa.float64()) for part in COMPONENTS),
        *(field for name in FIGURES for field in _figure_fields(name)),
        *(field for name in PERCENTILES for field in _percentile_fields(name)),
    ]
)
"""A load with what its server was, in one row."""


def flat_record(record: Mapping[str, Any]) -> list[Row]:
    """The rows of one record: its loads, then those of its search for the capacity.

    Raises KeyError, TypeError or AttributeError for what is no record of a server.
    """
    engine = record["engine"]
    about: Row = {
        name: record.get(name)
        for name in ("key", "measurement", "started_utc", "host", "cpu", "power_limit_w")
    }
    about["num_gpus_of_server"] = record.get("num_gpus_of_server")
    about |= {
        "subject": record["subject"],
        "engine": engine["name"],
        "engine_version": engine["version"],
    }
    about |= {
        "flags": " ".join(engine["flags"]) or None,
        "gpus": ", ".join(record.get("gpus") or []) or None,
    }
    about |= {name: engine[name] for name in ("precision", "quantization")}
    for group, parts in _ASKED.items():
        found = record.get(group) or {}
        about |= {f"{group}_{name}": found.get(name) for name in parts}
    for name in _OF_SERVER:
        about |= flat_figure(name, record.get(name))
    tried = (record.get("capacity") or {}).get("tried") or []
    return [
        about | {"is_of_search": is_of_search} | flat_point(point)
        for points, is_of_search in ((record["points"], False), (tried, True))
        for point in points
    ]


def with_run(table: pa.Table, run: Row) -> pa.Table:
    """The table with what the run's other records say of the pair, and of the machine.

    A measurement that another run made states the machine itself.
    """
    for name, kind in OF_RUN.items():
        index = table.schema.get_field_index(name)
        own = table.column(index).to_pylist()
        values = pa.array([run.get(name) if one is None else one for one in own], kind)
        table = table.set_column(index, pa.field(name, kind), values)
    return table
