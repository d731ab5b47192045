"""A reading of the loss on held-out rows while training pauses, with the energy it draws."""

from __future__ import annotations

import logging
import math

from kdwatts.records.files import append_jsonl
from kdwatts.training.checkpoint import Progress
from kdwatts.training.finite import not_finite
from kdwatts.training.held_out_loss import held_out_losses
from kdwatts.training.parallel import rank
from kdwatts.training.train_log import row_head
from kdwatts.training.training_run import TrainingRun

log = logging.getLogger(__name__)


def read_held_out(run: TrainingRun, progress: Progress) -> Progress:
    """The progress with the losses on held-out rows, which are logged beside the energy so far.

    Raises RuntimeError for a loss that is not finite. Every rank must call it.
    """
    assert run.held_out
    with run.meter.window("heldout") as reading:
        energy = run.own_energy()
        losses = held_out_losses(run.learner, run.held_out)
    for name, value in losses.items():
        if not math.isfinite(value):
            what = f"{name} on held-out rows"
            raise RuntimeError(not_finite(what, progress.step, run.settings, has_moved=True))
    progress = progress.after_heldout(reading, losses)
    row = {
        **row_head(run, progress, split="heldout"),
        "energy_j": energy.value,
        "energy_quality": energy.quality,
        **losses,
    }
    if rank() == 0:
        append_jsonl(run.log_path, row)
    log.info("distill: held-out loss %.3f after step %d", losses["loss"], progress.step)
    return progress
