"""Joules and processor time per token of one or more models behind each engine, and by our loop.

`python tests/bench/serving_engines.py student=DIR teacher=DIR --vllm-python PATH`. Each engine is
started anew for each model by `python -m kdwatts.serving`, one at a time; the eager loop serves the
same prompts at the same lengths, with a batch as large as the load. Processor time is that of the
server's processes alone. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdwatts.metrics.student_t import to_half_width

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    engine: str
    model: str
    at_once: float
    cpu_ms_per_token: float | None
    j_per_output_token: str
    tokens_per_s: float | None
    ttft_p50_s: float | None
    tpot_p50_s: float | None
    verdict: str


def main() -> None:
    """Print one line for each engine, model and load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--engines", default="loop,transformers,vllm")
    parser.add_argument("--concurrency", default="1,4,16")
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--vllm-python")
    parser.add_argument("--tdp", type=float, default=280.0, help="rated W of the processor")
    parser.add_argument("--threads", type=int, default=128, help="its hardware threads")
    parser.add_argument("--min-window-s", type=float, default=30.0)
    parser.add_argument("--parking-settle-s", type=float, default=10.0)
    options = parser.parse_args()
    print("| engine | model | at once | CPU ms/token | J/output token | tokens/s | TTFT p50 s "
          "| TPOT p50 s | verdict |")  # fmt: skip
    print("| --- " * 9 + "|")
    for engine in options.engines.split(","):
        for model in options.models:
            name, _, folder = model.partition("=")
            for row in (_loop if engine == "loop" else _served)(engine, name, folder, options):
                print("| " + " | ".join(map(_cell, vars(row).values())) + " |", flush=True)


def _served(engine: str, name: str, folder: str, options: Any) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        command = [sys.executable, "-m", "kdwatts.serving", "--model", folder, "--engine", engine]
        command += ["--concurrency", options.concurrency, "--out", str(out)]
        command += ["--prompt-tokens", str(options.prompt_tokens)]
        command += ["--output-tokens", str(options.output_tokens)]
        command += ["--min-window-s", str(options.min_window_s)]
        command += ["--parking-settle-s", str(options.parking_settle_s)]
        command += ["--cpu-estimate-tdp", str(options.tdp)]
        command += ["--cpu-estimate-threads", str(options.threads)]
        if engine == "vllm" and options.vllm_python:
            command += ["--vllm-python", options.vllm_python]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{engine} {name}: {done.stderr.strip()}")
        records = json.loads((out / "serving.json").read_text("utf-8"))
    return [_row(records[0], point, name) for point in records[0]["points"]]


def _row(record: dict[str, Any], point: dict[str, Any], name: str) -> Row:
    tokens, energy = point["output_tokens"], point["j_per_output_token"]
    return Row(
        engine=f"{record['engine']['name']} {record['engine']['version']}",
        model=name,
        at_once=point["level"],
        cpu_ms_per_token=1000 * point["server_cpu_s"] / tokens if tokens else None,
        j_per_output_token=_with_interval(energy),
        tokens_per_s=point["output_tokens_per_s"]["value"],
        ttft_p50_s=point["ttft_s"]["p50"]["value"],
        tpot_p50_s=point["tpot_s"]["p50"]["value"],
        verdict=point["verdict"],
    )


def _loop(engine: str, name: str, folder: str, options: Any) -> list[Row]:
    """The eager loop in this process, with a batch as large as each load."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kdwatts.config.evaluation import InferenceGrid
    from kdwatts.config.machine import Telemetry
    from kdwatts.serving.eager_loop import serving_costs
    from kdwatts.serving.serving_command import HELD_OUT
    from kdwatts.serving.serving_text import prompts_of_file
    from kdwatts.telemetry.meter import Meter

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    grid = InferenceGrid(
        batch_sizes=[int(number) for number in options.concurrency.split(",")],
        prompt_lengths=[options.prompt_tokens],
        new_lengths=[options.output_tokens],
        min_window_s=5.0,
        max_repeats=5,
    )
    settings = Telemetry(cpu_estimate="tdp", cpu_tdp_w=options.tdp, cpu_tdp_threads=options.threads)
    prompts = prompts_of_file(HELD_OUT, AutoTokenizer.from_pretrained(folder))
    with (
        tempfile.TemporaryDirectory() as scratch,
        Meter(Path(scratch), settings, use_gpus=False) as meter,
    ):
        costs = serving_costs(
            model, prompts, grid, meter=meter, synchronize=lambda: None, subject=name
        )
    rows = []
    for cost in costs:
        # Joules of a whole request over the tokens that it wrote, as behind an engine.
        whole = (cost.total_j_per_token or 0.0) * (cost.prompt_tokens + cost.new_tokens)
        written_j = whole / cost.new_tokens
        seconds = cost.prefill.latency_p50_s + cost.new_tokens * cost.decode.latency_p50_s
        rows.append(
            Row(
                engine="eager loop",
                model=name,
                at_once=cost.batch_size,
                cpu_ms_per_token=1000 * written_j * options.threads / options.tdp,
                j_per_output_token=f"{written_j:.3g}",
                tokens_per_s=cost.batch_size * cost.new_tokens / seconds,
                ttft_p50_s=cost.prefill.latency_p50_s,
                tpot_p50_s=cost.decode.latency_p50_s,
                verdict="",
            )
        )
    return rows


def _with_interval(energy: dict[str, Any]) -> str:
    """The value with half of the 95 % interval of what repeats average out."""
    value, sd = energy["value"], energy["random_sd"]
    if value is None:
        return "-"
    half = None if sd is None else to_half_width(sd, energy["degrees"] or math.inf)
    return f"{value:.3g}" if half is None else f"{value:.3g} ± {half:.1g}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
