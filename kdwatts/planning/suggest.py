"""Which micro-batch, checkpointing and sharding fit a configuration on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

from kdwatts.config.device_choices import settle_again
from kdwatts.config.experiment import Config
from kdwatts.planning.demands import available_gib, budget_of, is_allowed
from kdwatts.runtime.ranks import Launch

FILLED = 0.9
"""Share of a GPU's memory that a suggestion fills: the allocator needs the rest."""
MOST_RANKS = 8


@dataclass(frozen=True)
class Suggestion:
    """The same optimizer steps, cut so that they fit."""

    ranks: int
    micro_batch: int
    accumulation: int
    """Micro-batches per step, of all ranks together."""
    gradient_checkpointing: bool
    total_gib: float
    """GiB on each GPU, estimated."""
    sharded: tuple[str, ...]
    """Options that are set to fsdp."""

    @property
    def overrides(self) -> list[str]:
        """What to add to the command line."""
        return [
            f"training.micro_batch={self.micro_batch}",
            f"training.accumulation={self.accumulation}",
            f"training.gradient_checkpointing={str(self.gradient_checkpointing).lower()}",
            *(f"training.{name}=fsdp" for name in self.sharded),
        ]


def suggest(config: Config) -> Suggestion | None:
    """The way to fit a node: the fewest GPUs, then no recomputation, then the largest micro-batch.

    The sequences of an optimizer step stay as asked, so results stay the same. None where no way
    fits, and where the GPU's memory is not known.
    """
    if not config.gpu.memory_gib:
        return None
    for candidate, ranks, sharded in _candidates(config):
        training = candidate.training
        total_gib = budget_of(candidate, Launch(1, ranks)).total_gib
        if total_gib <= FILLED * available_gib(config) and is_allowed(candidate, Launch(1, ranks)):
            return Suggestion(
                ranks,
                training.micro_batch,
                training.accumulation,
                training.gradient_checkpointing,
                total_gib,
                sharded,
            )
    return None


def _candidates(config: Config) -> Iterator[tuple[Config, int, tuple[str, ...]]]:
    rows = config.training.micro_batch * config.training.accumulation
    teacher = config.model.teacher
    # A quantised teacher, and a student that writes, are whole on every rank.
    names = ["parallel"] if config.paradigm.text != "student" else []
    if not (teacher and teacher.quantization):
        names.append("teacher_parallel")
    found, ranks = copy.deepcopy(config), 1
    training = found.training
    while ranks <= MOST_RANKS:
        sharded = tuple(names) if ranks > 1 else ()
        for name in ("parallel", "teacher_parallel"):
            asked = getattr(config.training, name)
            setattr(training, name, "fsdp" if name in sharded else asked)
        for training.gradient_checkpointing in (False, True):
            for training.micro_batch in range(rows // ranks, 0, -1):
                if rows % (training.micro_batch * ranks) == 0:
                    training.accumulation = rows // training.micro_batch
                    settle_again(found)
                    yield found, ranks, sharded
        ranks *= 2
