"""reference/tables.md: the tables that the analysis writes, column by column."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from docs.generate import plain_records, records, table_words
from docs.generate.class_fields import classes_in
from docs.generate.units_of_names import unit_of
from docs.generate.value_kinds import cell
from multirun_analysis.collect import columns
from multirun_analysis.collect.device_summaries import SUMMARIES
from multirun_analysis.collect.serving_columns import SERVING
from multirun_analysis.statistics.serving_points import (
    FIGURES,
    PERCENTILES,
    parts_of,
    percentile_column,
)

INTRODUCTION = """\
# Tables

`python -m multirun_analysis DIR` writes these tables to `DIR/analysis`, or to `--out`. Each is a
parquet file, such as `scores.parquet`; `runs`, `stages` and `serving` are CSV files too. All tables
share the column `run`, so you can join them.

- Units end the names: `_j` is joules, `_w` watts, `_s` seconds.
- A missing number is null in parquet and an empty cell in CSV. It is never 0.
- Energies are gross unless the name says `net`.

In a notebook, `multirun_analysis.collect.collection.collect` gives the same tables as pandas
frames.
"""

_KINDS = {
    pa.string(): "text",
    pa.int64(): "whole number",
    pa.float64(): "number",
    pa.bool_(): "`true` or `false`",
}

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def tables() -> dict[str, list[tuple[str, pa.DataType, str]]]:
    """Each table of fixed columns to its columns: name, type, meaning."""
    stages = _recorded("stages.jsonl") | table_words.WINDOW
    by_component = {
        f"{part}_{name}": f"{part}: {words}"
        for part in columns.COMPONENTS
        for name, words in table_words.COMPONENT.items()
    }
    share = _recorded("A share of a node in stages.jsonl") | table_words.WINDOW | by_component
    share |= {name: stages[name] for name in ("attempt", "window")}
    ticks = _recorded("telemetry.jsonl") | {"node": table_words.NODE}
    ticks["monotonic_s"] = (
        "Seconds of a clock that never goes back, that of the run's first node; differences inside "
        "one attempt mean something."
    )
    serving = _recorded("inference.json")
    phase = _recorded("A phase in inference.json")
    serving |= {
        f"{name}_{field}": f"{name}: {words}"
        for name in ("prefill", "decode")
        for field, words in phase.items()
    }
    train = [
        (name, _TYPES[kind.removesuffix(" | None")], words)
        for name, (kind, words) in plain_records.TRAIN.items()
        if name not in ("schema", "energy_quality")
    ]
    return {
        "stages": _columns(columns.STAGES, stages | by_component),
        "node_shares": _columns(columns.NODE_SHARES, share),
        "train": [("run", pa.string(), "Name of the run."), *train],
        "scores": _columns(columns.SCORES, _recorded("eval.json")),
        "inference": _columns(columns.INFERENCE, serving),
        "serving": _columns(SERVING, _under_load()),
        "summaries": _columns(SUMMARIES, table_words.SUMMARY_COLUMNS),
        "telemetry": _columns(columns.TELEMETRY, ticks),
    }


def page() -> str:
    """The page in Markdown."""
    metrics = classes_in("kdwatts/records/run_metrics.py")["Metrics"].fields
    own = [
        (name, _TYPES[kind.removesuffix(" | None")], words)
        for name, (kind, words) in table_words.RUN_COLUMNS.items()
    ]
    parts = [
        INTRODUCTION,
        "## runs {#runs}\n\n`runs.parquet` and `runs.csv`: one row for each run, finished or not. "
        f"It has all {len(metrics) - 1} fields of [metrics.json](records.md#metrics), without "
        "`schema`, and these:\n",
        *_rows("runs", own),
    ]
    for name, rows in tables().items():
        parts += [f"\n## {name} {{#{name}}}\n\n{table_words.ABOUT[name]}\n", *_rows(name, rows)]
    parts += [
        "\n## tables/ {#tables}\n\nThe numbers of each figure, as CSV with all digits, and as "
        "Markdown and LaTeX with four digits. The figure shows a setting by its paradigm and what "
        "differs; the table has the columns to tell it apart.\n\nIf an option varies beside the "
        "paradigm, the curves of each setting also have files of their own, such as "
        "`loss_curves-response-learning_rate-0.0001.csv`.\n",
        "| file | what it has |\n| --- | --- |",
        *(f"| `{name}` | {words} |" for name, words in table_words.EXHIBITS.items()),
    ]
    return "\n".join(parts) + "\n"


def _under_load() -> dict[str, str]:
    """Columns of `serving` to their words, which are those of the records' fields."""
    found = classes_in("kdwatts/records/serving_record.py")
    words = {
        name: {field.name: field.words or "" for field in found[name].fields}
        for name in ("ServingPoint", "ServingRecord", "EngineRecord", "Capacity", "Percentiles")
    }
    point, record = words["ServingPoint"], words["ServingRecord"]
    settings = classes_in("kdwatts/config/serving.py")
    parts = (
        table_words.SERVING_COLUMNS | point | {name: record[name] for name in ("subject", "key")}
    )
    of_server = ("measurement", "started_utc", "gpus", "num_gpus_of_server")
    parts |= {name: record[name] for name in of_server}
    parts |= {name: words["EngineRecord"][name] for name in ("precision", "quantization")}
    for group, of in (("workload", "Workload"), ("slo", "Slo")):
        parts |= {f"{group}_{field.name}": field.words or "" for field in settings[of].fields}
    parts["workload_prompts"] = "Hash of the file that prompts are cut from."
    parts["workload_replay_sha256"] = "Hash of the log that is replayed; empty without one."
    for name in ("from_s", "for_s", "sessions"):
        words_of = {field.name: field.words or "" for field in settings["Replay"].fields}
        parts[f"workload_replay_{name}"] = words_of[name]
    parts |= {f"capacity_{name}": said for name, said in words["Capacity"].items()}
    parts |= {
        f"{part}_energy_j": f"{point['energy_j']} This is {part}." for part in columns.COMPONENTS
    }
    of_server = ("parking_power_w", "bare_power_w")
    for name in (*FIGURES, *of_server):
        said = record[name] if name in of_server else point[name]
        parts[name] = said
        parts |= {f"{name}_{end}": table_words.FIGURE[end].format(name) for end in parts_of(name)}
    for name in PERCENTILES:
        for rank, said in words["Percentiles"].items():
            column = percentile_column(name, rank)
            parts[column] = f"{point[name]} {said}"
            parts |= {
                f"{column}_{end}": table_words.FIGURE[end].format(column) for end in ("low", "high")
            }
    return parts


def _recorded(title: str) -> dict[str, str]:
    """The fields of a record to their words."""
    (record,) = [one for one in records.records() if one.title == title]
    return {field.name: records.words_of(record, field) for field in record.fields}


def _columns(schema: pa.Schema, words: dict[str, str]) -> list[tuple[str, pa.DataType, str]]:
    known = {"run": "Name of the run."} | words
    return [(field.name, field.type, known[field.name]) for field in schema]


def _rows(table: str, found: Iterable[tuple[str, pa.DataType, str]]) -> list[str]:
    lines = ["| column | type | meaning |", "| --- | --- | --- |"]
    for name, kind, words in found:
        unit = unit_of(name, "int" if kind == pa.int64() else "float")
        typed = _KINDS[kind] if unit is None or kind == pa.string() else f"{_KINDS[kind]}, {unit}"
        shown = name.replace("_", "_<wbr>")
        lines.append(f'| <code id="{table}.{name}">{shown}</code> | {typed} | {cell(words)} |')
    return lines
