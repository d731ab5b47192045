"""One pass ahead of training, so that its windows hold no compilation."""

from __future__ import annotations

import torch

from kdwatts.config.training import Training
from kdwatts.data.packing import Batch
from kdwatts.models.row_attention import has_document_kernel
from kdwatts.training.held_out_loss import HeldOut, held_out_losses
from kdwatts.training.learner import Learner, share_of


def builds_code(settings: Training, device: torch.device) -> bool:
    """Whether the first pass compiles: models, or the kernel that keeps documents apart."""
    return settings.is_compiled or (settings.respect_documents and has_document_kernel(device))


def is_due(settings: Training, device: torch.device) -> bool:
    """Whether to warm up: a GPU builds kernels at its first pass, also where no model compiles."""
    return device.type == "cuda" or settings.is_compiled


def warm_up(learner: Learner, batch: Batch, held_out: HeldOut | None) -> None:
    """Run one forward and one backward pass, for what only the first pass builds: code and caches.

    A live teacher reads the batch too. A reading of held-out rows, without dropout and gradient,
    uses other code. It is run too. Weights, random state and gradients are left as they were.
    """
    learner.student.train()
    micro_batch = learner.source.read(batch).to(learner.device)
    size = learner.objective.step_size([micro_batch.batch])
    with torch.random.fork_rng():
        share_of(learner, micro_batch, size).loss.backward()
        if held_out:
            held_out_losses(learner, HeldOut(held_out.batches[:1], num_bytes=None))
    for module in learner.modules.values():
        module.zero_grad(set_to_none=True)
