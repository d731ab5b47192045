"""The records of `run.sh` as Markdown, and which bars they meet: `python tests/gpu/tables.py OUT`.

It needs neither torch nor the package. What is not in the records is said to be not measured. Of
several folders, one for each loan of a GPU, a record is the last one's that has it, and each step
the last one's that took it.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

COUNTER_PCT, PRODUCTS_PCT, MFU, MEMORY = 2.0, 20.0, 0.45, 0.1
"""The bars: the counter's most difference from the integral of power, most time of a head beyond
its matrix products, least MFU of a step, most relative difference of peak memory from the plan's.
"""
OURS, TERMS = "ours {term}, chunks of 2048", ("jsd", "forward_kl")
Record = dict[str, Any]


def shown(value: Any, digits: int = 3) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(header), ["---"] * len(header), *([shown(v) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_record(value: Any) -> Record:
    """A fact; of one that could not be had, which is a sentence, or was cut off: nothing."""
    return value if isinstance(value, dict) else {}


def facts_lines(record: Record) -> str:
    """GPU, form of the head, date and versions."""
    gpu, machine, cuda, kernel = (
        as_record(record.get(name)) for name in ("gpu", "machine", "cuda", "kernel")
    )
    keys = ("name", "driver_version", "power.limit", "persistence_mode", "clocks.max.sm")
    if gpu:
        told = ", ".join(f"{key} {gpu[key]}" for key in keys)
    elif cuda.get("name"):
        told = f"{cuda['name']}, and nvidia-smi does not answer ({record.get('gpu')})"
    else:
        told = f"No GPU ({record.get('gpu')}); {machine.get('cpu')}, {machine.get('cpus')} CPUs"
    why = kernel.get("why_plain") or record.get("kernel")
    if kernel.get("is_fused"):
        told += "; the fused kernel runs"
    elif gpu or cuda.get("name"):
        told += f"; the fused kernel does not run ({why})"
    versions = as_record(record.get("versions"))
    named = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    return f"{told}; {record.get('date_utc', 'no date')}; {named}."


def doctor_table(record: Record) -> str:
    """What the doctor found, and which of it is not right."""
    rows = [
        (one["name"].replace("_", " "), one["verdict"] or "-", one["found"], one["remedy"])
        for one in record["verdicts"]
    ]
    return table(("looked at", "verdict", "found", "what to do"), rows)


def tests_lines(rows: Sequence[Record]) -> str:
    """How many tests had each outcome, and what each failure says first."""
    files = sorted({row["test"].partition("::")[0] for row in rows})
    outcomes = ("passed", "failed", "skipped")
    counts = [
        (
            Path(file).name,
            *(
                sum(row["outcome"] == one and row["test"].startswith(file) for row in rows)
                for one in outcomes
            ),
            sum(row["seconds"] for row in rows if row["test"].startswith(file)),
        )
        for file in files
    ]
    failed = [
        f"- `{row['test']}`: {(row.get('message') or 'no message').splitlines()[0]}"
        for row in rows
        if row["outcome"] == "failed"
    ]
    return "\n".join([table(("tests", *outcomes, "s"), counts), *(["", *failed] if failed else [])])


def products_ms(record: Record) -> float | None:
    """The head's products alone, in chunks of a run's default."""
    rows = record.get("products", {})
    chunk = "2048" if "2048" in rows else next(iter(rows), None)
    return rows[chunk]["median_ms"] if chunk else None


def beyond_pct(row: Record, record: Record) -> float | None:
    """Time of a head beyond that of the products alone, in per cent of it."""
    took_ms, alone_ms = row.get("median_ms"), products_ms(record)
    return 100 * (took_ms / alone_ms - 1) if took_ms and alone_ms else None


def head_table(record: Record) -> str:
    rows: list[Sequence[Any]] = [
        (f"products alone, chunks of {rows}", row["median_ms"], None, None, None)
        for rows, row in record.get("products", {}).items()
    ]
    rows += [
        (
            name,
            row.get("median_ms"),
            row.get("least_ms"),
            row.get("peak_over_base_gib"),
            beyond_pct(row, record),
        )
        if "error" not in row
        else (name, row["error"], None, None, None)
        for name, row in record["heads"].items()
    ]
    header = ("head", "median, ms", "least, ms", "peak over base, GiB", "beyond products, %")
    return table(header, rows)


def steps_table(record: Record) -> str:
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
            row.get("warm_up_s"),
            row.get("warm_up_j"),
        )
        for name, row in record.items()
    ]
    rates = ("step", "tokens/s", "TFLOP/s", "MFU", "of limit", "J/token", "peak, GiB", "plan, GiB")
    return table((*rates, "first two, s", "first two, J"), rows)


def sweep_rows(path: Path) -> Iterator[tuple[str, Record]]:
    """Name of each run, and its windows by name."""
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if member.name.endswith("/stages.jsonl"):
                file = archive.extractfile(member)
                assert file
                lines = file.read().decode().splitlines()
                whole = [line for line in lines if line.endswith("}")]  # The last may be torn.
                rows = {row["window"]: row for row in map(json.loads, whole)}
                yield Path(member.name).parent.name, rows


def sweep_table(path: Path) -> str:
    """Joules and rate of training in each run of the sweep."""
    told = []
    for name, windows in sorted(sweep_rows(path)):
        row = windows.get("run/distill/train", {})
        energy_j, tokens = row.get("energy_j", {}).get("gpu"), row.get("tokens")
        duration_s = row.get("duration_s")
        told.append(
            (
                name,
                duration_s,
                energy_j,
                row.get("sampled_energy_j", {}).get("gpu"),
                tokens / duration_s if tokens and duration_s else None,
                1e3 * energy_j / tokens if energy_j and tokens else None,
                row.get("method", {}).get("gpu"),
            )
        )
    header = ("run", "training, s", "GPU, J", "samples, J", "tokens/s", "mJ/token", "method")
    return table(header, told)


def verdict(figure: float | None, is_met: bool) -> str:
    return "not measured" if figure is None else "met" if is_met else "not met"


def bars(records: dict[str, Any]) -> list[tuple[str, float | None, str, str]]:
    """What is held against a bar: name, figure, bar, and met, not met or not measured.

    A rehearsal on a CPU measures nothing that is held against a bar.
    """
    verdicts = records.get("doctor.json", {}).get("verdicts", [])
    counter = next((one for one in verdicts if one["name"] == "counter_agreement"), {})
    pct = counter.get("value")
    worst = None if pct is None else abs(pct)
    told = [
        (
            "counter beside the integral of power, %",
            worst,
            f"at most {COUNTER_PCT:g}",
            verdict(worst, worst is not None and worst <= COUNTER_PCT),
        )
    ]
    head = records.get("head.json", {})
    if head.get("gpu", "CPU") == "CPU":
        head = {"heads": {}}
    for term in TERMS:
        mine = head["heads"].get(OURS.format(term=term), {})
        other = head["heads"].get(f"liger {term}", {})
        for key, unit in (("median_ms", "ms"), ("peak_over_base_gib", "GiB")):
            figure, least = mine.get(key), other.get(key)
            known = None if least is None else figure
            bar = "below Liger's" if least is None else f"below Liger's {shown(least)}"
            is_met = known is not None and least is not None and known < least
            told.append((f"head, {term}, {unit}", figure, bar, verdict(known, is_met)))
        beyond = beyond_pct(mine, head)
        told.append(
            (
                f"head, {term}, beyond products, %",
                beyond,
                f"at most {PRODUCTS_PCT:g}",
                verdict(beyond, beyond is not None and beyond <= PRODUCTS_PCT),
            )
        )
    steps = records.get("steps.json", {})
    for name in steps or ("step",):
        row = steps.get(name, {})
        mfu, share = row.get("mfu"), row.get("peak_over_plan")
        told.append(
            (f"{name}, MFU", mfu, f"at least {MFU:g}", verdict(mfu, (mfu or 0.0) >= MFU)),
        )
        is_near = share is not None and abs(share - 1) <= MEMORY
        least, most = 1 - MEMORY, 1 + MEMORY
        told.append(
            (
                f"{name}, peak over the plan's",
                share,
                f"{least:g} to {most:g}",
                verdict(share, is_near),
            )
        )
    return told


TABLES = {
    "facts.json": facts_lines,
    "doctor.json": doctor_table,
    "tests.jsonl": tests_lines,
    "head.json": head_table,
    "steps.json": steps_table,
}


def read(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return json.loads(path.read_text())


def together(folders: Sequence[Path]) -> dict[str, Any]:
    """The records of all folders by name."""
    records: dict[str, Any] = {}
    for folder in folders:
        for name in TABLES:
            if (folder / name).is_file():
                found = read(folder / name)
                earlier = records.get(name, {}) if name == "steps.json" else None
                records[name] = found if earlier is None else earlier | found
    return records


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]]
    records = together(folders)
    print(table(("what", "figure", "bar", "is"), bars(records)), end="\n\n")
    for name, tell in TABLES.items():
        print(tell(records[name]) if name in records else f"There is no {name}.", end="\n\n")
    sweeps = [folder / "sweep.tar.gz" for folder in folders]
    known = [sweep for sweep in sweeps if sweep.is_file()]
    print(sweep_table(known[-1]) if known else "There is no sweep.tar.gz.")


if __name__ == "__main__":
    main()
