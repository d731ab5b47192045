"""Which teacher block each student block learns from, and how a block's output is captured.

Blocks count from 0. The output of block i is the residual stream after it. For the last block it is
taken before the final norm, in both models. `hidden_states[-1]` of transformers is after that norm,
so outputs are captured by hooks and not taken from there.
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
    """Pairs (student block, teacher block) at the same relative depth, one for every student block.

    t = floor((s + 1) L_T / L_S + 0.5) - 1, so that the last block meets the last. For 32 student
    blocks and 80 teacher blocks, the teacher blocks are 2, 4, 7, 9, ... With a teacher of less than
    half the student's depth, the first block meets the first.
    """
    # In integers: as floats, 11 * (15 / 22) falls just short of the half that is rounded up.
    half, whole = num_student_layers, 2 * num_student_layers
    counts = [(2 * (s + 1) * num_teacher_layers + half) // whole for s in range(num_student_layers)]
    return [(s, max(count, 1) - 1) for s, count in enumerate(counts)]


def last_pair(num_student_layers: int, num_teacher_layers: int) -> LayerPairs:
    """The pair of the last blocks of both models."""
    return [(num_student_layers - 1, num_teacher_layers - 1)]


LAYER_MAPS = {"uniform": uniform_pairs, "last": last_pair}
"""Maps that depth alone decides."""


def layer_map_of(name: str) -> Callable[[int, int], LayerPairs]:
    """The layer map with this name, ours or an installed package's: a function of two depths."""
    return LAYER_MAPS.get(name) or plugins.load(plugins.LAYER_MAPS, name)


def layer_pairs(
    layers: str, explicit: Sequence[Sequence[int]], num_student_layers: int, num_teacher_layers: int
) -> LayerPairs:
    """The pairs (student block, teacher block) of the map named `layers`, or `explicit` as given.

    Raises ValueError where a map gives anything but pairs of blocks that both models have.
    """
    if layers == "explicit":
        return [(student, teacher) for student, teacher in explicit]
    pairs = layer_map_of(layers)(num_student_layers, num_teacher_layers)
    depths = (num_student_layers, num_teacher_layers)
    is_list = isinstance(pairs, list | tuple)
    if not is_list or not pairs or not all(_is_pair(pair, depths) for pair in pairs):
        raise ValueError(
            f"paradigm.feature.layers={layers} returns the pairs {pairs} for models of "
            f"{num_student_layers} and {num_teacher_layers} blocks; return a list of (student "
            "block, teacher block) from its function, counted from 0"
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
    """A dictionary that gets the output [B, T, D] of each named block while `model` runs."""
    layers = model.get_submodule("model.layers")
    with _captured({block: layers.get_submodule(str(block)) for block in blocks}) as outputs:
        yield outputs


@contextmanager
def captured_projections(model: nn.Module, block: int | None) -> Iterator[dict[str, Tensor]]:
    """A dictionary that gets a block's queries, keys and values while `model` runs. -1 is the last.

    The keys are q, k and v. Each value is [B, T, heads times head width], with all heads side by
    side. Keys and values have fewer heads under grouped-query attention. They are taken before the
    rotary embedding, so that the relations of tokens do not depend on their distance. Without a
    block the dictionary stays empty.
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
