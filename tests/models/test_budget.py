"""Arithmetic about models, against models: transformers builds each one on the meta device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM

from kdwatts.config import Config
from kdwatts.models.budget import (
    adapter_parameters_of,
    estimate,
    forward_flops_per_token,
    parameters_of,
)
from kdwatts.models.load import architecture_settings, num_parameters
from kdwatts.paths import conf_dir
from kdwatts.schema import Architecture, Feature, Lora

GIB = 2**30


def _shipped_shapes() -> dict[str, Architecture]:
    """Name of each model of conf/model to its shape, each shape once."""
    shapes: dict[str, Architecture] = {}
    for path in sorted((conf_dir() / "model").glob("*.yaml")):
        pair: Any = OmegaConf.load(path)
        for subject in ("student", "teacher"):
            if pair.get(subject):
                tree = OmegaConf.merge(Architecture, pair[subject].architecture)
                shape: Any = OmegaConf.to_object(tree)
                name = pair[subject].path or f"{path.stem} {subject}"
                same = shapes.setdefault(name, shape) == shape
                assert same, f"{path.name} gives {name} another shape than an earlier file"
    return shapes


SHAPES = _shipped_shapes()

PUBLISHED = {
    "meta-llama/Llama-3.2-1B-Instruct": 1.24e9,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03e9,
    "meta-llama/Llama-3.1-70B-Instruct": 70.6e9,
    "Qwen/Qwen2.5-0.5B-Instruct": 0.494e9,
    "Qwen/Qwen2.5-1.5B-Instruct": 1.54e9,
    "Qwen/Qwen2.5-3B-Instruct": 3.09e9,
    "Qwen/Qwen2.5-7B-Instruct": 7.62e9,
    "Qwen/Qwen2.5-72B-Instruct": 72.7e9,
}
"""Parameters that the hub's model cards give, to three digits."""

SMALL = Architecture("llama", 2, 8, 16, 4, 2, 2, 32, True, 64)


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_has_the_parameters_that_transformers_gives_its_shape(name: str):
    shape = SHAPES[name]
    config = AutoConfig.for_model(shape.family, **architecture_settings(shape))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert parameters_of(shape) == num_parameters(model)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_has_the_parameters_that_its_card_says(name: str):
    assert float(f"{parameters_of(SHAPES[name]):.3g}") == PUBLISHED[name]


def test_no_shipped_pair_is_left_out_of_the_published_counts():
    assert {name for name in SHAPES if name.count("/") == 1} == set(PUBLISHED)


def test_a_small_model_s_parameters_worked_by_hand():
    # Block: q and o 8*8 each, k and v 8*4 each, mlp 3*8*16, two norms of 8. Table 32*8, norm 8.
    block = 64 + 64 + 32 + 32 + 384 + 16
    assert parameters_of(SMALL) == 2 * block + 256 + 8
    untied, biased = copy.copy(SMALL), copy.copy(SMALL)
    untied.tied_head = False
    assert parameters_of(untied) == parameters_of(SMALL) + 256
    biased.family = "qwen2"
    assert parameters_of(biased) == parameters_of(SMALL) + 2 * (8 + 4 + 4)


def test_a_forward_pass_costs_two_operations_per_weight_and_the_attention_s_share():
    # Weights of two blocks and the final norm, the head once: 2 * (1184 + 8 + 256).
    # Attention: two blocks, width 8, 10 positions, half of them masked: 2 * 4 * 8 * 10 / 2.
    assert forward_flops_per_token(SMALL, 10) == 2 * (1184 + 8 + 256) + 320
    untied = copy.copy(SMALL)
    untied.tied_head = False
    assert forward_flops_per_token(untied, 10) == forward_flops_per_token(SMALL, 10)


@pytest.fixture(scope="module")
def llama(configure: Callable[..., Any]) -> Config:
    return configure("model=llama31_8b_to_1b", "gpu=h100")


def test_a_student_trains_in_sixteen_bytes_a_parameter_and_a_cached_teacher_in_none(llama: Config):
    budget = estimate(llama)
    assert budget.student_params == 1_235_814_400
    assert budget.student_state_gib == pytest.approx(1_235_814_400 * 16 / GIB)
    assert budget.teacher_gib == 0
    # 256 rows of 128,256 logits: float32, with their gradient, a working copy and the teacher's.
    assert budget.chunk_gib == pytest.approx(4 * 256 * 128_256 * 4 / GIB)
    parts = budget.student_state_gib + budget.activations_gib + budget.chunk_gib
    # Four forward passes a step: gradients wait for the last.
    assert budget.total_gib == pytest.approx(parts)


def test_without_accumulation_gradients_are_not_there_when_activations_are_most(llama: Config):
    once = copy.deepcopy(llama)
    once.training.accumulation = 1
    assert estimate(llama).total_gib - estimate(once).total_gib == pytest.approx(
        1_235_814_400 * 4 / GIB
    )


