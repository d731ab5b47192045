"""What a block is said to keep for its backward pass, against the tensors that autograd saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from kdwatts.config.pair import Architecture
from kdwatts.config.paradigm import Feature
from kdwatts.config.training import Lora
from kdwatts.losses.feature import DISTANCES
from kdwatts.memory.activations import block_bytes, checkpoint_bytes, feature_bytes, norm_bytes
from kdwatts.models.load import architecture_settings
from kdwatts.models.row_attention import attention_inputs
from kdwatts.training.autocast import autocast
from kdwatts.training.lora import add_adapters
from kdwatts.training.projectors import make_projectors, project

VALUE_BYTES = {"fp32": 4, "bf16": 2}
ROWS, LENGTH = 4, 32
LLAMA = Architecture("llama", 1, 48, 144, 6, 3, 8, 64, True, 64)
QWEN = Architecture("qwen2", 1, 64, 96, 4, 2, 16, 64, False, 64)


def saved_bytes(forward: Callable[[], object], *, weights: list[Tensor]) -> int:
    """Bytes of the storages that `forward` keeps for a backward pass, weights and their copies for
    the products left out, which are kept once and not for each token."""
    shapes = {shape for w in weights for shape in (w.shape, w.T.shape if w.ndim == 2 else w.shape)}
    kept = {weight.untyped_storage()._cdata: 0 for weight in weights}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape not in shapes:
            kept.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes())
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(forward())
    return sum(kept.values())


def body_bytes(
    shape: Architecture, precision: str, *, lora: Lora | None = None, masked: bool = False
) -> float:
    """Bytes per token that the body of a model of this shape keeps."""
    config = AutoConfig.for_model(
        shape.family,
        **architecture_settings(shape),
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    frozen = torch.bfloat16 if lora and precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=frozen).train()
    if lora:
        add_adapters(model, lora, seed=0)
    place_BT = (torch.arange(LENGTH) % 8).expand(ROWS, LENGTH)
    inputs = {"input_ids": torch.zeros(ROWS, LENGTH, dtype=torch.long), "use_cache": False}
    inputs |= attention_inputs(place_BT if masked else None)

    def forward() -> object:
        with autocast(precision, torch.device("cpu")):
            return model.model(**inputs).last_hidden_state

    return saved_bytes(forward, weights=list(model.parameters())) / (ROWS * LENGTH)


def block_of_second(shape: Architecture, precision: str, **changes: object) -> float:
    """Bytes per token that a block adds to a model that has one."""
    two, three = replace(shape, num_layers=2), replace(shape, num_layers=3)
    return body_bytes(three, precision, **changes) - body_bytes(two, precision, **changes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [LLAMA, QWEN], ids=["llama", "qwen2"])
def test_a_block_keeps_what_autograd_saves_of_it(shape: Architecture, precision: str):
    counted = block_bytes(shape, value_bytes=VALUE_BYTES[precision])
    assert counted == pytest.approx(block_of_second(shape, precision), rel=1e-9)


def test_a_block_s_bytes_worked_by_hand():
    # Float32: norms 2 (48 + 48 + 1), their outputs 2 * 48, queries and output 2 * 48, keys and
    # values 2 * 24, log sums 6, MLP 4 * 144: four bytes each.
    assert block_bytes(LLAMA, value_bytes=4) == 4 * (194 + 96 + 96 + 48 + 6 + 576)
    # Autocast: norms and log sums as before, the rest two bytes, five casts in place of two.
    assert block_bytes(LLAMA, value_bytes=2) == 4 * (194 + 6) + 2 * (5 * 48 + 96 + 48 + 576)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_body_keeps_its_blocks_and_its_last_norm(precision: str):
    blocks = 2 * block_bytes(LLAMA, value_bytes=VALUE_BYTES[precision])
    found = body_bytes(replace(LLAMA, num_layers=2), precision)
    # What is left out are the ids and the tables of the rotary embedding.
    assert blocks + norm_bytes(LLAMA) == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_mask_repeats_keys_and_values_and_is_kept_by_every_block(precision: str):
    counted = block_bytes(LLAMA, value_bytes=VALUE_BYTES[precision], masked_length=LENGTH)
    assert counted == pytest.approx(block_of_second(LLAMA, precision, masked=True), rel=1e-9)


TARGETS = (
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    ["q_proj", "v_proj"],
    ["o_proj", "up_proj"],
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("targets", TARGETS, ids=len)
def test_beside_adapters_a_block_keeps_what_they_read(targets: list[str], precision: str):
    lora = Lora(rank=5, targets=targets)
    counted = block_bytes(LLAMA, value_bytes=VALUE_BYTES[precision], lora=lora)
    assert counted == pytest.approx(block_of_second(LLAMA, precision, lora=lora), rel=1e-9)


def test_dropout_keeps_each_adapter_s_input_and_what_was_dropped():
    shared, own = Lora(rank=5), Lora(rank=5, dropout=0.1)
    # Each of q, k, v, gate and up its own 48 floats in place of two shared ones, o its 48 and down
    # its 144 as before, and a byte for each of 6 * 48 + 144.
    added = block_bytes(LLAMA, value_bytes=4, lora=own) - block_bytes(
        LLAMA, value_bytes=4, lora=shared
    )
    assert added == 4 * (3 + 1) * 48 + 6 * 48 + 144


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("projector", ["linear", "mlp", "none"])
def test_a_pair_of_blocks_keeps_what_autograd_saves_of_its_term(
    projector: str, distance: str, precision: str
):
    width = 96 if projector == "none" else 48
    projectors = make_projectors(
        projector, student_width=width, teacher_width=96, num_pairs=1, shared=False, seed=0
    )
    state_BTD = torch.randn(ROWS, LENGTH + 1, width, requires_grad=True)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    goal_ND = torch.randn(ROWS * LENGTH, 96).to(dtype)

    def forward() -> Tensor:
        with autocast(precision, torch.device("cpu")):
            state_ND = project(projectors, 0, state_BTD[:, 1:].flatten(0, 1))
            return DISTANCES[distance](state_ND, goal_ND).sum()

    found = saved_bytes(forward, weights=[state_BTD, *projectors.parameters()]) / (ROWS * LENGTH)
    counted = feature_bytes(
        Feature(projector=projector, distance=distance),
        student_width=width,
        teacher_width=96,
        value_bytes=VALUE_BYTES[precision],
    )
    assert counted == pytest.approx(found, rel=1e-9)


def test_a_distance_that_somebody_added_is_planned_as_the_largest_that_ships():
    feature = Feature(distance="cosine")
    sizes = {"student_width": 48, "teacher_width": 96, "value_bytes": 4}
    expected = feature_bytes(feature, **sizes)
    feature.distance = "own"
    assert feature_bytes(feature, **sizes) == expected


def test_a_checkpointed_block_keeps_its_input():
    assert checkpoint_bytes(LLAMA, value_bytes=2) == 4 * 48
    assert checkpoint_bytes(LLAMA, value_bytes=2, lora=Lora()) == 2 * 48
