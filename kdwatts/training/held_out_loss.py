"""The loss on rows that are never trained on, read while the student trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdwatts.data.packing import IGNORE, Batch
from kdwatts.training.learner import Learner, share_of
from kdwatts.training.parallel import num_ranks, rank, summed


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows, as micro-batches on the CPU, and the bytes of text of their targets."""

    batches: Sequence[Batch]
    num_bytes: int | None
    """UTF-8 bytes of the target tokens. None where the tokenizer does not state them."""


def held_out_of(batches: Sequence[Batch], token_bytes: NDArray[np.int64] | None) -> HeldOut:
    """Micro-batches with the bytes of their targets. `token_bytes` [V] are those of each token.

    Without `token_bytes` the bytes are not known.
    """
    if token_bytes is None:
        return HeldOut(batches, None)
    targets = [batch.target_BT[batch.target_BT != IGNORE].numpy() for batch in batches]
    return HeldOut(batches, sum(int(token_bytes[ids].sum()) for ids in targets))


@torch.no_grad()
def held_out_losses(learner: Learner, held_out: HeldOut) -> dict[str, float]:
    """The loss and each of its terms over all held-out rows, as if they were one step of all ranks.

    `ce_nats` is there even where cross entropy is no term of the loss. `bits_per_byte` is there
    where bytes are known. It includes the bits of end tokens, which have no bytes. Dropout is off,
    no random number is drawn, and the student does not change.
    """
    is_taught_ce = learner.objective.head_terms.ce is not None
    reader = replace(learner, objective=learner.objective.with_cross_entropy())
    size = reader.objective.step_size(held_out.batches)
    # Added up on the device, which is waited for once. Float64 adds as Python's own numbers do.
    added = dict[str, Tensor]()
    num_batches = len(held_out.batches)
    learner.student.eval()
    # All ranks run equally often, since shards meet in each run. The last may repeat a batch.
    for start in range(0, num_batches, num_ranks()):
        place = min(start + rank(), num_batches - 1)
        micro_batch = learner.source.read(held_out.batches[place]).to(learner.device)
        share = share_of(reader, micro_batch, size)
        counts = place == start + rank()
        for name, part in {"loss": share.loss, **share.terms}.items():
            part = part.double() if counts else torch.zeros_like(part, dtype=torch.float64)
            added[name] = added[name] + part if name in added else part
    learner.student.train()
    sums = summed(torch.stack(list(added.values())).tolist())
    terms = dict(zip(added, sums, strict=True))
    total = terms.pop("loss")
    if not is_taught_ce:
        total -= terms["ce_nats"]
    losses = {"loss": total, **terms}
    if held_out.num_bytes:
        nats = terms["ce_nats"] * size.num_targets
        losses["bits_per_byte"] = nats / math.log(2) / held_out.num_bytes
    return losses
