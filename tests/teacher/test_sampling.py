"""Samples of the teacher: the right distribution, and the same draws whoever asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from kdwatts.losses.sparse import sampled_forward_kl
from kdwatts.teacher.sampling import SampledLogits, sampled_logits, uniforms
from kdwatts.teacher.signals import SignalPlan, compute_signals


def shares(drawn: SampledLogits, vocabulary: int) -> Tensor:
    """count / draws as a dense [N, V]."""
    dense_NV = torch.zeros(len(drawn.ids_NK), vocabulary, dtype=torch.float64)
    return dense_NV.scatter_add(1, drawn.ids_NK, drawn.counts_NK.double() / drawn.num_samples)


def test_tokens_are_found_by_inversion_as_by_hand():
    """p = 0.5, 0.25, 0.25: numbers below 0.5 are token 0, from 0.5 to 0.75 token 1."""
    logits_NV = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    uniform_NS = torch.tensor([[0.0, 0.49, 0.5, 0.74, 0.76, 0.999999]], dtype=torch.float64)
    drawn = sampled_logits(logits_NV, uniform_NS)
    assert drawn.ids_NK.tolist() == [[0, 1, 2, 0, 0, 0]]
    assert drawn.counts_NK.tolist() == [[2, 2, 2, 0, 0, 0]]
    assert drawn.num_samples == 6


def test_a_token_without_mass_is_never_drawn_and_every_draw_is_counted():
    logits_NV = torch.full((64, 9), -torch.inf)
    logits_NV[:, 3] = 0.0
    logits_NV[:, 6] = 1.0
    uniform_NS = torch.from_numpy(uniforms(np.array([4]), sequence_length=64, num_samples=50)[0])
    uniform_NS[0, 0], uniform_NS[0, -1] = 0.0, np.nextafter(1.0, 0.0)
    drawn = sampled_logits(logits_NV, uniform_NS)
    assert set(drawn.ids_NK[drawn.counts_NK > 0].tolist()) == {3, 6}
    assert torch.equal(drawn.counts_NK.sum(-1), torch.full((64,), 50))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_mean_share_of_a_token_is_its_probability_at_the_temperature(temperature: float):
    logits_V = 2 * torch.randn(12, generator=torch.Generator().manual_seed(0))
    rows = np.arange(200)
    drawn_BTS = uniforms(rows, sequence_length=20, num_samples=50)
    uniform_NS = torch.from_numpy(drawn_BTS).flatten(0, 1)
    drawn = sampled_logits(logits_V.expand(4000, -1), uniform_NS, temperature=temperature)
    mean_V = shares(drawn, 12).mean(0)
    p_V = (logits_V.double() / temperature).softmax(-1)
    error_V = (p_V * (1 - p_V) / (4000 * 50)).sqrt()
    assert torch.all((mean_V - p_V).abs() < 5 * error_V)
    other_V = (logits_V.double() / (3 - temperature)).softmax(-1)
    assert torch.any((mean_V - other_V).abs() > 20 * error_V)


def test_the_gradient_of_the_samples_is_that_of_the_full_divergence_on_average():
    teacher_V = torch.randn(10, generator=torch.Generator().manual_seed(1))
    student_NV = torch.randn(10, generator=torch.Generator().manual_seed(2)).expand(4000, -1)
    student_NV = student_NV.double().clone().requires_grad_()
    drawn_BTS = uniforms(np.arange(200), sequence_length=20, num_samples=50)
    uniform_NS = torch.from_numpy(drawn_BTS).flatten(0, 1)
    drawn = sampled_logits(teacher_V.expand(4000, -1), uniform_NS)
    loss_N = sampled_forward_kl(student_NV, drawn.ids_NK, drawn.counts_NK / 50)
    (found_NV,) = torch.autograd.grad(loss_N.sum(), student_NV)
    # Of KL(p || q) to the student's logits: q - p.
    expected_V = student_NV[0].detach().softmax(-1) - teacher_V.double().softmax(-1)
    torch.testing.assert_close(found_NV.mean(0), expected_V, atol=3e-3, rtol=0)


def test_keeping_only_some_of_the_distinct_tokens_would_be_biased():
    """The wrong rule, renormalising the four most drawn, which this project does not have."""
    logits_V = torch.randn(12, generator=torch.Generator().manual_seed(0))
    uniform_NS = torch.from_numpy(uniforms(np.arange(4), sequence_length=500, num_samples=20))
    drawn = sampled_logits(logits_V.expand(2000, -1), uniform_NS.flatten(0, 1))
    share_NV = shares(drawn, 12)
    top_NK, ids_NK = share_NV.topk(4)
    wrong_NV = torch.zeros_like(share_NV).scatter(1, ids_NK, top_NK / top_NK.sum(-1, keepdim=True))
    p_V = logits_V.double().softmax(-1)
    assert (share_NV.mean(0) - p_V).abs().max() < 0.008
    assert (wrong_NV.mean(0) - p_V).abs().max() > 0.03


def test_the_draws_of_a_row_are_its_own_in_any_batch_and_ascend():
    whole = uniforms(np.array([3, 8, 5]), sequence_length=7, num_samples=6)
    assert np.array_equal(whole[1], uniforms(np.array([8]), sequence_length=7, num_samples=6)[0])
    assert not np.array_equal(whole[0], whole[1])
    assert np.all(np.diff(whole, axis=-1) >= 0) and whole.min() >= 0 and whole.max() < 1


def test_a_teachers_samples_do_not_depend_on_batch_chunk_or_global_seed(
    teacher: LlamaForCausalLM, input_BT: Tensor
):
    plan = SignalPlan(vocabulary=60, samples=20, sample_temperature=2.0)
    torch.manual_seed(1)
    whole = compute_signals(teacher, input_BT, plan, rows=np.array([4, 9, 2])).sampled
    torch.manual_seed(2)
    part = compute_signals(teacher, input_BT[1:2], plan, rows=np.array([9]), chunk_rows=2).sampled
    assert whole and part and whole.ids_NK.max() < 60
    assert torch.equal(whole.ids_NK.view(3, 5, -1)[1], part.ids_NK)
    assert torch.equal(whole.counts_NK.view(3, 5, -1)[1], part.counts_NK)


def test_a_teachers_samples_are_of_its_own_logits_at_the_plans_temperature(
    teacher: LlamaForCausalLM, input_BT: Tensor
):
    plan = SignalPlan(vocabulary=60, samples=20, sample_temperature=2.0)
    rows = np.array([4, 9, 2])
    found = compute_signals(teacher, input_BT, plan, rows=rows).sampled
    with torch.no_grad():
        logits_NV = teacher(input_BT).logits[..., :60].flatten(0, 1)
    uniform_NS = torch.from_numpy(uniforms(rows, sequence_length=5, num_samples=20)).flatten(0, 1)
    expected = sampled_logits(logits_NV, uniform_NS, temperature=2.0)
    assert found and torch.equal(found.ids_NK, expected.ids_NK)
    assert torch.equal(found.counts_NK, expected.counts_NK)
    colder = sampled_logits(logits_NV, uniform_NS, temperature=1.0)
    assert not torch.equal(found.counts_NK, colder.counts_NK)
