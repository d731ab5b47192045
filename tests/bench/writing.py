"""Seconds, processor time and joules per token of a text, by our own loop and by engines.

`python -m tests.bench.writing --teacher DIR --vllm-python PATH` has one teacher continue the same
prompts of the tiny corpus by each engine, as the stage `generate` does, and prints them side by
side. Loading the model by our loop stands apart, as the start and the end of an engine do. The
likeliest token is taken each time, so the last column says which share of the tokens is our loop's.
Processor time is that of the whole run, the server's processes included. Nothing else may run on
the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
TDP_W, THREADS = 280.0, 128
"""Of the estimate: an AMD EPYC 7763, as telemetry.cpu_tdp_source says."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    engine: str
    tokens: int
    start_s: float
    """Of the start and the end."""
    start_j: float | None
    ms_per_token: float
    cpu_ms_per_token: float | None
    j_per_token: float | None
    quality: str
    as_by_the_loop_pct: float | None


def main() -> None:
    """Print one line for each engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", required=True, help="folder of SmolLM2-135M")
    parser.add_argument("--engines", default="loop,transformers,vllm")
    parser.add_argument("--vllm-python")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    print("| written by | tokens | start s | start J | ms/token | CPU ms/token | J/token | joules "
          "| as by the loop % |")  # fmt: skip
    print("| --- " * 9 + "|")
    texts: list[list[int]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for engine in options.engines.split(","):
            row = _row(engine, Path(scratch), options, texts)
            print("| " + " | ".join(map(_cell, vars(row).values())) + " |", flush=True)


def _row(engine: str, scratch: Path, options: Any, texts: list[list[int]]) -> Row:
    """One run until its text is written, which is added to `texts`; the first one is our loop's."""
    from kdwatts.data.shards import TokenShards
    from kdwatts.records.files import read_jsonl
    from tests import whole_runs

    overrides = [
        *(
            "paradigm=sequence",
            "model=smollm2_135m_to_81m",
            f"model.teacher.path={options.teacher}",
        ),
        *(f"model.tokenizer={options.teacher}", "training=smoke", "training.precision=fp32"),
        *("gpu=cpu", "eval=none", "until=generate", "data.num_documents=64"),
        f"paradigm.generate.engine={engine}",
        f"paradigm.generate.num_prompts={options.prompts}",
        f"paradigm.generate.new_tokens={options.new_tokens}",
        f"paradigm.generate.batch_size={options.at_once}",
        "paradigm.generate.temperature=0",
        *("telemetry.cpu_estimate=tdp", f"telemetry.cpu_tdp_w={TDP_W:g}"),
        f"telemetry.cpu_tdp_threads={THREADS}",
    ]
    if engine == "vllm" and options.vllm_python:
        overrides.append(f"eval.serving.vllm.python={options.vllm_python}")
    whole_runs.run(scratch / engine, f"store_dir={scratch / 'store'}", *overrides)
    shards = TokenShards(whole_runs.artifact_of(scratch / "store", "generate", *overrides))
    texts.append(shards.read(0, shards.num_tokens).tolist())
    rows = {row["window"]: row for row in read_jsonl(scratch / engine / "stages.jsonl")}
    whole = rows["run/generate"]
    names = [f"run/generate/{name}" for name in ("load", "stop")]
    beside = [rows[name] for name in names if name in rows]
    tokens, start_s = whole["tokens"], sum(row["duration_s"] for row in beside)
    spent_j, parts_j = _joules(whole), [_joules(row) for row in beside]
    start_j = None if None in parts_j else sum(filter(None, parts_j))
    own_j = None if spent_j is None or start_j is None else spent_j - start_j
    quality = whole["quality"]["cpu"]
    # An estimate is processor time at a rated power, so it says the time, too.
    cpu_s = own_j * THREADS / TDP_W if own_j is not None and quality == "estimated" else None
    return Row(
        engine=shards.index["source"].get("written_with", "our own loop"),
        tokens=tokens,
        start_s=start_s,
        start_j=start_j,
        ms_per_token=1000 * (whole["duration_s"] - start_s) / tokens,
        cpu_ms_per_token=None if cpu_s is None else 1000 * cpu_s / tokens,
        j_per_token=None if own_j is None else own_j / tokens,
        quality=quality,
        as_by_the_loop_pct=_shared(texts[0], texts[-1]),
    )


def _joules(row: dict[str, Any]) -> float | None:
    parts = [joules for joules in row["energy_j"].values() if joules is not None]
    return sum(parts) if parts else None


def _shared(one: Sequence[int], other: Sequence[int]) -> float | None:
    """Per cent of positions with the same token; None where the lengths differ."""
    if len(one) != len(other):
        return None
    return 100 * sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(REPOSITORY))
    main()
