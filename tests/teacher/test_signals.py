"""Signals against the teacher's own dense logits and hidden states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from kdwatts.config.paradigm import CrossEntropy, Feature, Paradigm, Relational, Response
from kdwatts.losses.sparse import top_k_of
from kdwatts.teacher.signals import SignalPlan, compute_signals, signal_plan, sparse_logits

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)


def logits(num_rows: int = 20, vocabulary: int = 30) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 4 * torch.randn(num_rows, vocabulary, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_stored_signal_is_exact_at_every_temperature_of_the_plan(temperature: float):
    found = sparse_logits(logits().float(), k=4, temperatures=TEMPERATURES).at(
        temperature, TEMPERATURES
    )
    p_NV = (logits() / temperature).softmax(-1)
    p_NK, ids_NK = p_NV.topk(4)
    assert torch.equal(found.ids_NK, ids_NK)
    torch.testing.assert_close(found.log_p_NK.exp().double(), p_NK, rtol=1e-5, atol=1e-7)
    tail_N = p_NV.scatter(-1, ids_NK, 0.0).sum(-1)
    torch.testing.assert_close(found.log_tail_N.exp().double(), tail_N, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_stored_signal_is_the_top_k_of_dense_logits(temperature: float):
    sparse = sparse_logits(logits(), k=4, temperatures=TEMPERATURES).at(temperature, TEMPERATURES)
    dense = top_k_of(logits(), k=4, temperature=temperature)
    assert torch.equal(sparse.ids_NK, dense.ids_NK)
    torch.testing.assert_close(sparse.log_p_NK, dense.log_p_NK)
    torch.testing.assert_close(sparse.log_tail_N, dense.log_tail_N)


def test_rows_of_a_sparse_signal_are_those_of_the_mask():
    keep_N = torch.arange(20) % 3 == 0
    found = (
        sparse_logits(logits(), k=4, temperatures=(2.0,))
        .at_places(keep_N.nonzero()[:, 0])
        .at(2.0, (2.0,))
    )
    expected = top_k_of(logits()[keep_N], k=4, temperature=2.0)
    assert torch.equal(found.ids_NK, expected.ids_NK)
    torch.testing.assert_close(found.log_p_NK, expected.log_p_NK)
    torch.testing.assert_close(found.log_tail_N, expected.log_tail_N)


@pytest.mark.parametrize("chunk_rows", [1, 4, 1000])
def test_the_top_k_signal_is_that_of_the_teachers_own_logits(
    teacher: LlamaForCausalLM, input_BT: Tensor, chunk_rows: int
):
    plan = SignalPlan(top_k=5, temperatures=(2.0,), vocabulary=64)
    sparse = compute_signals(teacher, input_BT, plan, chunk_rows=chunk_rows).sparse
    with torch.no_grad():
        expected = top_k_of(teacher(input_BT).logits.flatten(0, 1), k=5, temperature=2.0)
    assert sparse
    found = sparse.at(2.0, (2.0,))
    assert torch.equal(found.ids_NK, expected.ids_NK)
    torch.testing.assert_close(found.log_p_NK, expected.log_p_NK, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.log_tail_N, expected.log_tail_N, rtol=1e-4, atol=1e-5)


def test_probabilities_are_over_the_shared_vocabulary_alone(
    teacher: LlamaForCausalLM, input_BT: Tensor
):
    plan = SignalPlan(top_k=5, temperatures=(1.0,), vocabulary=40)
    sparse = compute_signals(teacher, input_BT, plan).sparse
    with torch.no_grad():
        expected = top_k_of(teacher(input_BT).logits[..., :40].flatten(0, 1), k=5)
    assert sparse and sparse.ids_NK.max() < 40
    found = sparse.at(1.0, (1.0,))
    torch.testing.assert_close(found.log_p_NK, expected.log_p_NK, rtol=1e-4, atol=1e-5)
    mass_N = found.log_p_NK.exp().sum(-1) + found.log_tail_N.exp()
    torch.testing.assert_close(mass_N, torch.ones(15))


def test_blocks_final_state_and_pool_are_those_of_the_teachers_hidden_states(
    teacher: LlamaForCausalLM, input_BT: Tensor
):
    plan = SignalPlan(vocabulary=64, final_hidden=True, blocks=(0, 1), pooled=True)
    signals = compute_signals(teacher, input_BT, plan)
    with torch.no_grad():
        _, first, final = teacher(input_BT, output_hidden_states=True).hidden_states
        assert signals.blocks and signals.final_ND is not None and signals.pooled_BD is not None
        torch.testing.assert_close(signals.blocks[0], first)
        torch.testing.assert_close(teacher.model.norm(signals.blocks[1]), final)
    torch.testing.assert_close(signals.final_ND, final.flatten(0, 1))
    torch.testing.assert_close(signals.pooled_BD, final.mean(1))
    assert signals.sparse is None


def test_dense_logits_come_back_from_the_final_state_and_the_head(
    teacher: LlamaForCausalLM, input_BT: Tensor
):
    signals = compute_signals(teacher, input_BT, SignalPlan(vocabulary=64, final_hidden=True))
    assert signals.final_ND is not None
    with torch.no_grad():
        expected = teacher(input_BT).logits.flatten(0, 1)
    torch.testing.assert_close(signals.final_ND @ teacher.lm_head.weight.detach().T, expected)


def test_no_signal_leads_back_to_the_teacher(teacher: LlamaForCausalLM, input_BT: Tensor):
    plan = SignalPlan(5, (1.0,), 64, final_hidden=True, blocks=(0, 1), pooled=True)
    signals = compute_signals(teacher, input_BT, plan)
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert signals.sparse and signals.blocks
    sparse = signals.sparse
    for tensor in (
        sparse.log_p_NK,
        sparse.offset_NM,
        sparse.log_tail_NM,
        signals.final_ND,
        signals.pooled_BD,
        *signals.blocks.values(),
    ):
        assert tensor is not None and not tensor.requires_grad


def test_cross_entropy_alone_needs_no_signal():
    assert signal_plan(Paradigm("sft", ce=CrossEntropy()), [], 64) == SignalPlan()


def test_a_temperature_sweep_shares_one_plan_and_another_temperature_joins_it():
    def plan(temperature: float) -> SignalPlan:
        response = Response(temperature=temperature, k=8, teacher_temperatures=[1.0, 4.0])
        return signal_plan(Paradigm("response", response=response), [], 64)

    assert plan(1.0) == plan(4.0) == SignalPlan(8, (1.0, 4.0), 64)
    assert plan(2.0) == SignalPlan(8, (1.0, 2.0, 4.0), 64)


def test_weights_student_blocks_and_divergences_share_one_plan_of_dense_signals():
    def plan(divergence: str, pairs: list[tuple[int, int]]) -> SignalPlan:
        paradigm = Paradigm(
            "combined",
            response=Response(divergence=divergence, support="dense"),
            feature=Feature(),
            relational=Relational(),
        )
        return signal_plan(paradigm, pairs, 64)

    expected = SignalPlan(vocabulary=64, final_hidden=True, blocks=(1, 3), pooled=True)
    assert plan("jsd", [(0, 1), (1, 3)]) == expected
    assert plan("reverse_kl", [(0, 3), (1, 1), (2, 3)]) == expected


def test_a_sampled_plan_is_one_temperatures_and_a_top_k_plan_has_its_precision():
    def plan(**options: Any) -> SignalPlan:
        return signal_plan(Paradigm("response", response=Response(**options)), [], 64)

    drawn = plan(support="sampled", num_samples=30, temperature=2.0, cache_precision="f16")
    assert drawn == SignalPlan(vocabulary=64, samples=30, sample_temperature=2.0)
    assert plan(support="sampled", num_samples=30, temperature=1.0) != drawn
    exact = plan(k=8, teacher_temperatures=[1.0], cache_precision="f16")
    assert exact == SignalPlan(8, (1.0,), 64, precision="f16")


def test_an_unknown_cache_precision_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"cache_precision=u4.*u8, f16"):
        Response(cache_precision="u4")


def test_moving_signals_moves_every_tensor_and_keeps_the_rest(
    teacher: LlamaForCausalLM, input_BT: Tensor
):
    plan = SignalPlan(5, (1.0,), 64, samples=4, blocks=(0, 1), pooled=True)
    signals = compute_signals(teacher, input_BT, plan, rows=np.arange(3)).to(torch.device("meta"))
    assert signals.sparse and signals.sampled and signals.blocks
    assert signals.pooled_BD is not None and signals.final_ND is None
    assert signals.sampled.num_samples == 4
    moved = [signals.sparse.ids_NK, signals.sampled.counts_NK, *signals.blocks.values()]
    assert all(tensor.device.type == "meta" for tensor in [*moved, signals.pooled_BD])