def test_with_few_activations_the_optimizer_s_step_takes_most(llama: Config):
    small = copy.deepcopy(llama)
    small.training.micro_batch, small.training.sequence_length = 1, 128
    small.training.gradient_checkpointing = True
    small.training.chunk_rows = 1
    assert estimate(small).total_gib == pytest.approx(1_235_814_400 * 20 / GIB)


def test_a_feature_pair_keeps_four_rows_of_the_teacher_s_width(llama: Config):
    featured, plain = copy.deepcopy(llama), estimate(llama)
    featured.paradigm.feature = Feature()
    found = estimate(featured)
    # Sixteen pairs of 8 rows of 2048 positions, 4096 wide, two bytes a value.
    assert found.activations_gib - plain.activations_gib == pytest.approx(
        16 * 8 * 2048 * 4 * 4096 * 2 / GIB
    )
    assert found.student_state_gib == plain.student_state_gib
    assert (found.projectors_gib, plain.projectors_gib) == (16 * 2048 * 4096 * 16 / GIB, 0)


def test_without_a_teacher_s_distribution_there_are_three_copies_of_logits(llama: Config):
    alone = copy.deepcopy(llama)
    alone.paradigm.response = None
    assert estimate(alone).chunk_gib == pytest.approx(3 * 256 * 128_256 * 4 / GIB)


def test_adapters_are_counted_by_hand():
    # Rank 3; two blocks: q 8+8, k and v 8+4 each, o 8+8, gate and up 8+16 each, down 16+8.
    assert adapter_parameters_of(SMALL, Lora(rank=3)) == 2 * 3 * (16 + 24 + 16 + 48 + 24)
    assert adapter_parameters_of(SMALL, Lora(rank=1, targets=["v_proj"])) == 2 * 12


def test_adapters_alone_have_optimizer_state_and_the_weights_below_are_as_read(llama: Config):
    adapted = copy.deepcopy(llama)
    adapted.training.lora = Lora(rank=16)
    budget, whole = estimate(adapted), estimate(llama)
    # 16 blocks of q and o 4096, k and v 2560, gate, up and down 10240.
    adapters = 16 * 16 * (2 * 4096 + 2 * 2560 + 3 * 10240)
    assert (budget.trained_params, whole.trained_params) == (adapters, 1_235_814_400)
    assert budget.student_state_gib == pytest.approx((adapters * 16 + 1_235_814_400 * 2) / GIB)
    # No gradient of a frozen weight is formed: two passes' worth of operations in place of three.
    assert budget.train_pflop == pytest.approx(whole.train_pflop * 2 / 3)
    assert budget.total_gib < whole.total_gib


def test_the_mask_that_keeps_documents_apart_takes_its_room(llama: Config):
    apart = copy.deepcopy(llama)
    apart.training.respect_documents = True
    added_gib = estimate(apart).activations_gib - estimate(llama).activations_gib
    assert added_gib == pytest.approx(3 * 8 * 2048**2 / GIB)


def test_an_online_teacher_is_on_the_card_in_the_run_s_precision(llama: Config):
    online = copy.deepcopy(llama)
    online.paradigm.teacher = "online"
    assert estimate(online).teacher_gib == pytest.approx(8_030_261_248 * 2 / GIB)
    online.training.precision = "fp32"
    assert estimate(online).teacher_gib == pytest.approx(8_030_261_248 * 4 / GIB)


def test_a_run_without_a_teacher_pays_nothing_for_the_pair_s(llama: Config):
    alone = copy.deepcopy(llama)
    alone.paradigm.response = None
    alone.paradigm.teacher = "online"
    budget = estimate(alone)
    assert (budget.teacher_gib, budget.teacher_pflop) == (0, 0)
    assert budget.teacher_params == 8_030_261_248


def test_training_costs_three_forward_passes_of_the_student_and_one_of_the_teacher(llama: Config):
    budget = estimate(llama)
    student, teacher = (
        forward_flops_per_token(SHAPES[name], 2048)
        for name in ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.1-8B-Instruct")
    )
    assert budget.train_pflop == pytest.approx(3 * student * 1e8 / 1e15)
    assert budget.teacher_pflop == pytest.approx(teacher * 1e8 / 1e15)


def test_activations_grow_with_the_micro_batch_and_shrink_with_checkpointing(llama: Config):
    doubled, checkpointed = copy.deepcopy(llama), copy.deepcopy(llama)
    doubled.training.micro_batch *= 2
    checkpointed.training.gradient_checkpointing = True
    plain = estimate(llama)
    assert estimate(doubled).activations_gib == pytest.approx(2 * plain.activations_gib)
    # Sixteen block inputs of 2048 and one block of 17 * 2048 + 2.5 * 8192 values, two bytes each.
    assert estimate(checkpointed).activations_gib == pytest.approx(
        8 * 2048 * 2 * (16 * 2048 + 17 * 2048 + 2.5 * 8192) / GIB
    )
    assert estimate(checkpointed).activations_gib < plain.activations_gib / 5
