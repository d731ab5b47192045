"""What a training run reports: rows of train.jsonl, lines of the log, and the progress bar."""

from __future__ import annotations

import logging
from typing import Any

import torch
from tqdm import tqdm

from kdwatts.records.files import append_jsonl
from kdwatts.records.schema import SCHEMA
from kdwatts.training.checkpoint import Progress
from kdwatts.training.forward_backward import StepLoss
from kdwatts.training.parallel import rank, summed
from kdwatts.training.training_run import TrainingRun

log = logging.getLogger(__name__)


def step_bar(run: TrainingRun, first: int) -> tqdm:
    """The steps from `first` on, with a progress bar on a terminal of the first rank."""
    return tqdm(
        range(first, run.num_steps),
        initial=first,
        total=run.num_steps,
        disable=True if rank() else None,
        unit="step",
        dynamic_ncols=True,
    )


def step_row(
    run: TrainingRun, progress: Progress, outcome: StepLoss, learning_rate: float
) -> dict[str, Any]:
    """The row of a step, with the losses of all ranks. Every rank must call it."""
    numbers = (outcome.grad_norm, outcome.loss, *outcome.terms.values())
    # One read: each would wait for the device.
    grad_norm, *parts = torch.stack([number.double() for number in numbers]).tolist()
    loss, *terms = summed(parts)
    return {
        **row_head(run, progress, split="train"),
        "learning_rate": learning_rate,
        "grad_norm": grad_norm,
        "loss": loss,
        **dict(zip(outcome.terms, terms, strict=True)),
    }


def report(run: TrainingRun, row: dict[str, Any], bar: tqdm, elapsed_s: float) -> None:
    """Append the row of a step. Log and bar get loss, speed, power and energy per token."""
    if rank():
        return
    append_jsonl(run.log_path, row)
    energy_j, power_w = run.window.so_far().value, run.meter.power_of_all_nodes_w()
    text = step_figures(row["loss"], run.window.tokens, elapsed_s, energy_j, power_w)
    bar.set_postfix_str(text)
    log.info("distill: %d/%d steps, %s", row["step"], run.num_steps, text)


def step_figures(
    loss: float, tokens: int, elapsed_s: float, energy_j: float | None, power_w: float | None
) -> str:
    """The figures of a log line. Energy per token is among them where both parts are known."""
    figures = [f"loss {loss:.3f}", f"{tokens / elapsed_s:,.0f} tokens/s"]
    if power_w is not None:
        figures.append(f"{power_w:,.0f} W")
    if energy_j is not None and tokens:  # Steps of prompts alone bear no token.
        figures.append(f"{1000 * energy_j / tokens:.3g} mJ/token")
    return ", ".join(figures)


def row_head(run: TrainingRun, progress: Progress, *, split: str) -> dict[str, Any]:
    """The first fields of a row of train.jsonl: which rows it is about, and how far training is."""
    return {
        "schema": SCHEMA,
        "attempt": run.attempt,
        "split": split,
        "step": progress.step,
        "tokens": progress.num_targets,
        "seconds": round(progress.train_duration_s, 3),
    }
