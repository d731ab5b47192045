"""The records of `run.sh` as Markdown: `python tests/gpu/tables.py RECORDS`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def shown(value: Any, digits: int = 3) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(header), ["---"] * len(header), *([shown(v) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts_lines(record: dict[str, Any]) -> str:
    gpu, versions = record["gpu"], record["versions"]
    named = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    if not isinstance(gpu, dict):
        return f"No GPU ({gpu}); {record['cpu']}, {record['cpus']} CPUs; {named}."
    keys = ("name", "driver_version", "power.limit", "persistence_mode", "clocks.max.sm")
    return f"{', '.join(f'{key} {gpu[key]}' for key in keys)}; {named}."


def counter_table(record: dict[str, Any]) -> str:
    rows = [
        (
            row["load"] if not row["period_s"] else f"square, {row['period_s']} s",
            row["duration_s"],
            row["energy_j"],
            row["power_w"],
            row["difference_pct"],
            row["method"],
        )
        for row in record["windows"]
    ]
    header = ("load", "s", "counter, J", "mean, W", "counter over samples, %", "method")
    return table(header, rows)


def head_table(record: dict[str, Any]) -> str:
    rows = [
        (name, row.get("median_ms"), row.get("least_ms"), row.get("peak_over_base_gib"))
        if "error" not in row
        else (name, row["error"], None, None)
        for name, row in record["heads"].items()
    ]
    return table(("head", "median, ms", "least, ms", "peak over base, GiB"), rows)


def steps_table(record: dict[str, Any]) -> str:
    rows = [
        (
            name,
            row["tokens_per_s"],
            row["tflop_per_s"],
            row["mfu"],
            row["fraction_of_limit"],
            row["j_per_token"],
            row["peak_gib"],
            row["planned_gib"],
        )
        for name, row in record.items()
    ]
    header = ("step", "tokens/s", "TFLOP/s", "MFU", "of limit", "J/token", "peak, GiB", "plan, GiB")
    return table(header, rows)


TABLES = {
    "facts.json": facts_lines,
    "counter.json": counter_table,
    "head.json": head_table,
    "steps.json": steps_table,
}


def main() -> None:
    folder = Path(sys.argv[1])
    for name, tell in TABLES.items():
        path = folder / name
        print(tell(json.loads(path.read_text())) if path.is_file() else f"There is no {name}.")
        print()


if __name__ == "__main__":
    main()
