"""Model FLOP utilisation of a distillation step: `python tests/bench/step_mfu.py gpu=h100`.

The pair of `model` (llama31_8b_to_1b unless told otherwise) is built with random weights on the
device, nothing is downloaded; the words of the command line are overrides as for kdwatts. A step is
the live teacher's forward pass, the student's forward and backward pass and the head, on
`--micro-batches` batches of random tokens, without the optimizer. Useful operations are those of
both models' products and causal attention, the teacher's once, the student's three times
(recomputation does not count); MFU is over the data sheet's dense bfloat16 rate, the fraction of
limit over the rate that one large product reaches here in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from kdwatts.config import to_config
from kdwatts.data.packing import IGNORE, Batch
from kdwatts.hardware import resolve_gpu
from kdwatts.models.load import head_bias, head_weight, load_model
from kdwatts.models.recomputing import recompute_blocks
from kdwatts.models.shape import forward_flops_per_token
from kdwatts.models.sharding import place
from kdwatts.preflight import compose
from kdwatts.stages.work import compared_rows, frozen_dtype, plan_signals, teacher_source
from kdwatts.teacher.signals import compute_signals
from kdwatts.telemetry.nvml import list_gpus
from kdwatts.training.objective import Objective
from kdwatts.training.precision import autocast

GIB = 1 << 30


def random_batch(sequences: int, length: int, vocabulary: int, device: torch.device) -> Batch:
    tokens_BT = torch.randint(vocabulary, (sequences, length), device=device)
    target_BT = F.pad(tokens_BT[:, 1:], (0, 1), value=IGNORE)
    return Batch(np.arange(sequences), tokens_BT, target_BT)


def product_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second of one square product, the best of ten."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(10):
        wait(device)
        started = time.perf_counter()
        left @ right
        wait(device)
        times.append(time.perf_counter() - started)
    return 2.0 * size**3 / min(times)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--micro-batches", type=int, default=2)
    given = parser.parse_args()
    overrides = ["paradigm=response", "paradigm.teacher=online", "paradigm.response.support=dense"]
    tree = compose(["model=llama31_8b_to_1b", *overrides, *given.overrides])
    config = to_config(resolve_gpu(tree, list_gpus()))
    training, pair = config.training, config.model
    device = torch.device(config.gpu.device)
    torch.manual_seed(0)
    with device:
        teacher = load_model(replace(teacher_source(config), path=None), dtype=frozen_dtype(config))
        student = load_model(replace(pair.student, path=None), dtype=torch.float32)
    if training.gradient_checkpointing:
        recompute_blocks(student)
    place(student, device, sharded=False)
    student.train()
    plan = plan_signals(config, [])
    objective = Objective(
        config.paradigm,
        [],
        plan,
        vocabulary=compared_rows(config)[0],
        student_width=pair.student.architecture.hidden_size,
        teacher_width=teacher_source(config).architecture.hidden_size,
        chunk_rows=training.chunk_rows,
        teacher_head_VD=head_weight(teacher).detach(),
        teacher_bias_V=head_bias(teacher),
        seed=0,
    ).to(device)
    batches = [
        random_batch(training.micro_batch, training.sequence_length, plan.vocabulary, device)
        for _ in range(given.micro_batches)
    ]

    def step() -> None:
        size = objective.step_size(batches)
        for batch in batches:
            with autocast(training.precision, device):
                signals = compute_signals(teacher, batch.input_BT, plan, rows=batch.rows)
                loss, _ = objective.micro_batch_loss(student, batch, signals, size)
            loss.backward()
        student.zero_grad(set_to_none=True)

    times = []
    for _ in range(2 + given.steps):
        wait(device)
        started = time.perf_counter()
        step()
        wait(device)
        times.append(time.perf_counter() - started)
    tokens = given.micro_batches * training.micro_batch * training.sequence_length
    operations = tokens * (
        forward_flops_per_token(teacher_source(config).architecture, training.sequence_length)
        + 3 * forward_flops_per_token(pair.student.architecture, training.sequence_length)
    )
    seconds = statistics.median(times[2:])
    rate = operations / seconds
    print(f"{pair.name}, {training.precision}, {tokens:,} tokens a step, {given.steps} steps")
    print(f"{seconds * 1e3:,.0f} ms a step, {tokens / seconds:,.0f} tokens/s")
    print(f"{operations / 1e12:,.2f} TFLOP a step, {rate / 1e12:,.3f} TFLOP/s")
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    limit = product_rate(device, dtype, 8192 if device.type == "cuda" else 1024)
    print(f"fraction of limit {rate / limit:.2f}: a product reaches {limit / 1e12:,.3f} TFLOP/s")
    if config.gpu.bf16_dense_tflops and training.precision == "bf16":
        print(f"MFU {rate / config.gpu.bf16_dense_tflops / 1e12:.2f} of the data sheet's rate")
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / GIB
        print(f"peak memory {peak:.1f} GiB on {torch.cuda.get_device_name(device)}")


if __name__ == "__main__":
    main()
