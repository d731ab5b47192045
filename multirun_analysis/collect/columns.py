"""Columns of the tables: arrow types of the records' fields, and records as columns of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

import pandas as pd
import pyarrow as pa

from kdwatts.records.schema import COMPONENTS, NodeShare, Score, StageRow, TelemetryRow

_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}

RUN = pa.field("run", pa.string())

_PHASES = ("prefill", "decode")
_PHASE = {
    "j_per_token": "float",
    "interval_95_j": "float",
    "net_j_per_token": "float",
    "quality": "str",
    "tokens": "int",
    "duration_s": "float",
    "repeats": "int",
    "tokens_per_s": "float",
    "latency_p50_s": "float",
    "latency_p95_s": "float",
}
"""What inference.json tells of each phase."""
_INFERENCE = {
    "subject": "str",
    "batch_size": "int",
    "prompt_tokens": "int",
    "new_tokens": "int",
    "key": "str",
    "measurement": "int",
    **{f"{phase}_{key}": kind for phase in _PHASES for key, kind in _PHASE.items()},
    "total_j_per_token": "float",
    "total_interval_95_j": "float",
    "net_total_j_per_token": "float",
    "quality": "str",
}


def kind_of(field: Field) -> str:
    """str, int or float. list or dict for what is no single value."""
    kind = str(field.type).split(" | ")[0].partition("[")[0]
    return kind if kind in ("str", "int", "float", "list") else "dict"


def is_below_0_j(name: str, value: Any) -> bool:
    """Whether joules that a meter counts are negative. Net of idle power they may be."""
    counted = name.endswith(("_energy_j", "j_per_token")) and "net_" not in name
    return counted and value is not None and value < 0


def _typed_fields(record_type: type) -> list[pa.Field]:
    kinds = {field.name: str(field.type).split(" | ")[0] for field in fields(record_type)}
    return [
        pa.field(name, _ARROW[kind])
        for name, kind in kinds.items()
        if kind in _ARROW and name != "schema"
    ]


TICK = pa.schema(_typed_fields(TelemetryRow))
"""What a line of a trace says."""
TELEMETRY = pa.schema([RUN, *TICK, pa.field("node", pa.int64())])
"""A tick with the number of its node. `monotonic_s` is by the clock of the run's first node."""
SCORES = pa.schema([RUN, *_typed_fields(Score)])
INFERENCE = pa.schema([RUN, *(pa.field(name, _ARROW[kind]) for name, kind in _INFERENCE.items())])


def _component_fields(**sources: str) -> list[pa.Field]:
    """A column for each component and source, with the kind of the source."""
    return [
        pa.field(f"{part}_{source}", _ARROW[kind])
        for part in COMPONENTS
        for source, kind in sources.items()
    ]


_SUM = [
    pa.field("energy_j", pa.float64()),
    pa.field("uncertainty_j", pa.float64()),
    pa.field("energy_quality", pa.string()),
]
STAGES = pa.schema(
    [
        RUN,
        *_typed_fields(StageRow),
        *_component_fields(
            energy_j="float", quality="str", method="str", coverage="float", reason="str"
        ),
        *_SUM,
        pa.field("net_energy_j", pa.float64()),
        pa.field("num_nodes", pa.int64()),
        pa.field("waiting_energy_j", pa.float64()),
        pa.field("waiting_uncertainty_j", pa.float64()),
    ]
)
"""A window with one column per component, and their sum of the best quality."""
NODE_SHARES = pa.schema(
    [
        RUN,
        pa.field("attempt", pa.int64()),
        pa.field("window", pa.string()),
        *_typed_fields(NodeShare),
        *_component_fields(energy_j="float", quality="str", coverage="float", reason="str"),
        *_SUM,
    ]
)
"""What one node drew in a window of a run on several, as STAGES has the sum."""
TRAIN = pa.schema([RUN])
"""The losses of a paradigm are its own: columns are what the runs have."""


def to_table(run: str, records: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Flat records as a table that begins with `run`. Keys beyond the schema become columns too.

    Raises TypeError or ValueError for a value that does not have its column's type.
    """
    columns: dict[str, pa.Array] = {"run": pa.repeat(pa.scalar(run), len(records))}
    for field in schema:
        if field.name != "run":
            values = [record.get(field.name) for record in records]
            columns[field.name] = _array(field.name, values, field.type)
    added = dict.fromkeys(key for record in records for key in record)
    for name in [name for name in added if name not in columns and name != "schema"]:
        values = [record.get(name) for record in records]
        if not any(isinstance(value, (dict, list)) for value in values):
            columns[name] = pa.array(values)
    return pa.table(columns)


def _array(name: str, values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An array that no value was bent to fit: pyarrow would cut 1.5 to 1, and take True for 1."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    for value in values if number else ():
        cut = isinstance(value, float) and pa.types.is_integer(kind) and not value.is_integer()
        if isinstance(value, bool) or cut:
            raise ValueError(f"{name} is {value!r}, expected {kind}")
        if is_below_0_j(name, value):
            raise ValueError(f"{name} is {value!r}, expected 0 or more")
    return pa.array(values, kind)


def concatenated(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """The tables below each other, with the columns of all of them and of the schema.

    A column that is a number in one run and text in another becomes text.
    """
    parts = [schema.empty_table(), *tables]
    kinds: dict[str, set[pa.DataType]] = {}
    for part in parts:
        for field in part.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    for name, found in kinds.items():
        found -= {pa.null()}
        numbers = all(pa.types.is_integer(k) or pa.types.is_floating(k) for k in found)
        if len(found) > 1 and not numbers:
            parts = [_as_text(part, name) for part in parts]
    return pa.concat_tables(parts, promote_options="permissive").combine_chunks()


def _as_text(table: pa.Table, name: str) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table if index < 0 else table.set_column(index, name, table[name].cast(pa.string()))


def for_pandas(schema: pa.Schema) -> pa.Schema:
    """The schema with a note for pandas: integers may be missing, even where none is.

    In a file, it makes `pd.read_parquet` read the types that `collect` gives.
    """
    frame = schema.empty_table().to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return schema.with_metadata(pa.Schema.from_pandas(frame, preserve_index=False).metadata)
