"""Model FLOP utilisation of a distillation step: `python tests/bench/step_mfu.py gpu=h100`.

The pair of `model` (llama31_8b_to_1b unless told otherwise) is built with random weights on the
device, nothing is downloaded; the words of the command line are overrides as for kdwatts. A step is
the student's forward and backward pass and the head on `--micro-batches` batches of random tokens,
and the optimizer's step; with `--signals online` the live teacher's forward pass for dense logits,
too, with `cached` its top tokens are made beforehand and lie on the device. Useful operations are
those of products and causal attention of the models that run, the student's three times
(recomputation does not count); MFU is over the data sheet's dense bfloat16 rate, the fraction of
limit over the rate that one large product reaches here in the same run. The meter's joules are of
all timed steps. `training.compile=true` compiles the student and the live teacher; what that takes,
with the first two steps, is a window of its own. `--out DIR` writes it all to step-NAME.json.
"""

from __future__ import annotations

import argparse
import functools
import operator
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.config.machine import Telemetry
from kdwatts.doctor.speed.machine_rates import product_windows
from kdwatts.doctor.speed.pair_step import Steps, useful_flop
from kdwatts.doctor.speed.timed_windows import wait
from kdwatts.memory.budget import estimate
from kdwatts.planning.demands import workload_of
from kdwatts.records.files import read_jsonl, write_json
from kdwatts.records.schema import StageRow
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.nvml import list_gpus

GIB = 1 << 30
SIGNALS = {
    "online": ["paradigm.teacher=online", "paradigm.response.support=dense"],
    "cached": ["paradigm.teacher=cached"],
}


def figures(
    config: Config, device: torch.device, times_s: list[float], tokens: int, row: StageRow
) -> dict[str, Any]:
    """The step's rates and joules, beside the plan's memory."""
    length, training = config.training.sequence_length, config.training
    operations = useful_flop(config, tokens)
    seconds = statistics.median(times_s)
    products, product_flop, _ = product_windows(device, training.precision, seconds=2)
    limit = products.best(product_flop)
    peak_tflops = config.gpu.bf16_dense_tflops if training.precision == "bf16" else None
    energy_j = row.energy_j.get("gpu")
    return {
        "pair": config.model.name,
        "precision": training.precision,
        "micro_batch": training.micro_batch,
        "sequence_length": length,
        "gradient_checkpointing": training.gradient_checkpointing,
        "compile": training.is_compiled,
        "chunk_rows": training.rows_at_once,
        "signals": config.paradigm.teacher,
        "tokens_a_step": tokens,
        "seconds": times_s,
        "tokens_per_s": tokens / seconds,
        "tflop_a_step": operations / 1e12,
        "tflop_per_s": operations / seconds / 1e12,
        "fraction_of_limit": operations / seconds / limit,
        "product_tflop_per_s": limit / 1e12,
        "mfu": operations / seconds / 1e12 / peak_tflops if peak_tflops else None,
        "energy_j": energy_j,
        "sampled_energy_j": row.sampled_energy_j.get("gpu"),
        "window_s": row.duration_s,
        "uncertainty_j": row.uncertainty_j.get("gpu"),
        "method": row.method.get("gpu"),
        "j_per_token": energy_j / tokens / len(times_s) if energy_j else None,
        "planned_gib": estimate(workload_of(config)).total_gib,
    }


def clocks_of(path: Path) -> dict[str, Any]:
    """What slowed the GPU in the timed steps: its clocks, and NVML's bits for why they were low."""
    rows = (
        [row for row in read_jsonl(path) if row.get("window") == "run/steps"]
        if path.is_file()
        else []
    )
    clocks_mhz = [row["sm_clock_mhz"] for row in rows if row.get("sm_clock_mhz") is not None]
    reasons = [row["throttle_reasons"] for row in rows if row.get("throttle_reasons") is not None]
    return {
        "least_sm_clock_mhz": min(clocks_mhz, default=None),
        "most_sm_clock_mhz": max(clocks_mhz, default=None),
        "throttle_reasons": functools.reduce(operator.or_, reasons) if reasons else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--micro-batches", type=int, default=2)
    parser.add_argument("--signals", choices=sorted(SIGNALS), default="online")
    parser.add_argument("--out", type=Path, help="folder for step-NAME.json")
    parser.add_argument("--name", default="step")
    given = parser.parse_intermixed_args()
    words = ["model=llama31_8b_to_1b", "paradigm=response", *SIGNALS[given.signals]]
    config = to_config(resolve_gpu(compose([*words, *given.overrides]), list_gpus()))
    training, device = config.training, torch.device(config.gpu.device)
    tokens = given.micro_batches * training.micro_batch * training.sequence_length
    with tempfile.TemporaryDirectory() as folder:
        with Meter(Path(folder), Telemetry(), use_gpus=device.type == "cuda") as meter:
            began = time.perf_counter()
            steps = Steps(config, device, given.micro_batches)
            made_s = time.perf_counter() - began
            is_compiled = config.training.is_compiled
            with meter.window(
                "compile" if is_compiled else "warm_up", synchronize=lambda: wait(device)
            ) as before:
                if is_compiled:
                    steps.compile()
                for _ in range(2):
                    steps.take()
            if device.type == "cuda":
                torch.cuda.empty_cache()  # What making the models took is no part of a step.
                torch.cuda.reset_peak_memory_stats(device)
            times_s = []
            with meter.window("steps", synchronize=lambda: wait(device)) as window:
                for _ in range(given.steps):
                    started = time.perf_counter()
                    steps.take()
                    wait(device)
                    times_s.append(time.perf_counter() - started)
            assert window.row is not None and before.row is not None
            peak_gib = (
                torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None
            )
            record = figures(config, device, times_s, tokens, window.row)
        clocks = clocks_of(Path(folder, "telemetry.jsonl"))
    record |= clocks | {
        "made_s": made_s,
        "warm_up_s": before.row.duration_s,
        "warm_up_j": before.row.energy_j.get("gpu"),
        "peak_gib": peak_gib,
        "peak_over_plan": peak_gib / record["planned_gib"] if peak_gib else None,
    }
    record["gpu"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if given.out:
        write_json(given.out / f"step-{given.name}.json", record)
    print(f"{record['pair']}, {record['precision']}, {tokens:,} tokens a step, {given.steps} steps")
    for key in (
        *("gpu", "signals", "compile", "tokens_per_s", "tflop_per_s", "product_tflop_per_s"),
        *("fraction_of_limit", "mfu", "j_per_token", "peak_gib", "planned_gib"),
        *("peak_over_plan", "made_s", "warm_up_s", "warm_up_j"),
    ):
        value = record[key]
        print(f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}")


if __name__ == "__main__":
    main()
