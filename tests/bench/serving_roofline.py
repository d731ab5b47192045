"""The plan's estimate of serving under load beside what vLLM does on this machine's CPU.

`python -m tests.bench.serving_roofline --vllm-python PATH student=DIR teacher=DIR`. It measures the
rate at which products of one row read memory, and the rate of products of many rows, on as many
cores as vLLM computes with; predicts; then measures each model behind vLLM by `python -m
kdwatts.serving`, one at a time. Both in one run, so that the machine is the same. Nothing else may
run on it. It takes about five minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from kdwatts.config.pair import Architecture
from kdwatts.planning.load_estimates import Limits, LoadEstimate, estimate_load
from kdwatts.planning.serving_roofline import Device, Range, Served, Tokens

REPOSITORY = Path(__file__).parents[2]
MOST_AT_ONCE = 128  # vLLM's own limit on a CPU.
FLOAT32_BYTES = 4


def main() -> None:
    """Print the machine's rates, and a line for each model and load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="NAME=DIR")
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--concurrency", default="1,4,16")
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--min-window-s", type=float, default=12.0)
    parser.add_argument("--max-window-s", type=float, default=45.0)
    parser.add_argument("--cores", type=int, help="cores that vLLM computes with")
    options = parser.parse_args()
    # vLLM 0.32 leaves one core to its scheduler.
    cores = options.cores or max(1, (psutil.cpu_count(logical=False) or 2) - 1)
    tokens = Tokens(options.prompt_tokens, options.output_tokens)
    device = _rates(cores)
    print(
        f"{cores} core{'s' if cores > 1 else ''}: {device.bytes_per_s / 1e9:.1f} GB/s, "
        f"{device.flop_per_s / 1e9:.0f} GFLOP/s in float32\n"
    )
    print("| model | at once | tokens/s, estimated | measured | TPOT, ms, estimated | measured p50 "
          "| in both ranges | verdict |")  # fmt: skip
    print("| --- " * 8 + "|")
    for named in options.models:
        name, _, folder = named.partition("=")
        model = Served(name, _shape(Path(folder)), FLOAT32_BYTES)
        for point in _measured(folder, options):
            found = estimate_load(
                model,
                tokens,
                device,
                Limits(MOST_AT_ONCE),
                level=point["level"],
                is_closed=True,
            )
            print(_line(name, found, point), flush=True)


def _rates(cores: int) -> Device:
    """Bytes and operations a second of this machine, each the best of a few tries."""
    import torch

    torch.set_num_threads(cores)
    # Half a GB of matrices of SmolLM2's size, which no cache holds.
    matrices = [torch.randn(1536, 576) for _ in range(150)]
    row, rows = torch.randn(1, 576), torch.randn(768, 576)

    def multiply(left: torch.Tensor, among: list[torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            for matrix in among:
                torch.nn.functional.linear(left, matrix)

        return run

    reading_s = _best_s(multiply(row, matrices), times=15)
    product_s = _best_s(multiply(rows, matrices[:10]), times=15)
    num_weights = matrices[0].numel()
    return Device(
        bytes_per_s=len(matrices) * num_weights * FLOAT32_BYTES / reading_s,
        flop_per_s=10 * 2 * len(rows) * num_weights / product_s,
    )


def _best_s(run: Callable[[], None], *, times: int) -> float:
    seconds = []
    for _ in range(times):
        started_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def _shape(folder: Path) -> Architecture:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return Architecture(
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab_size=config["vocab_size"],
        tied_head=config["tie_word_embeddings"],
        max_positions=config["max_position_embeddings"],
    )


def _measured(folder: str, options: Any) -> list[dict[str, Any]]:
    """The points of one fresh server, in the order of the loads."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        command = [sys.executable, "-m", "kdwatts.serving", "--model", folder, "--engine", "vllm"]
        command += ["--vllm-python", options.vllm_python, "--concurrency", options.concurrency]
        command += ["--prompt-tokens", str(options.prompt_tokens)]
        command += ["--output-tokens", str(options.output_tokens), "--out", str(out)]
        command += ["--min-window-s", str(options.min_window_s)]
        command += ["--max-window-s", str(options.max_window_s), "--parking-s", "0"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{folder}: {done.stderr.strip()}")
        return json.loads((out / "serving.json").read_text("utf-8"))[0]["points"]


def _line(name: str, found: LoadEstimate, point: dict[str, Any]) -> str:
    tokens_per_s = point["output_tokens_per_s"]["value"]
    tpot_ms = point["tpot_s"]["p50"]["value"] * 1000
    assert found.tpot_s
    expected_ms = Range(1000 * found.tpot_s.low, 1000 * found.tpot_s.high)
    pairs = ((found.output_tokens_per_s, tokens_per_s), (expected_ms, tpot_ms))
    is_held = all(expected.low <= value <= expected.high for expected, value in pairs)
    cells = [name, f"{point['level']:g}"]
    for expected, value in pairs:
        cells += [f"{expected.low:.3g} to {expected.high:.3g}", f"{value:.3g}"]
    return "| " + " | ".join([*cells, "yes" if is_held else "no", point["verdict"]]) + " |"


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
