"""The training loop: plain torch, to be read from top to bottom."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from kdwatts.runtime import interrupt
from kdwatts.training import checkpoint
from kdwatts.training.account import Account
from kdwatts.training.checkpoint import Progress
from kdwatts.training.fetching import steps_from
from kdwatts.training.finite import FirstNotFinite, check_weights
from kdwatts.training.forward_backward import forward_backward
from kdwatts.training.held_out_reading import read_held_out
from kdwatts.training.optim import learning_rate_at, make_optimizer, set_learning_rate
from kdwatts.training.parallel import rank
from kdwatts.training.train_log import report, step_bar, step_row
from kdwatts.training.training_run import TrainingRun

log = logging.getLogger(__name__)


def train(run: TrainingRun) -> Progress:
    """The progress at the end of training. It starts from the last checkpoint.

    The student and the objective's projectors are trained in place. Training ends after the
    schedule's steps. With `settings.budget_kj` it also ends when `own_energy`, the energy of all
    attempts, reaches the budget. The learning rate then follows whichever is further, so it decays
    completely. Such a run does not depend on its seed alone. The loss on held-out rows is read
    every `settings.heldout_every` steps and at the end. When a stop is requested, the current step
    ends, the state is saved, and `interrupt.Preempted` is raised.

    Several ranks share a step and must all call this. Only the first rank measures and writes.
    Raises RuntimeError when a number that it reads or saves is not finite, and what `JouleBudget`
    raises.
    """
    learner, settings = run.learner, run.settings
    if rank():  # Dropout would else be the same on the rows of every rank.
        torch.manual_seed(settings.seed + (rank() << 32))
    optimizer = make_optimizer(
        list(learner.modules.values()),
        weight_decay=settings.weight_decay,
        betas=(settings.betas[0], settings.betas[1]),
    )
    progress = checkpoint.load_latest(run.checkpoint_dir, learner.modules, optimizer)
    if progress.step:
        log.info("distill: resumed after step %d/%d", progress.step, run.num_steps)
    account = Account(run, progress)
    if account.used >= 1.0:  # An attempt drew the rest after its last checkpoint.
        return replace(progress, stopped_by="budget_kj")
    firsts = FirstNotFinite()
    learner.student.train()
    bar, steps = step_bar(run, progress.step), steps_from(run, progress.step)
    for step in bar:
        learning_rate = learning_rate_at(
            max(step, account.used * (run.num_steps - 1)),
            num_steps=run.num_steps,
            peak=settings.learning_rate,
            warmup_ratio=settings.warmup_ratio,
            min_ratio=settings.min_learning_rate_ratio,
        )
        set_learning_rate(optimizer, learning_rate)

        # The batches have no name here, so that the device frees them when the gradient is there.
        outcome = forward_backward(learner, next(steps), clip_norm=settings.clip_norm)
        firsts.look(step + 1, outcome.numbers)
        if learner.device.type == "cpu":
            firsts.refuse(settings)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        progress, due = account.after_step(progress, outcome.num_targets)
        if due.log or due.keep:
            firsts.refuse(settings)
        if due.keep:
            check_weights(learner.modules.values(), progress.step, settings)
        if due.log:
            row = step_row(run, progress, outcome, learning_rate)
            report(run, row, bar, account.elapsed_s)
        if due.held_out:
            with account.paused():
                progress = read_held_out(run, progress)
        if due.end:
            break
        if due.save:
            _save(run, optimizer, progress)
            account.note_saved()
            interrupt.stop_if_requested(f"saved after step {progress.step} of {run.num_steps}")
    bar.close()
    steps.close()
    return progress


def _save(run: TrainingRun, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    with run.meter.window("checkpoint"):
        if run.rollouts:
            run.rollouts.save()
        checkpoint.save(run.checkpoint_dir, run.learner.modules, optimizer, progress)
