"""Which blocks the feature term compares: by depth as configured, or measured on the models."""

# B rows of a batch, T positions, M sampled positions of each row, N = B M, D width of a block.

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdwatts.config.experiment import Config
from kdwatts.data.packing import Schedule, load_batch
from kdwatts.data.shards import TokenShards
from kdwatts.models.cka import best_pairs, cka_table, unbiased_gram
from kdwatts.models.layers import captured_blocks
from kdwatts.models.row_attention import final_states
from kdwatts.stages.work import Work, feature_pairs
from kdwatts.teacher.signals import at_positions, sampled_index
from kdwatts.training.autocast import autocast

log = logging.getLogger(__name__)

CALIBRATION_ROWS = 32
POSITIONS_PER_ROW = 64
"""Sampled, as neighbours say much the same: 2,048 positions in all from rows of 65 tokens on."""


@dataclass(frozen=True)
class PairedBlocks:
    """One pair of the feature term, for the records. Blocks count from 0."""

    student_block: int
    teacher_block: int
    cka: float | None
    """Linear CKA before training. None where the pair follows from depth alone."""


def paired_blocks(
    work: Work,
    student: nn.Module,
    teacher: nn.Module | None,
    shards: TokenShards,
    schedule: Schedule,
) -> list[PairedBlocks]:
    """The pairs of the feature term. Empty without one.

    With layers=cka they are measured on the first rows of the data in use, which are the same for
    every seed, at the student's initial weights. So they depend on configuration, weights and text.
    """
    feature = work.config.paradigm.feature
    if not feature or feature.layers != "cka":
        return [PairedBlocks(s, t, None) for s, t in feature_pairs(work.config)]
    assert teacher is not None, "config.check refuses layers=cka with a cached teacher"
    with work.meter.window("pair"):
        student_grams, teacher_grams = (
            _grams(work.config, model, shards, schedule, work.device)
            for model in (student, teacher)
        )
        for subject, grams in (("student", student_grams), ("teacher", teacher_grams)):
            _check_finite(subject, grams)
        table_ST = cka_table(student_grams, teacher_grams)
        pairs = best_pairs(table_ST, feature.num_pairs)
    measured = [PairedBlocks(s, t, table_ST[s, t].item()) for s, t in pairs]
    log.info(
        "distill: blocks paired by CKA: %s",
        ", ".join(f"{p.student_block} with {p.teacher_block} ({p.cka:.3f})" for p in measured),
    )
    return measured


def _check_finite(subject: str, grams: list[Tensor]) -> None:
    """Raise RuntimeError for states that are not finite: some pair would be the best of NaN."""
    for block, gram_NN in enumerate(grams):
        if not gram_NN.isfinite().all():
            raise RuntimeError(
                f"distill: the states after block {block} of the {subject} are not finite (NaN or "
                "infinite), so no blocks can be paired; its weights may be damaged: check the "
                f"{subject}'s files"
            )


@torch.no_grad()
def _grams(
    config: Config,
    model: nn.Module,
    shards: TokenShards,
    schedule: Schedule,
    device: torch.device,
) -> list[Tensor]:
    """The unbiased gram of every block over the calibration positions."""
    length = config.training.sequence_length
    blocks = range(len(list(model.get_submodule("model.layers").children())))
    states: dict[int, list[Tensor]] = {block: [] for block in blocks}
    # Row by row: all blocks of a wide teacher over a whole micro-batch would fill a GPU.
    for row in schedule.rows[:CALIBRATION_ROWS, None]:
        batch = load_batch(
            shards, row, length, respect_documents=config.training.respect_documents
        ).to(device)
        index_BM = sampled_index(row, batch.input_BT, count=min(POSITIONS_PER_ROW, length - 1))
        kept_BM = batch.beyond_first_BT.gather(1, index_BM)
        with autocast(config.training.precision, device), captured_blocks(model, blocks) as outputs:
            final_states(model, batch.input_BT, batch.position_BT)
        for block in blocks:
            states[block].append(at_positions(outputs[block], index_BM)[kept_BM])
    return [unbiased_gram(torch.cat(states[block])) for block in blocks]
