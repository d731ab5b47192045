"""The loss on rows that are never trained on, read while the student trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from kdwatts.config.paradigm import CrossEntropy
from kdwatts.data.packing import Batch
from kdwatts.teacher.signals import Signals
from kdwatts.training.autocast import autocast
from kdwatts.training.objective import Objective
from kdwatts.training.parallel import num_ranks, rank, summed


@dataclass(frozen=True)
class HeldOut:
    """The rows, as micro-batches on the CPU, and how much text their targets are."""

    batches: Sequence[Batch]
    num_bytes: int | None
    """UTF-8 bytes of the target tokens; None where the tokenizer does not tell."""


@torch.no_grad()
def held_out_losses(
    student: nn.Module,
    objective: Objective,
    held_out: HeldOut,
    *,
    precision: str,
    device: torch.device,
    signals_of: Callable[[Batch], Signals | None],
) -> dict[str, float]:
    """The loss and each of its terms over all held-out rows as if they were one step of all ranks.

    `ce_nats` is there even where cross entropy is no term of the loss, and `bits_per_byte` where
    bytes are known; the bits of end tokens, which have no byte, count. Dropout is off; no random
    number is drawn and nothing of the student changes.
    """
    measured = objective if objective.paradigm.ce else _with_cross_entropy(objective)
    size = measured.step_size(held_out.batches)
    total, terms = 0.0, dict[str, float]()
    num_batches = len(held_out.batches)
    student.eval()
    # All ranks run as often, for shards of a model meet in each run: the last may repeat a batch.
    for start in range(0, num_batches, num_ranks()):
        place = min(start + rank(), num_batches - 1)
        batch = held_out.batches[place].to(device)
        with autocast(precision, device):
            loss, parts = measured.micro_batch_loss(student, batch, signals_of(batch), size)
        counts = place == start + rank()
        total += loss.item() if counts else 0.0
        for name, part in parts.items():
            terms[name] = terms.get(name, 0.0) + (part.item() if counts else 0.0)
    student.train()
    total, *sums = summed([total, *terms.values()])
    terms = dict(zip(terms, sums, strict=True))
    if measured is not objective:
        total -= terms["ce_nats"]
    losses = {"loss": total, **terms}
    if held_out.num_bytes:
        nats = terms["ce_nats"] * size.num_targets
        losses["bits_per_byte"] = nats / math.log(2) / held_out.num_bytes
    return losses


def _with_cross_entropy(objective: Objective) -> Objective:
    """The same terms and projectors with cross entropy at weight 1.

    The paradigm is copied and not made anew, which would run the checks of what a person may ask:
    nobody is taught by this.
    """
    measured = copy.copy(objective)
    measured.paradigm = copy.copy(objective.paradigm)
    measured.paradigm.ce = CrossEntropy(1.0)
    return measured
