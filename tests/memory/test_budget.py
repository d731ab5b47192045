"""Arithmetic about models, against models: transformers builds each one on the meta device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM

from kdwatts.config.experiment import Config
from kdwatts.config.pair import Architecture
from kdwatts.config.paradigm import Feature, Relational
from kdwatts.config.training import Lora
from kdwatts.memory.budget import Budget, estimate
from kdwatts.memory.model_shape import adapter_parameters_of, forward_flops_per_token, parameters_of
from kdwatts.models.load import architecture_settings, num_parameters
from kdwatts.planning.demands import workload_of
from kdwatts.runtime.paths import conf_dir
from kdwatts.runtime.ranks import Launch

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
def test_a_published_model_has_the_parameters_that_its_gpu_says(name: str):
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
    return configure("model=llama31_8b_to_1b", "gpu=h100", "training.gradient_checkpointing=false")


def budget_of(config: Config) -> Budget:
    return estimate(workload_of(config))


PARAMS, TABLE = 1_235_814_400, 128_256 * 2048
"""Of Llama 3.2 1B, which has one table for both ends."""
LINEAR = 16 * 2048 * (2 * 2048 + 2 * 512 + 3 * 8192)
TOKENS = 8 * 2048
BLOCK_BYTES = 4 * (2 * (2 * 2048 + 1) + 32) + 2 * (5 * 2048 + 2 * 2048 + 2 * 512 + 4 * 8192)
"""What a block keeps of a token: tests/memory/test_activations.py."""
KEPT = TOKENS * (16 * BLOCK_BYTES + 4 * (2 * 2048 + 1))
ROWS = 2048
CHUNK = 2 * ROWS * 128_256
NAMED = 128 * ROWS * 65
"""Of the target and 64 tokens of the teacher."""


def test_a_student_trains_in_sixteen_bytes_a_parameter_and_a_cached_teacher_in_none(llama: Config):
    budget = budget_of(llama)
    assert budget.student_params == PARAMS
    assert budget.student_state_gib == pytest.approx(PARAMS * 16 / GIB)
    assert budget.copies_gib == pytest.approx(2 * LINEAR / GIB)
    assert budget.activations_gib == pytest.approx(KEPT / GIB)
    assert budget.teacher_gib == 0
    # 2,048 rows of 128,256 logits in bfloat16; no copy of them, as one kernel forms the gradient.
    assert budget.chunk_gib == pytest.approx((CHUNK + NAMED) / GIB)


def test_the_loss_s_moment_worked_by_hand(llama: Config):
    budget = budget_of(llama)
    # Four forward passes a step: gradients wait for the last.
    held = 16 * PARAMS + 2 * LINEAR + KEPT + CHUNK + NAMED
    # The head's gradient in float32 and the head cast; final states, those that count and their
    # gradient in float32 and one cast; 64 ids and log-probabilities.
    head, states = (4 + 2) * TABLE, TOKENS * 2048 * (3 * 4 + 2)
    assert budget.moments_gib["loss"] == pytest.approx(
        (held + head + states + TOKENS * 64 * 20) / GIB
    )
    assert budget.fullest == "loss"
    assert budget.total_gib == budget.moments_gib["loss"]


def test_without_accumulation_gradients_are_not_there_when_activations_are_most(llama: Config):
    once = copy.deepcopy(llama)
    once.training.accumulation = 1
    assert budget_of(llama).total_gib - estimate(workload_of(once)).total_gib == pytest.approx(
        PARAMS * 4 / GIB
    )


def test_with_few_activations_two_gradients_of_a_tied_table_and_their_sum_take_most(llama: Config):
    small = copy.deepcopy(llama)
    small.paradigm.response, small.training.precision = None, "fp32"
    small.training.micro_batch, small.training.sequence_length = 1, 128
    small.training.gradient_checkpointing = True
    small.training.chunk_rows = 1
    # Beside the gradient that earlier passes left; one row of logits, and what lies between blocks.
    beside = 3 * 4 * TABLE + 4 * 128_256 + 128 * 8 * 2048
    assert budget_of(small).fullest == "gradients"
    assert budget_of(small).total_gib == pytest.approx((16 * PARAMS + beside) / GIB)
    small.model.student.architecture.tied_head = False
    # The head's own gradient is added to; the table's is made and added.
    beside = 4 * TABLE + 4 * 128_256 + 128 * 8 * 2048
    assert budget_of(small).moments_gib["gradients"] == pytest.approx(
        (16 * (PARAMS + TABLE) + beside) / GIB
    )


def test_a_feature_pair_keeps_its_target_and_both_states_of_the_teacher_s_width(llama: Config):
    featured, plain = copy.deepcopy(llama), budget_of(llama)
    featured.paradigm.feature = Feature()
    found = budget_of(featured)
    # Sixteen pairs: the target 4096 wide and the student's 2048 in two bytes; the projected states
    # and their difference in four, with one root mean square.
    pair = 2 * 4096 + 2 * 2048 + 8 * 4096 + 4
    assert found.compared_gib - plain.compared_gib == pytest.approx(16 * TOKENS * pair / GIB)
    assert found.activations_gib == plain.activations_gib
    assert found.student_state_gib == plain.student_state_gib
    assert (found.projectors_gib, plain.projectors_gib) == (16 * 2048 * 4096 * 16 / GIB, 0)
    assert found.copies_gib - plain.copies_gib == pytest.approx(2 * 16 * 2048 * 4096 / GIB)


def test_a_dense_teacher_has_logits_of_its_own_and_more_is_made_of_a_block(llama: Config):
    dense = copy.deepcopy(llama)
    assert dense.paradigm.response
    dense.paradigm.response.support = "dense"
    # On a GPU the one name of a row is its target.
    assert budget_of(dense).chunk_gib == pytest.approx((2 * CHUNK + 128 * ROWS) / GIB)
    dense.gpu.device, dense.training.chunk_rows = "cpu", 256
    assert budget_of(dense).chunk_gib == pytest.approx((2 * CHUNK / 8 + 5 * 4 * 2**20) / GIB)
    dense.paradigm.response.divergence = "jsd"
    assert budget_of(dense).chunk_gib == pytest.approx((2 * CHUNK / 8 + 9 * 4 * 2**20) / GIB)


def test_a_divergence_that_the_kernel_does_not_know_makes_copies_of_a_block(llama: Config):
    other = copy.deepcopy(llama)
    assert other.paradigm.response
    other.paradigm.response.support, other.paradigm.response.divergence = "dense", "universal"
    assert budget_of(other).chunk_gib == pytest.approx((2 * CHUNK + 9 * 4 * 2**25) / GIB)


def test_tokens_in_groups_are_compared_by_their_differences_and_cosines(llama: Config):
    grouped = copy.deepcopy(llama)
    grouped.paradigm.response, grouped.paradigm.relational = None, Relational(level="token")
    # Eight sequences of 32 tokens: 2.5 * 32^2 rows of the student's 2048, two sets of 32^3 cosines.
    kept = 8 * (2.5 * 32**2 * 2048 + 2 * 32**3)
    assert budget_of(grouped).compared_gib == pytest.approx(4 * kept / GIB)


def test_adapters_are_counted_by_hand():
    # Rank 3; two blocks: q 8+8, k and v 8+4 each, o 8+8, gate and up 8+16 each, down 16+8.
    assert adapter_parameters_of(SMALL, Lora(rank=3)) == 2 * 3 * (16 + 24 + 16 + 48 + 24)
    assert adapter_parameters_of(SMALL, Lora(rank=1, targets=["v_proj"])) == 2 * 12


def test_adapters_alone_have_optimizer_state_and_the_weights_below_are_as_read(llama: Config):
    adapted = copy.deepcopy(llama)
    adapted.training.lora = Lora(rank=16)
    budget, whole = budget_of(adapted), budget_of(llama)
    # 16 blocks of q and o 4096, k and v 2560, gate, up and down 10240.
    adapters = 16 * 16 * (2 * 4096 + 2 * 2560 + 3 * 10240)
    assert (budget.trained_params, whole.trained_params) == (adapters, 1_235_814_400)
    assert budget.student_state_gib == pytest.approx((adapters * 16 + 1_235_814_400 * 2) / GIB)
    # No gradient of a frozen weight is formed: two passes' worth of operations in place of three.
    assert budget.train_pflop == pytest.approx(whole.train_pflop * 2 / 3)
    assert budget.total_gib < whole.total_gib


def test_the_mask_that_keeps_documents_apart_takes_its_room_and_a_gpu_has_none(llama: Config):
    apart = copy.deepcopy(llama)
    apart.training.respect_documents = True
    assert budget_of(apart).activations_gib == budget_of(llama).activations_gib
    apart.gpu.device = "cpu"
    added_gib = budget_of(apart).activations_gib - budget_of(llama).activations_gib
    # A byte a position as given; in every block two, and keys and values for 24 heads more.
    each = 2048 + 16 * 2 * (2048 + 2 * 24 * 64)
    assert added_gib == pytest.approx(TOKENS * each / GIB)


def test_an_online_teacher_is_on_the_gpu_in_the_run_s_precision(llama: Config):
    online = copy.deepcopy(llama)
    online.paradigm.teacher = "online"
    assert budget_of(online).teacher_gib == pytest.approx(8_030_261_248 * 2 / GIB)
    online.training.precision = "fp32"
    assert budget_of(online).teacher_gib == pytest.approx(8_030_261_248 * 4 / GIB)


def test_a_run_without_a_teacher_pays_nothing_for_the_pair_s(llama: Config):
    alone = copy.deepcopy(llama)
    alone.paradigm.response = None
    alone.paradigm.teacher = "online"
    budget = budget_of(alone)
    assert (budget.teacher_gib, budget.teacher_pflop) == (0, 0)
    assert budget.teacher_params == 8_030_261_248


def test_training_costs_three_forward_passes_of_the_student_and_one_of_the_teacher(llama: Config):
    budget = budget_of(llama)
    student, teacher = (
        forward_flops_per_token(SHAPES[name], 2048)
        for name in ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.1-8B-Instruct")
    )
    assert budget.train_pflop == pytest.approx(3 * student * 1e8 / 1e15)
    assert budget.teacher_pflop == pytest.approx(teacher * 1e8 / 1e15)
    checkpointed = copy.deepcopy(llama)
    checkpointed.training.gradient_checkpointing = True
    # A fourth pass through the blocks, at two operations a weight of the head less.
    assert budget_of(checkpointed).train_pflop == pytest.approx(
        (4 * student - 2 * TABLE) * 1e8 / 1e15
    )


def test_activations_grow_with_the_micro_batch_and_shrink_with_checkpointing(llama: Config):
    doubled, checkpointed = copy.deepcopy(llama), copy.deepcopy(llama)
    doubled.training.micro_batch *= 2
    checkpointed.training.gradient_checkpointing = True
    plain, checkpointed_budget = budget_of(llama), budget_of(checkpointed)
    assert budget_of(doubled).activations_gib == pytest.approx(2 * plain.activations_gib)
    # Sixteen block inputs and the last norm, in float32.
    assert checkpointed_budget.activations_gib == pytest.approx(
        TOKENS * 4 * (16 * 2048 + 2 * 2048 + 1) / GIB
    )
    # In the backward pass one block is made again, from weights that are cast again.
    held = 16 * PARAMS + CHUNK + TOKENS * 64 * 20
    work = TOKENS * (8 * 2048 + 2 * 2 * 8192) + 6 * 2048 * 8192
    made = TOKENS * (16 * 4 * 2048 + BLOCK_BYTES) + 2 * LINEAR / 16 + 4 * TABLE
    assert checkpointed_budget.moments_gib["backward"] == pytest.approx((held + made + work) / GIB)


def test_hsdp_cuts_a_model_over_the_ranks_of_a_node_and_fsdp_over_all(
    configure: Callable[..., Any],
):
    words = ("model=llama31_8b_to_1b", "paradigm=feature", "gpu=h100")

    def shared(parallel: str) -> Budget:
        both = (f"training.parallel={parallel}", f"training.teacher_parallel={parallel}")
        return estimate(workload_of(configure(*words, *both)), Launch(2, 8))

    whole, all_ranks, a_node = (shared(parallel) for parallel in ("ddp", "fsdp", "hsdp"))
    for name in ("student_state_gib", "teacher_gib"):
        assert getattr(whole, name) == pytest.approx(8 * getattr(all_ranks, name))
        assert getattr(whole, name) == pytest.approx(4 * getattr(a_node, name))
        assert getattr(whole, name) > 4
