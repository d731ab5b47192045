"""Which micro-batch, checkpointing and sharding a configuration fits a card with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

from kdwatts.config import Config
from kdwatts.models.budget import Budget, estimate

FILLED = 0.9
"""Share of a card's memory that a suggestion fills: the allocator and a context need the rest."""
MOST_RANKS = 8


@dataclass(frozen=True)
class Suggestion:
    """The same optimizer steps, cut so that they fit."""

    ranks: int
    micro_batch: int
    accumulation: int
    """Of all ranks together."""
    gradient_checkpointing: bool
    total_gib: float
    """Estimate for each card."""

    @property
    def overrides(self) -> list[str]:
        """What to add to the command line."""
        sharded = ["training.parallel=fsdp", "training.teacher_parallel=fsdp"]
        return [
            f"training.micro_batch={self.micro_batch}",
            f"training.accumulation={self.accumulation}",
            f"training.gradient_checkpointing={str(self.gradient_checkpointing).lower()}",
            *(sharded if self.ranks > 1 else []),
        ]


def suggest(config: Config) -> Suggestion | None:
    """The fewest cards, then no recomputation, then the largest micro-batch that fits.

    Sequences of an optimizer step stay as asked, so that results do. None where nothing fits, or
    where the card's memory is not known.
    """
    if not config.gpu.memory_gib:
        return None
    for candidate, ranks in _candidates(config):
        training = candidate.training
        budget = estimate(candidate, ranks=ranks)
        if budget.total_gib <= FILLED * config.gpu.memory_gib and _loads(config, budget):
            return Suggestion(
                ranks,
                training.micro_batch,
                training.accumulation,
                training.gradient_checkpointing,
                budget.total_gib,
            )
    return None


def _candidates(config: Config) -> Iterator[tuple[Config, int]]:
    rows = config.training.micro_batch * config.training.accumulation
    relational = config.paradigm.relational
    # A group of sequences is compared as a whole, and lies in one forward pass.
    least = relational.group_size if relational and relational.level == "sequence" else 1
    ranks = 1
    while ranks <= MOST_RANKS:
        for checkpointing in (False, True):
            for micro_batch in range(rows // ranks, 0, -1):
                if rows % (micro_batch * ranks) or micro_batch % least:
                    continue
                found = copy.deepcopy(config)
                found.training.micro_batch = micro_batch
                found.training.accumulation = rows // micro_batch
                found.training.gradient_checkpointing = checkpointing
                if ranks > 1:
                    found.training.parallel = found.training.teacher_parallel = "fsdp"
                yield found, ranks
        ranks *= 2


def _loads(config: Config, budget: Budget) -> bool:
    """Whether the teacher, which a cache's builder has on one card, fits there alone."""
    return budget.teacher_weights_gib <= (config.gpu.memory_gib or 0.0)
