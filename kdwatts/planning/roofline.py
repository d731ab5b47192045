"""Hours and kWh by the card's figures: its arithmetic, its bandwidth, its power."""

from __future__ import annotations

from kdwatts.config import Config
from kdwatts.models.budget import GIB, Budget
from kdwatts.models.writing import estimate_writing

REACHED = (1 / 2, 1 / 3)
"""Shares of a card's peak rate at which training is expected; four large models reached 21 to 46 %
(Chowdhery et al. 2022, arXiv 2204.02311, table 3)."""
OPTIMIZER_BYTES = 28
"""Per trained parameter and step, in float32: weight, gradient and two moments read, weight and
moments written."""


def time_lines(config: Config, budget: Budget) -> list[str]:
    peak, tdp_w = config.gpu.bf16_dense_tflops, config.gpu.tdp_w
    if not peak or not tdp_w:
        return []
    training = config.training
    writing = estimate_writing(config)
    pflop = budget.train_pflop + budget.teacher_pflop + (writing.pflop if writing else 0.0)
    tokens_per_step = training.micro_batch * training.accumulation * training.sequence_length
    num_steps = training.target_tokens / tokens_per_step
    moved_s = 0.0
    if config.gpu.memory_bandwidth_gb_s:
        bytes_per_step = OPTIMIZER_BYTES * budget.trained_params
        moved_s = num_steps * bytes_per_step / (config.gpu.memory_bandwidth_gb_s * 1e9)
    least_h, low_h, high_h = (
        (pflop * 1e3 / (peak * share) + moved_s) / 3600 for share in (1.0, *REACHED)
    )
    kwh = [hours * tdp_w / 1000 for hours in (least_h, low_h, high_h)]
    return [
        f"expected on one card: {low_h:,.2f} to {high_h:,.2f} h, {kwh[1]:,.2f} to {kwh[2]:,.2f} "
        f"kWh at a half to a third of its {peak:,.0f} TFLOP/s and all of its {tdp_w:,.0f} W; at "
        f"least {least_h:,.2f} h, {kwh[0]:,.2f} kWh"
    ]


def serving_lines(config: Config, budget: Budget) -> list[str]:
    """A decoding step reads every weight once, whatever the batch: no card is faster than that."""
    bandwidth_gb_s = config.gpu.memory_bandwidth_gb_s
    if not bandwidth_gb_s:
        return []
    sizes_gib = {"student": budget.student_served_gib, "teacher": budget.teacher_weights_gib}
    steps = [
        f"{subject} {bandwidth_gb_s * 1e9 / (size_gib * GIB):,.0f} steps/s"
        for subject, size_gib in sizes_gib.items()
        if size_gib
    ]
    return [f"decoding at the card's {bandwidth_gb_s:,.0f} GB/s, at most: {', '.join(steps)}"]
