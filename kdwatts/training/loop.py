"""The training loop: plain torch, readable from top to bottom."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from kdwatts.config.training import Training
from kdwatts.data.packing import Batch, Schedule, load_batch
from kdwatts.data.read_ahead import prefetched
from kdwatts.data.shards import TokenShards
from kdwatts.metrics.quantity import Quantity
from kdwatts.records.files import append_jsonl
from kdwatts.records.schema import SCHEMA
from kdwatts.runtime import interrupt
from kdwatts.teacher.signals import Signals, worst
from kdwatts.telemetry.meter import Meter, OpenWindow
from kdwatts.training import checkpoint
from kdwatts.training.autocast import autocast
from kdwatts.training.checkpoint import Progress
from kdwatts.training.energy_budget import JouleBudget
from kdwatts.training.finite import TEACHER, FirstNotFinite, check_weights, not_finite
from kdwatts.training.heldout import HeldOut, held_out_losses
from kdwatts.training.objective import Objective, StepSize
from kdwatts.training.optim import learning_rate_at, make_optimizer, set_learning_rate
from kdwatts.training.parallel import (
    clip_gradients,
    largest,
    num_ranks,
    rank,
    sum_gradients,
    summed,
)
from kdwatts.training.rollout import Rollouts

log = logging.getLogger(__name__)

SignalReader = Callable[[Batch], Signals | None]
"""Teacher signals of a batch: read from a cache, or None."""


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
    held_out: HeldOut | None,
) -> None:
    """One forward and backward pass, for what the first one builds: compiled code, its caches.

    A reading of held-out rows, without dropout and gradient, is another code and is built, too.
    Weights, random state and gradients are left as they were.
    """
    student.train()
    rows = schedule.rows_of_step(0)[: settings.micro_batch]
    batch = load_batch(
        shards, rows, settings.sequence_length, respect_documents=settings.respect_documents
    ).to(device)
    size = objective.step_size([batch])

    def signals_of(batch: Batch) -> Signals | None:
        cached = read_signals(batch)
        return cached.to(device) if cached is not None else live_signals(batch)

    with torch.random.fork_rng():
        with autocast(settings.precision, device):
            loss, _ = objective.micro_batch_loss(student, batch, signals_of(batch), size)
        loss.backward()
        if held_out:
            held_out_losses(
                student,
                objective,
                HeldOut(held_out.batches[:1], num_bytes=None),
                precision=settings.precision,
                device=device,
                signals_of=signals_of,
            )
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
    rollouts: Rollouts | None,
    held_out: HeldOut | None,
    own_energy: Callable[[], Quantity],
    meter: Meter,
    window: OpenWindow,
    checkpoint_dir: Path,
    log_path: Path,
    attempt: int,
) -> Progress:
    """Train the student and the objective's projectors in place, from the last checkpoint on.

    It ends after the schedule's steps or, with `settings.budget_kj`, when `own_energy`, what all
    attempts have drawn by now, reaches it; the learning rate then follows whichever is further, so
    that such a run decays whole and is no function of the seed alone. On `held_out` rows the loss
    is read every `settings.heldout_every` steps and at the end. `rollouts` puts the student's own
    text into rows that are its own. A requested stop ends the step in
    progress, saves, and raises `interrupt.Preempted`. Raises RuntimeError when a number that it
    reads or saves is not finite, and whatever `JouleBudget` raises.

    Several ranks share a step: rank r of R takes its micro-batches r, r + R, r + 2 R and so on, so
    that neither data nor schedule depends on R. The first one alone measures and writes.
    """
    if rank():  # Dropout would else be the same on the rows of every rank.
        torch.manual_seed(settings.seed + (rank() << 32))
    modules: dict[str, nn.Module] = {"student": student, "projectors": objective.projectors}
    optimizer = make_optimizer(
        list(modules.values()),
        weight_decay=settings.weight_decay,
        betas=(settings.betas[0], settings.betas[1]),
    )
    progress = checkpoint.load_latest(checkpoint_dir, modules, optimizer)
    if progress.step:
        log.info("distill: resumed after step %d/%d", progress.step, schedule.num_steps)

    def fetch(step: int) -> tuple[list[Batch], list[Signals | None]]:
        rows = schedule.rows_of_step(step).reshape(-1, settings.micro_batch)[rank() :: num_ranks()]
        batches = [
            load_batch(
                shards,
                micro,
                settings.sequence_length,
                respect_documents=settings.respect_documents,
            )
            for micro in rows
        ]
        signals = [read_signals(batch) for batch in batches]
        if device.type == "cuda":
            batches = [batch.pinned() for batch in batches]
            signals = [said.pinned() if said else None for said in signals]
        return batches, signals

    def signals_of(batch: Batch) -> Signals | None:
        cached = read_signals(batch)
        return cached.to(device) if cached is not None else live_signals(batch)

    budget = None
    if settings.budget_kj is not None and rank() == 0:
        budget = JouleBudget(settings.budget_kj, own_energy, start_j=progress.start_energy_j)
    (used,) = largest([budget.used() if budget else 0.0])
    if used >= 1.0:  # An attempt drew the rest after its last checkpoint.
        return replace(progress, stopped_by="budget_kj")
    started_s = saved_s = time.monotonic()
    heldout_s = 0.0
    earlier = progress
    firsts = FirstNotFinite()
    student.train()
    bar = tqdm(
        range(progress.step, schedule.num_steps),
        initial=progress.step,
        total=schedule.num_steps,
        disable=True if rank() else None,
        unit="step",
        dynamic_ncols=True,
    )
    # Read while the step before computes: waiting is what is left of reading after it.
    fetched = prefetched(range(progress.step, schedule.num_steps), fetch)
    for step in bar:
        learning_rate = learning_rate_at(
            max(step, used * (schedule.num_steps - 1)),
            num_steps=schedule.num_steps,
            peak=settings.learning_rate,
            warmup_ratio=settings.warmup_ratio,
            min_ratio=settings.min_learning_rate_ratio,
        )
        set_learning_rate(optimizer, learning_rate)

        if rollouts:
            rollouts.prepare(step)
        fetch_s = time.monotonic()
        batches, signals = next(fetched)
        window.data_wait_s += time.monotonic() - fetch_s
        if rollouts:
            batches = [rollouts.write(batch, step) for batch in batches]
        batches = [batch.to(device) for batch in batches]
        signals = [said.to(device) if said else None for said in signals]

        size = StepSize(*map(int, summed(astuple(objective.step_size(batches)))))
        terms: dict[str, torch.Tensor] = {}
        total, told = torch.zeros((), device=device), torch.zeros((), device=device)
        for batch, cached in zip(batches, signals, strict=True):
            with autocast(settings.precision, device):
                said = cached if cached is not None else live_signals(batch)
                loss, parts = objective.micro_batch_loss(student, batch, said, size)
            loss.backward()
            if said is not None:
                told += worst(said)
            total += loss.detach()
            for name, part in parts.items():
                terms[name] = terms.get(name, 0.0) + part
        parameters = [p for module in modules.values() for p in module.parameters()]
        sum_gradients(parameters)
        grad_norm = clip_gradients(parameters, settings.clip_norm)
        numbers = {f"the loss's term {name}": part for name, part in terms.items()}
        numbers = {TEACHER: told, **numbers, "the loss": total, "the gradient's norm": grad_norm}
        firsts.look(step + 1, numbers)
        if device.type == "cpu":
            firsts.refuse(settings)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        window.tokens += size.num_targets
        window.steps += 1
        elapsed_s = time.monotonic() - started_s - heldout_s
        # One rank's word for all: they must save and end at the same step.
        saves = time.monotonic() - saved_s > settings.checkpoint_every_s and rank() == 0
        used, saves, signal = largest(
            [budget.used() if budget else 0.0, float(saves), float(interrupt.number())]
        )
        interrupt.join(int(signal))
        progress = replace(
            progress,
            step=step + 1,
            num_targets=earlier.num_targets + window.tokens,
            train_duration_s=earlier.train_duration_s + elapsed_s,
            data_wait_s=earlier.data_wait_s + window.data_wait_s,
            start_energy_j=budget.start_j if budget else None,
            stopped_by="budget_kj" if used >= 1.0 else "target_tokens",
        )
        last = step + 1 == schedule.num_steps or used >= 1.0
        logs = (step + 1) % settings.log_every == 0 or last
        reads = held_out and ((step + 1) % settings.heldout_every == 0 or last)
        is_kept = last or reads or signal or saves
        if logs or is_kept:
            firsts.refuse(settings)
        if is_kept:
            check_weights(modules.values(), step + 1, settings)
        if logs:
            loss_value, *values = summed([part.item() for part in (total, *terms.values())])
            record = {
                **_place(progress, attempt, split="train"),
                "learning_rate": learning_rate,
                "grad_norm": grad_norm.item(),
                "loss": loss_value,
                **dict(zip(terms, values, strict=True)),
            }
            if rank() == 0:
                append_jsonl(log_path, record)
                _report(bar, record, window, meter, elapsed_s, schedule.num_steps)
        if held_out and reads:
            pause_s = time.monotonic()
            with meter.window("heldout") as reading:
                energy = own_energy()
                losses = held_out_losses(
                    student,
                    objective,
                    held_out,
                    precision=settings.precision,
                    device=device,
                    signals_of=signals_of,
                )
            for name, value in losses.items():
                if not math.isfinite(value):
                    what = f"{name} on held-out rows"
                    raise RuntimeError(not_finite(what, step + 1, settings, has_moved=True))
            progress = progress.after_heldout(reading, losses)
            record = {
                **_place(progress, attempt, split="heldout"),
                "energy_j": energy.value,
                "energy_quality": energy.quality,
                **losses,
            }
            if rank() == 0:
                append_jsonl(log_path, record)
            log.info("distill: held-out loss %.3f after step %d", losses["loss"], step + 1)
            heldout_s += time.monotonic() - pause_s
        if last:
            break
        if signal or saves:
            with meter.window("checkpoint"):
                if rollouts:
                    rollouts.save()
                checkpoint.save(checkpoint_dir, modules, optimizer, progress)
            saved_s = time.monotonic()
            interrupt.stop_if_requested(f"saved after step {step + 1} of {schedule.num_steps}")
    bar.close()
    fetched.close()
    return progress


def _place(progress: Progress, attempt: int, *, split: str) -> dict[str, Any]:
    """The head of a row of train.jsonl: on which rows it was read, and how far training was."""
    return {
        "schema": SCHEMA,
        "attempt": attempt,
        "split": split,
        "step": progress.step,
        "tokens": progress.num_targets,
        "seconds": round(progress.train_duration_s, 3),
    }


def _report(
    bar: tqdm,
    record: dict[str, float],
    window: OpenWindow,
    meter: Meter,
    elapsed_s: float,
    num_steps: int,
) -> None:
    """One line of log and the bar's figures: loss, speed, power, energy per token."""
    energy_j, power_w = window.so_far().value, meter.live_power_w()
    figures = [f"loss {record['loss']:.3f}", f"{window.tokens / elapsed_s:,.0f} tokens/s"]
    if power_w is not None:
        figures.append(f"{power_w:,.0f} W")
    if energy_j is not None and window.tokens:  # Steps of prompts alone bear no token.
        figures.append(f"{1000 * energy_j / window.tokens:.3g} mJ/token")
    text = ", ".join(figures)
    bar.set_postfix_str(text)
    log.info("distill: %d/%d steps, %s", record["step"], num_steps, text)
