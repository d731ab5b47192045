"""Students in training, on the pretended device and on the CPU, as `stages/distill` trains them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdwatts.config.experiment import Config
from kdwatts.metrics.quantity import MISSING_J
from kdwatts.stages.assembly import fresh_learner, held_out_rows, rows_of_text, student_rollouts
from kdwatts.training import loop
from kdwatts.training.forward_backward import forward_backward
from kdwatts.training.held_out_loss import held_out_losses
from kdwatts.training.learner import Learner
from kdwatts.training.text_rows import TextRows
from kdwatts.training.training_run import TrainingRun
from tests.models.reduced import save_other_teacher
from tests.pretend_cuda.counted_loop import counting_a_step
from tests.pretend_cuda.stage_work import (
    CPU,
    CUDA,
    config_of,
    distance,
    on_either,
    on_host,
    work_of,
)


def train(overrides: Sequence[str]) -> dict[str, Any]:
    """Relative distances of the device's numbers from the CPU's, over three real steps.

    All that the loop does in `COUNTED_STEP` is counted.
    """
    config = config_of(overrides)
    on_cuda, on_cpu = (_trained(config, device) for device in (CUDA, CPU))
    return {
        **{
            name: distance(on_cuda[name], on_cpu[name]) for name in ("loss", "gradients", "weights")
        },
        "moved": distance(on_cuda["weights"], on_cuda["began"]),
        "devices": sorted({weight.device.type for weight in on_cuda["weights"]}),
        "rows_at_once": config.training.rows_at_once,
    }


def _trained(config: Config, device: torch.device) -> dict[str, list[Tensor]]:
    training = config.training
    with work_of(config, "distill", device) as (_, work):
        text = rows_of_text(work)
        learner, _ = fresh_learner(work, text)
        began = [on_host(parameter).clone() for parameter in learner.parameters]
        loss, gradients = _first_step(learner, text, training.clip_norm)
        torch.manual_seed(0)  # Dropout draws on the device and on the CPU alike here.
        run = TrainingRun(
            learner,
            text,
            training,
            rollouts=student_rollouts(work, learner.student, text),
            held_out=None,
            own_energy=lambda: MISSING_J,
            meter=work.meter,
            window=work.window,
            checkpoint_dir=work.scratch_dir / "checkpoints",
            log_path=work.run_dir / "train.jsonl",
            attempt=1,
        )
        with counting_a_step() if device == CUDA else nullcontext():
            loop.train(run)
    return {
        "loss": [loss],
        "gradients": gradients,
        "began": began,
        "weights": [*learner.parameters],
    }


def _first_step(learner: Learner, text: TextRows, clip_norm: float) -> tuple[Tensor, list[Tensor]]:
    """The loss and the gradients of the first step, after which nothing has moved."""
    batches = [text.batch(rows) for rows in text.micro_batches(0)]
    learner.student.train()
    torch.manual_seed(0)
    micro_batches = [learner.source.read(batch).to(learner.device) for batch in batches]
    outcome = forward_backward(learner, micro_batches, clip_norm=clip_norm)
    trained = [p for p in learner.parameters if p.requires_grad]
    gradients = [on_host(torch.zeros_like(p) if p.grad is None else p.grad) for p in trained]
    for parameter in trained:
        parameter.grad = None
    return outcome.loss, gradients


def read_held_out(overrides: Sequence[str]) -> dict[str, Any]:
    """The losses on held-out rows on the device and on the CPU. All of the reading is counted."""
    config = config_of(["training.heldout_every=2", "training.heldout_tokens=640", *overrides])
    losses: dict[str, Any] = {}
    for device in (CUDA, CPU):
        with work_of(config, "distill", device) as (_, work):
            text = rows_of_text(work)
            learner, _ = fresh_learner(work, text)
            held_out = held_out_rows(config, text)
            assert held_out
            with on_either(device):
                losses[device.type] = held_out_losses(learner, held_out)
            losses["num_batches"] = len(held_out.batches)
    return losses


def train_by_another_vocabulary(overrides: Sequence[str]) -> dict[str, Any]:
    """As `train`, with a random teacher that has a tokenizer of its own."""
    with tempfile.TemporaryDirectory() as folder:
        shape = save_other_teacher(Path(folder))
        given = [
            *("paradigm=universal", "model.one_vocabulary=false", f"model.teacher.path={folder}"),
            *(f"model.teacher.architecture.{name}={value}" for name, value in shape.items()),
        ]
        return train([*given, *overrides])
