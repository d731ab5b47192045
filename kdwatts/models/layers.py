"""Which teacher block each student block learns from, and how a block's output is captured.

Blocks count from 0; block i's output is the residual stream after it. For the last block it is
taken before the final norm, in both models; `hidden_states[-1]` of transformers is after it, so
outputs are caught by hooks and never indexed out of that tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import TypeGuard, TypeVar

from torch import Tensor, nn

from kdwatts.runtime import plugins

Key = TypeVar("Key")

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


LAYER_MAPS = {"uniform": uniform_pairs, "last": last_pair}
"""Maps that depth alone decides."""


def layer_map_of(name: str) -> Callable[[int, int], LayerPairs]:
    """The map of that name, ours or an installed package's, of both models' numbers of blocks."""
    return LAYER_MAPS.get(name) or plugins.load(plugins.LAYER_MAPS, name)


def layer_pairs(
    layers: str, explicit: Sequence[Sequence[int]], num_student_layers: int, num_teacher_layers: int
) -> LayerPairs:
    """The pairs of a map by its name; `explicit` takes them as given.

    Raises ValueError where a map gives anything but pairs of blocks that both models have.
    """
    if layers == "explicit":
        return [(student, teacher) for student, teacher in explicit]
    pairs = layer_map_of(layers)(num_student_layers, num_teacher_layers)
    depths = (num_student_layers, num_teacher_layers)
    is_list = isinstance(pairs, list | tuple)
    if not is_list or not pairs or not all(_is_pair(pair, depths) for pair in pairs):
        raise ValueError(
            f"paradigm.feature.layers={layers} pairs blocks as {pairs}, the models have "
            f"{num_student_layers} and {num_teacher_layers} blocks; have its function return a "
            "list of (student block, teacher block), counted from 0"
        )
    return [(int(student), int(teacher)) for student, teacher in pairs]


def _is_pair(pair: object, depths: tuple[int, int]) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    sides = zip(pair, depths, strict=True)
    return all(_is_number(block) and 0 <= block < depth for block, depth in sides)


def _is_number(block: object) -> TypeGuard[int]:
    """Whether it counts a block: numpy's whole numbers do, True and False do not."""
    return isinstance(block, Integral) and not isinstance(block, bool)


@contextmanager
def captured_blocks(model: nn.Module, blocks: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """A dictionary that fills with the output [B, T, D] of each named block as `model` runs."""
    layers = model.get_submodule("model.layers")
    with _captured({block: layers.get_submodule(str(block)) for block in blocks}) as outputs:
        yield outputs


@contextmanager
def captured_projections(model: nn.Module, block: int | None) -> Iterator[dict[str, Tensor]]:
    """A dictionary that fills with a block's queries, keys and values as `model` runs; -1 the last.

    Under q, k and v lies [B, T, heads times head width], all heads side by side, where keys and
    values have fewer heads under grouped-query attention. Taken before the rotary embedding, so
    that what tokens are to each other does not depend on how far apart they stand. Without a block
    it stays empty.
    """
    if block is None:
        yield {}
        return
    layers = list(model.get_submodule("model.layers").children())
    attention = layers[block].get_submodule("self_attn")
    with _captured({name: attention.get_submodule(f"{name}_proj") for name in "qkv"}) as outputs:
        yield outputs


@contextmanager
def _captured(modules: Mapping[Key, nn.Module]) -> Iterator[dict[Key, Tensor]]:
    outputs: dict[Key, Tensor] = {}

    def keep(key: Key) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs[key] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [module.register_forward_hook(keep(key)) for key, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
