"""Layer maps, and block outputs caught from real two-layer Llamas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from kdwatts.models.layers import (
    LAYER_MAPS,
    captured_blocks,
    captured_projections,
    layer_pairs,
    uniform_pairs,
)
from kdwatts.models.load import recompute_blocks

INPUT = torch.tensor([[5, 1, 8, 2, 9, 4]])


@pytest.fixture
def llama(make_llama: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    model = make_llama(vocab_size=16, hidden_size=8, intermediate_size=16)
    # A norm of ones hides whether a state was taken before or after it.
    nn.init.uniform_(model.model.norm.weight, 2.0, 3.0)
    return model


def test_32_blocks_under_80_learn_from_2_4_7_9_and_last_from_79():
    pairs = uniform_pairs(32, 80)
    assert [student for student, _ in pairs] == list(range(32))
    assert [teacher for _, teacher in pairs][:4] == [2, 4, 7, 9]
    assert pairs[-1] == (31, 79)


def test_16_blocks_under_32_learn_from_every_second():
    assert uniform_pairs(16, 32) == [(s, 2 * s + 1) for s in range(16)]


def test_as_many_blocks_as_the_teacher_pair_one_to_one():
    assert uniform_pairs(5, 5) == [(s, s) for s in range(5)]


def test_a_depth_of_exactly_a_half_is_rounded_up_where_floats_would_not():
    # Block 10 of 22 under 15: 11 * 15 / 22 = 7.5, plus a half, less one.
    assert uniform_pairs(22, 15)[10] == (10, 7)


@pytest.mark.parametrize("num_teacher_layers", [1, 2, 5])
def test_a_student_much_deeper_than_its_teacher_names_only_blocks_that_exist(
    num_teacher_layers: int,
):
    blocks = [teacher for _, teacher in uniform_pairs(12, num_teacher_layers)]
    assert blocks == sorted(blocks)
    assert blocks[0] == 0 and blocks[-1] == num_teacher_layers - 1


def test_last_pairs_the_last_blocks_and_explicit_takes_what_it_is_given():
    assert layer_pairs("last", [], 4, 9) == [(3, 8)]
    assert layer_pairs("explicit", [[0, 7], [3, 2]], 4, 9) == [(0, 7), (3, 2)]
    assert layer_pairs("uniform", [], 2, 4) == [(0, 1), (1, 3)]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (
            [],
            r"returns the pairs \[\] for models of 4 and 9 blocks; return a list",
        ),
        ([(0, 9)], r"returns the pairs \[\(0, 9\)\] for models of 4 and 9 blocks"),
        ([(-1, 8)], r"returns the pairs \[\(-1, 8\)\] for models"),
        ([(0, 1, 2)], r"returns the pairs \[\(0, 1, 2\)\] for models"),
        ([3], r"returns the pairs \[3\] for models"),
        ([(True, False)], r"returns the pairs \[\(True, False\)\] for models"),
        (None, "returns the pairs None for models"),
    ],
)
def test_a_map_of_anything_but_pairs_of_blocks_that_there_are_is_refused(
    pairs: Any, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(LAYER_MAPS, "own", lambda student, teacher: pairs)
    with pytest.raises(ValueError, match=rf"^paradigm\.feature\.layers=own {said}"):
        layer_pairs("own", [], 4, 9)


def test_a_map_may_count_blocks_in_whole_numbers_of_numpy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(LAYER_MAPS, "own", lambda *depths: [tuple(np.array(depths) - 1)])
    ((student, teacher),) = layer_pairs("own", [], 4, 9)
    assert (student, teacher) == (3, 8) and type(student) is type(teacher) is int


@torch.no_grad()
def test_a_block_is_the_hidden_state_one_further_on_and_the_last_is_before_the_final_norm(
    llama: LlamaForCausalLM,
):
    with captured_blocks(llama, [0, 1]) as blocks:
        hidden_states = llama(INPUT, output_hidden_states=True).hidden_states
    torch.testing.assert_close(blocks[0], hidden_states[1], rtol=0, atol=0)
    assert not torch.allclose(blocks[0], hidden_states[0])
    assert not torch.allclose(blocks[1], hidden_states[2])
    torch.testing.assert_close(llama.model.norm(blocks[1]), hidden_states[2], rtol=0, atol=0)


@torch.no_grad()
def test_only_named_blocks_are_caught_and_none_after_the_end(llama: LlamaForCausalLM):
    with captured_blocks(llama, [1, 1]) as blocks:
        llama(INPUT)
    caught = blocks[1]
    llama(INPUT + 1)
    assert list(blocks) == [1] and blocks[1] is caught


def test_an_error_inside_leaves_no_hook_behind(llama: LlamaForCausalLM):
    with pytest.raises(ZeroDivisionError), captured_blocks(llama, [0]) as caught:
        raise ZeroDivisionError
    llama(INPUT)
    assert caught == {}


def gradients(model: LlamaForCausalLM) -> list[Tensor]:
    with captured_blocks(model, [0, 1]) as blocks:
        final_BTD = model.model(INPUT, use_cache=False).last_hidden_state
    loss = blocks[0].square().mean() + blocks[1].abs().mean() + final_BTD.mean()
    return list(torch.autograd.grad(loss, list(model.model.parameters())))


def test_gradient_checkpointing_changes_no_gradient_of_a_caught_block(llama: LlamaForCausalLM):
    llama.train()
    expected = gradients(llama)
    recompute_blocks(llama)
    assert llama.model.layers[0].gradient_checkpointing
    for found, wanted in zip(gradients(llama), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert any(gradient.any() for gradient in expected)


@pytest.mark.parametrize(("block", "index"), [(0, 0), (1, 1), (-1, 1)])
@torch.no_grad()
def test_projections_are_those_of_the_block_before_rotation_keys_with_fewer_heads(
    block: int, index: int, llama: LlamaForCausalLM
):
    with captured_projections(llama, block) as caught:
        hidden_states = llama(INPUT, output_hidden_states=True).hidden_states
    layer: Any = llama.model.layers[index]
    normed_BTD = layer.input_layernorm(hidden_states[index])
    attention = layer.self_attn
    assert {name: state.shape[-1] for name, state in caught.items()} == {"q": 8, "k": 4, "v": 4}
    for name, module in (
        ("q", attention.q_proj),
        ("k", attention.k_proj),
        ("v", attention.v_proj),
    ):
        torch.testing.assert_close(caught[name], normed_BTD @ module.weight.T)
    # The same token at two positions has one query here; rotation would tell them apart.
    with captured_projections(llama, 0) as caught:
        llama(torch.tensor([[5, 5, 5]]))
    torch.testing.assert_close(caught["q"][0, 0], caught["q"][0, 2])


def test_no_block_leaves_no_projection_and_no_hook(llama: LlamaForCausalLM):
    with captured_projections(llama, None) as caught:
        llama(INPUT)
    assert caught == {}
    with pytest.raises(ZeroDivisionError), captured_projections(llama, 0) as caught:
        raise ZeroDivisionError
    llama(INPUT)
    assert caught == {}
