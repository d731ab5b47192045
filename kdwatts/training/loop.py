"""The training loop: plain torch, readable from top to bottom."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from kdwatts import interrupt
from kdwatts.data.packing import Batch, Schedule, load_batch
from kdwatts.data.shards import TokenShards
from kdwatts.records import SCHEMA, append_jsonl
from kdwatts.schema import Training
from kdwatts.teacher.signals import Signals
from kdwatts.telemetry.meter import Meter, OpenWindow
from kdwatts.training import checkpoint
from kdwatts.training.checkpoint import Progress
from kdwatts.training.objective import Objective, StepSize
from kdwatts.training.optim import learning_rate_at, make_optimizer, set_learning_rate

log = logging.getLogger(__name__)

SignalReader = Callable[[Batch], Signals | None]
"""Teacher signals of a batch: read from a cache, or None."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 arithmetic over float32 parameters for `bf16`; nothing for `fp32`."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def warm_up(
    student: nn.Module,
    objective: Objective,
    schedule: Schedule,
    shards: TokenShards,
    settings: Training,
    *,
    device: torch.device,
    read_signals: SignalReader,
    live_signals: SignalReader,
) -> None:
    """One forward and backward pass, for what the first one builds: compiled code, its caches.

    Weights, random state and gradients are left as they were.
    """
    student.train()
    rows = schedule.rows_of_step(0)[: settings.micro_batch]
    batch = _to_device(load_batch(shards, rows, settings.sequence_length), device)
    size = StepSize(batch.num_targets, len(rows), settings.sequence_length)
    with torch.random.fork_rng():
        with autocast(settings.precision, device):
            cached = read_signals(batch)
            said = cached if cached is not None else live_signals(batch)
            loss, _ = objective.micro_batch_loss(student, batch, said, size)
        loss.backward()
    for module in (student, objective.projectors):
        module.zero_grad(set_to_none=True)


def train(
    student: nn.Module,
    objective: Objective,
    schedule: Schedule,
    shards: TokenShards,
    settings: Training,
    *,
    device: torch.device,
    read_signals: SignalReader,
    live_signals: SignalReader,
    meter: Meter,
    window: OpenWindow,
    checkpoint_dir: Path,
    log_path: Path,
    attempt: int,
) -> Progress:
    """Train the student and the objective's projectors in place, from the last checkpoint on.

    A requested stop ends the step in progress, saves, and raises `interrupt.Preempted`. Raises
    RuntimeError when the loss is no longer finite.
    """
    modules: dict[str, nn.Module] = {"student": student, "projectors": objective.projectors}
    optimizer = make_optimizer(
        list(modules.values()),
        weight_decay=settings.weight_decay,
        betas=(settings.betas[0], settings.betas[1]),
    )
    progress = checkpoint.load_latest(checkpoint_dir, modules, optimizer)
    if progress.step:
        log.info("distill: resumed after step %d/%d", progress.step, schedule.num_steps)
    started_s = saved_s = time.monotonic()
    earlier = progress
    student.train()
    bar = tqdm(
        range(progress.step, schedule.num_steps),
        initial=progress.step,
        total=schedule.num_steps,
        disable=None,
        unit="step",
        dynamic_ncols=True,
    )
    for step in bar:
        learning_rate = learning_rate_at(
            step,
            num_steps=schedule.num_steps,
            peak=settings.learning_rate,
            warmup_ratio=settings.warmup_ratio,
            min_ratio=settings.min_learning_rate_ratio,
        )
        set_learning_rate(optimizer, learning_rate)

        fetch_s = time.monotonic()
        rows = schedule.rows_of_step(step)
        batches = [
            _to_device(load_batch(shards, micro, settings.sequence_length), device)
            for micro in rows.reshape(-1, settings.micro_batch)
        ]
        signals = [read_signals(batch) for batch in batches]
        window.data_wait_s += time.monotonic() - fetch_s

        size = StepSize(
            sum(batch.num_targets for batch in batches), len(rows), settings.sequence_length
        )
        terms: dict[str, torch.Tensor] = {}
        total = torch.zeros((), device=device)
        for batch, cached in zip(batches, signals, strict=True):
            with autocast(settings.precision, device):
                said = cached if cached is not None else live_signals(batch)
                loss, parts = objective.micro_batch_loss(student, batch, said, size)
            loss.backward()
            total += loss.detach()
            for name, part in parts.items():
                terms[name] = terms.get(name, 0.0) + part
        parameters = [p for module in modules.values() for p in module.parameters()]
        grad_norm = nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        window.tokens += size.num_targets
        window.steps += 1
        elapsed_s = time.monotonic() - started_s
        progress = Progress(
            step + 1,
            earlier.num_targets + window.tokens,
            earlier.train_duration_s + elapsed_s,
            earlier.data_wait_s + window.data_wait_s,
        )
        last = step + 1 == schedule.num_steps
        if (step + 1) % settings.log_every == 0 or last:
            loss_value = total.item()
            if not loss_value == loss_value or loss_value in (float("inf"), -float("inf")):
                raise RuntimeError(
                    f"distill: the loss is {loss_value} at step {step + 1}; lower training."
                    f"learning_rate={settings.learning_rate} or use training.precision=fp32"
                )
            record = {
                "schema": SCHEMA,
                "attempt": attempt,
                "step": step + 1,
                "tokens": progress.num_targets,
                "seconds": round(progress.train_duration_s, 3),
                "learning_rate": learning_rate,
                "grad_norm": grad_norm.item(),
                "loss": loss_value,
                **{name: part.item() for name, part in terms.items()},
            }
            append_jsonl(log_path, record)
            _report(bar, record, window, meter, elapsed_s, schedule.num_steps)
        stop = interrupt.requested()
        if not last and (stop or time.monotonic() - saved_s > settings.checkpoint_every_s):
            with meter.window("checkpoint"):
                checkpoint.save(checkpoint_dir, modules, optimizer, progress)
            saved_s = time.monotonic()
            interrupt.stop_if_requested(f"saved after step {step + 1} of {schedule.num_steps}")
    bar.close()
    return progress


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.rows, batch.input_BT.to(device), batch.target_BT.to(device))


def _report(
    bar: tqdm,
    record: dict[str, float],
    window: OpenWindow,
    meter: Meter,
    elapsed_s: float,
    num_steps: int,
) -> None:
    """One line of log and the bar's figures: loss, speed, power, energy per token."""
    energy_j, power_w = window.so_far().energy_j, meter.live_power_w()
    figures = [f"loss {record['loss']:.3f}", f"{window.tokens / elapsed_s:,.0f} tokens/s"]
    if power_w is not None:
        figures.append(f"{power_w:,.0f} W")
    if energy_j is not None:
        figures.append(f"{1000 * energy_j / window.tokens:.3g} mJ/token")
    text = ", ".join(figures)
    bar.set_postfix_str(text)
    log.info("distill: %d/%d steps, %s", record["step"], num_steps, text)
