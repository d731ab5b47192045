"""Which teacher block each student block learns from, and how a block's output is captured.

Blocks count from 0; block i's output is the residual stream after it. For the last block it is
taken before the final norm, in both models; `hidden_states[-1]` of transformers is after it, so
outputs are caught by hooks and never indexed out of that tuple.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

LayerPairs = list[tuple[int, int]]
"""(student block, teacher block), counted from 0."""


def uniform_pairs(num_student_layers: int, num_teacher_layers: int) -> LayerPairs:
    """Every student block with the teacher block at the same relative depth.

    t = floor((s + 1) L_T / L_S + 0.5) - 1, so that last meets last; 32 blocks under 80 give
    teacher blocks 2, 4, 7, 9, ... Under a teacher of less than half the depth, first meets first.
    """
    # In integers: as floats, 11 * (15 / 22) falls just short of the half that is rounded up.
    half, whole = num_student_layers, 2 * num_student_layers
    counts = [(2 * (s + 1) * num_teacher_layers + half) // whole for s in range(num_student_layers)]
    return [(s, max(count, 1) - 1) for s, count in enumerate(counts)]


def last_pair(num_student_layers: int, num_teacher_layers: int) -> LayerPairs:
    """The last blocks of both models."""
    return [(num_student_layers - 1, num_teacher_layers - 1)]


def layer_pairs(
    layers: str, explicit: Sequence[Sequence[int]], num_student_layers: int, num_teacher_layers: int
) -> LayerPairs:
    """The pairs of a map by its name; `explicit` takes them as given."""
    if layers == "explicit":
        return [(student, teacher) for student, teacher in explicit]
    maps = {"uniform": uniform_pairs, "last": last_pair}
    return maps[layers](num_student_layers, num_teacher_layers)


@contextmanager
def captured_blocks(model: nn.Module, blocks: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """A dictionary that fills with the output [B, T, D] of each named block as `model` runs."""
    outputs: dict[int, Tensor] = {}

    def keep(block: int):
        def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs[block] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [
        model.get_submodule(f"model.layers.{block}").register_forward_hook(keep(block))
        for block in set(blocks)
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
