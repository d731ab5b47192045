"""The chunked head against dense logits that autograd differentiates in float64."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.chunks import LOGIT_ELEMENTS
from kdwatts.losses.head import Buffers, DenseTeacher, RowTerm, head_loss
from kdwatts.losses.logit_rows import Block, row_loss
from kdwatts.losses.response import DIVERGENCES, dense_term
from kdwatts.losses.sparse import cross_entropy_term, sampled_term, top_k_of, top_k_term
from kdwatts.losses.universal import universal_term

NUM_ROWS, WIDTH, VOCABULARY = 7, 5, 13
TEMPERATURE = 2.0
WEIGHTS = {"ce": 0.3, "kd": 1.7}


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


HIDDEN, WEIGHT, BIAS = (
    normal(0, NUM_ROWS, WIDTH),
    normal(1, VOCABULARY, WIDTH),
    normal(4, VOCABULARY),
)
# A teacher of another width; its logits are what the tests compare with.
TEACHER_HIDDEN, TEACHER_WEIGHT = normal(2, NUM_ROWS, 6), normal(3, VOCABULARY, 6)
TEACHER = TEACHER_HIDDEN @ TEACHER_WEIGHT.T
TARGET = torch.tensor([0, 12, 3, 3, 7, 1, 5])
KINDS = [*DIVERGENCES, "top_k", "sampled"]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def terms(kind: str = "forward_kl", temperature: float = TEMPERATURE) -> dict[str, RowTerm]:
    if kind == "top_k":
        top_k = top_k_of(TEACHER, k=4, temperature=temperature)
        kd = top_k_term(top_k, temperature=temperature)
    elif kind == "sampled":
        share = torch.tensor([0.5, 0.25, 0.25]).expand(NUM_ROWS, -1)
        ids = (TEACHER.argmax(-1, keepdim=True) + torch.arange(3)) % VOCABULARY
        kd = sampled_term(ids, share, temperature=temperature)
    else:
        kd = dense_term(kind, temperature=temperature)
    return {"ce": cross_entropy_term(TARGET), "kd": kd}


def teacher(dtype: torch.dtype = torch.float64) -> DenseTeacher:
    return DenseTeacher(TEACHER_HIDDEN.to(dtype), TEACHER_WEIGHT.to(dtype))


def loss_of(
    hidden: Tensor,
    weight: Tensor,
    named: Mapping[str, RowTerm] | None = None,
    bias: Tensor | None = None,
    chunk_rows: int = 3,
    buffers: Buffers | None = None,
) -> Tensor:
    """The total alone, of forward KL and cross entropy where nothing else is asked for."""
    named = named or terms()
    kind = DenseTeacher(*(t.to(weight.dtype) for t in (TEACHER_HIDDEN, TEACHER_WEIGHT)))
    total, _ = head_loss(
        hidden,
        weight,
        named,
        WEIGHTS,
        bias_V=bias,
        teacher=kind,
        chunk_rows=chunk_rows,
        buffers=buffers,
    )
    return total


def gradients(
    hidden: Tensor,
    weight: Tensor,
    named: Mapping[str, RowTerm] | None = None,
    chunk_rows: int = 3,
    buffers: Buffers | None = None,
):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    total = loss_of(hidden, weight, named, chunk_rows=chunk_rows, buffers=buffers)
    return total.detach(), *torch.autograd.grad(total, (hidden, weight))


def dense_reference(hidden: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Cross entropy and T^2 KL by torch's own functions, on all logits at once."""
    logits = hidden @ weight.T + bias
    log_q = (logits / TEMPERATURE).log_softmax(-1)
    p = (TEACHER / TEMPERATURE).softmax(-1)
    kd = TEMPERATURE**2 * F.kl_div(log_q, p, reduction="sum")
    return WEIGHTS["ce"] * F.cross_entropy(logits, TARGET, reduction="sum") + WEIGHTS["kd"] * kd


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_chunked_loss_and_gradients_are_those_of_dense_float64_logits(
    dtype: torch.dtype, tolerance: float
):
    hidden, weight = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    expected = dense_reference(hidden, weight)
    found = gradients(HIDDEN.to(dtype), WEIGHT.to(dtype))
    wanted = (expected.detach(), *torch.autograd.grad(expected, (hidden, weight)))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@EVERY_KIND
def test_the_gradient_of_the_chunked_loss_is_its_finite_difference(kind: str, temperature: float):
    named = terms(kind, temperature)
    # At temperature 1 cross entropy and divergence share one softmax, at 2 they do not.
    assert torch.autograd.gradcheck(
        lambda hidden, weight, bias: loss_of(hidden, weight, named, bias),
        tuple(t.clone().requires_grad_() for t in (HIDDEN, WEIGHT, BIAS)),
    )


@EVERY_KIND
def test_the_order_of_terms_changes_nothing_though_they_share_memory(kind: str):
    named = terms(kind)
    turned = dict(reversed(named.items()))
    for one, other in zip(
        gradients(HIDDEN, WEIGHT, named), gradients(HIDDEN, WEIGHT, turned), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_head_with_bias_is_that_of_dense_logits_with_bias_and_so_is_the_biass_gradient():
    found, expected = (
        [t.clone().requires_grad_() for t in (HIDDEN, WEIGHT, BIAS)] for _ in range(2)
    )
    total, reference = loss_of(found[0], found[1], bias=found[2]), dense_reference(*expected)
    torch.testing.assert_close(total, reference)
    assert abs(total.item() - dense_reference(HIDDEN, WEIGHT).item()) > 0.1
    for one, other in zip(
        torch.autograd.grad(total, found), torch.autograd.grad(reference, expected), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_bias_of_the_teachers_head_is_part_of_what_it_says():
    with_bias = DenseTeacher(TEACHER_HIDDEN, TEACHER_WEIGHT, BIAS)
    found, _ = head_loss(HIDDEN, WEIGHT, terms(), WEIGHTS, teacher=with_bias, chunk_rows=3)
    # A bias is the weight of an input that is always 1.
    ones = torch.ones(NUM_ROWS, 1, dtype=torch.float64)
    wider = DenseTeacher(
        torch.cat([TEACHER_HIDDEN, ones], 1), torch.cat([TEACHER_WEIGHT, BIAS[:, None]], 1)
    )
    expected, _ = head_loss(HIDDEN, WEIGHT, terms(), WEIGHTS, teacher=wider)
    torch.testing.assert_close(found, expected)
    assert abs(found.item() - dense_reference(HIDDEN, WEIGHT).item()) > 0.1


def test_chunks_of_one_row_more_or_less_lie_in_one_memory():
    places: list[tuple[str, int]] = []

    class Watched(Buffers):
        def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
            taken = super().take(name, rows, columns, like)
            places.append((name, taken.data_ptr()))
            return taken

    buffers = Watched()
    for num_rows in (5, 7, 6):  # Chunks of 2 and 3, then of 2, 2 and 3, then of 3 and 3.
        (hidden, states), weight = (HIDDEN[:num_rows], TEACHER_HIDDEN[:num_rows]), WEIGHT
        sides = DenseTeacher(states, TEACHER_WEIGHT)
        named = {"kd": dense_term("forward_kl")}
        head_loss(hidden, weight, named, WEIGHTS, teacher=sides, chunk_rows=3, buffers=buffers)
    assert len(places) == 2 * (2 + 3 + 2) and len(set(places)) == 2


def test_memory_that_is_too_small_is_given_back_before_more_is_taken():
    buffers, alive = Buffers(), []
    buffers.take("student", 2, 3, HIDDEN)
    (small,) = map(weakref.ref, buffers._held.values())

    class Like:
        dtype, device = HIDDEN.dtype, HIDDEN.device

        @staticmethod
        def new_empty(count: int) -> Tensor:
            alive.append(small())
            return HIDDEN.new_empty(count)

    assert buffers.take("student", 4, 3, cast(Tensor, Like)).shape == (4, 3)
    assert alive == [None]


def test_buffers_are_taken_from_call_to_call_and_what_is_in_them_does_not_matter():
    taken: list[Tensor] = []

    class Watched(Buffers):
        def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
            taken.append(super().take(name, rows, columns, like))
            return taken[-1]

    buffers = Watched()
    gradients(HIDDEN, WEIGHT, buffers=buffers)
    first = list(taken)
    for one in first:
        one.fill_(torch.nan)
    # Of fewer rows, too, whose last chunk leaves room.
    found = gradients(HIDDEN[:5], WEIGHT, buffers=buffers)
    before = {one.data_ptr() for one in first}
    after = {one.data_ptr() for one in taken[len(first) :]}
    assert after and after <= before
    for one, other in zip(found, gradients(HIDDEN[:5], WEIGHT), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 100])
def test_the_chunk_size_changes_neither_loss_nor_gradient(chunk_rows: int):
    for found, expected in zip(
        gradients(HIDDEN, WEIGHT, chunk_rows=chunk_rows),
        gradients(HIDDEN, WEIGHT),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_no_term_ever_sees_more_rows_than_a_chunk():
    seen: list[tuple[int, slice]] = []
    cross_entropy = cross_entropy_term(TARGET)

    def spy(block: Block, weight: float) -> Tensor:
        seen.append((len(block.student(1.0).exp_nV), block.rows))
        return cross_entropy(block, weight)

    head_loss(HIDDEN, WEIGHT, {"spy": spy}, {"spy": 1.0}, chunk_rows=3)
    # As few chunks as go, of about one size.
    assert [rows for _, rows in seen] == [slice(0, 2), slice(2, 4), slice(4, 7)]
    assert [count for count, _ in seen] == [2, 2, 3]


def test_terms_see_a_few_rows_of_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch):
    expected = gradients(HIDDEN, WEIGHT, chunk_rows=7)
    monkeypatch.setitem(LOGIT_ELEMENTS, "cpu", 2 * VOCABULARY)
    for one, other in zip(gradients(HIDDEN, WEIGHT, chunk_rows=7), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_tied_embedding_receives_the_gradients_of_both_its_uses():
    tokens = torch.tensor([1, 3, 3, 0, 12, 4, 7])
    found, expected = (WEIGHT.clone().requires_grad_() for _ in range(2))
    loss_of(found[tokens].tanh(), found).backward()
    dense_reference(expected[tokens].tanh(), expected).backward()
    assert found.grad is not None and expected.grad is not None
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-12)


def test_head_rows_beyond_the_shared_vocabulary_have_no_part_in_loss_or_gradient():
    padded = torch.cat([WEIGHT, 100 * normal(3, 4, WIDTH)]).requires_grad_()
    total = loss_of(HIDDEN, padded[:VOCABULARY])
    (gradient,) = torch.autograd.grad(total, padded)
    expected = gradients(HIDDEN, WEIGHT)
    torch.testing.assert_close(total.detach(), expected[0])
    torch.testing.assert_close(gradient[:VOCABULARY], expected[2])
    assert not gradient[VOCABULARY:].any()


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_leaves_the_gradient_of_the_other_as_it_is(frozen: int):
    sides = [HIDDEN.clone(), WEIGHT.clone()]
    trained = sides[1 - frozen].requires_grad_()
    total = loss_of(sides[0], sides[1])
    (gradient,) = torch.autograd.grad(total, trained)
    torch.testing.assert_close(gradient, gradients(HIDDEN, WEIGHT)[2 - frozen])


def test_parts_are_sums_without_their_weights_and_without_gradient():
    hidden = HIDDEN.clone().requires_grad_()
    total, parts = head_loss(hidden, WEIGHT, terms(), WEIGHTS, teacher=teacher(), chunk_rows=3)
    torch.testing.assert_close(total.detach(), 0.3 * parts["ce"] + 1.7 * parts["kd"])
    expected = F.cross_entropy(HIDDEN @ WEIGHT.T, TARGET, reduction="sum")
    torch.testing.assert_close(parts["ce"], expected)
    assert total.requires_grad and not any(part.requires_grad for part in parts.values())


def test_a_third_of_the_loss_has_a_third_of_the_gradient_and_backward_may_run_twice():
    hidden, weight = HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    total = loss_of(hidden, weight)
    third = total / 3
    _, *expected = gradients(HIDDEN, WEIGHT)
    for _ in range(2):
        found = torch.autograd.grad(third, (hidden, weight), retain_graph=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(3 * one, other)


def test_a_second_derivative_is_refused_rather_than_zero():
    hidden = HIDDEN.clone().requires_grad_()
    total = loss_of(hidden, WEIGHT)
    (gradient,) = torch.autograd.grad(total.square(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*DIVERGENCES, "universal"])
def test_a_student_that_is_its_teacher_has_no_slope_over_32000_tokens(
    kind: str, dtype: torch.dtype
):
    hidden, weight = (normal(seed, *shape) for seed, shape in ((0, (4, 16)), (1, (32_000, 16))))
    hidden, weight = hidden.to(dtype).requires_grad_(), weight.to(dtype)
    kd = universal_term() if kind == "universal" else dense_term(kind)
    total, _ = head_loss(
        hidden, weight, {"kd": kd}, {"kd": 1.0}, teacher=DenseTeacher(hidden.detach(), weight)
    )
    (gradient,) = torch.autograd.grad(total, hidden)
    assert gradient.norm(dim=-1).max() < 1e-5


@pytest.mark.parametrize("masked", ["student", "teacher", "both"])
@pytest.mark.parametrize("kind", [*KINDS, "universal"])
def test_a_token_that_a_bias_rules_out_counts_as_one_that_logits_rule_out(kind: str, masked: str):
    ruled_out = torch.zeros(VOCABULARY, dtype=torch.float64)
    ruled_out[9] = -torch.inf
    student_bias = ruled_out if masked in ("student", "both") else torch.zeros_like(ruled_out)
    teacher_bias = ruled_out if masked in ("teacher", "both") else torch.zeros_like(ruled_out)
    teacher_logits = TEACHER + teacher_bias
    if kind == "top_k":
        kd = top_k_term(top_k_of(teacher_logits, k=4), temperature=1.0)
    elif kind == "sampled":  # Padding of samples names any token, here the one ruled out.
        ids = torch.stack([teacher_logits.argmax(-1), torch.full((NUM_ROWS,), 9)], -1)
        kd = sampled_term(ids, torch.tensor([1.0, 0.0]).expand(NUM_ROWS, -1), temperature=1.0)
    else:
        kd = universal_term() if kind == "universal" else dense_term(kind)
    named = {"ce": cross_entropy_term(TARGET), "kd": kd}
    found, expected = (HIDDEN.clone().requires_grad_() for _ in range(2))
    total, _ = head_loss(
        found,
        WEIGHT,
        named,
        WEIGHTS,
        bias_V=student_bias,
        teacher=DenseTeacher(TEACHER_HIDDEN, TEACHER_WEIGHT, teacher_bias),
        chunk_rows=100,
    )
    logits = expected @ WEIGHT.T + student_bias
    dense = teacher_logits if kind in DIVERGENCES or kind == "universal" else None
    reference = WEIGHTS["ce"] * row_loss(named["ce"], logits).sum()
    reference = reference + WEIGHTS["kd"] * row_loss(kd, logits, dense).sum()
    sides = (
        (total, *torch.autograd.grad(total, found)),
        (reference, *torch.autograd.grad(reference, expected)),
    )
    for one, other in zip(*sides, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_micro_batch_without_targets_has_loss_zero_and_gradient_zero():
    hidden, weight = HIDDEN[:0].clone().requires_grad_(), WEIGHT.clone().requires_grad_()
    total, parts = head_loss(hidden, weight, terms(), WEIGHTS, teacher=teacher())
    found = torch.autograd.grad(total, (hidden, weight))
    assert total.item() == 0 and all(part.item() == 0 for part in parts.values())
    assert found[0].shape == (0, WIDTH) and not found[1].any()


def test_without_gradients_the_loss_is_the_same():
    with torch.no_grad():
        total = loss_of(HIDDEN, WEIGHT)
    torch.testing.assert_close(total, dense_reference(HIDDEN, WEIGHT))


@EVERY_KIND
def test_under_autocast_products_are_bfloat16_and_losses_and_gradients_float32(kind: str):
    seen: list[Tensor] = []
    named, cross_entropy = terms(kind), cross_entropy_term(TARGET)

    def spy(block: Block, weight: float) -> Tensor:
        softmax = block.student(1.0)
        seen.append(softmax.shifted_nV)
        return cross_entropy(block, weight)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(HIDDEN.float(), WEIGHT.float(), {"ce": spy, "kd": named["kd"]})
    assert {logits.dtype for logits in seen} == {torch.float32}
    # Rounded by the product: in each row every logit is a bfloat16 number, as is their maximum.
    logits_NV = (HIDDEN.bfloat16() @ WEIGHT.bfloat16().T).float()
    torch.testing.assert_close(torch.cat(seen), logits_NV - logits_NV.amax(-1, keepdim=True))
    for one, other in zip(found, gradients(HIDDEN, WEIGHT, named), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=0.02, atol=0.08)


def test_the_gradient_of_narrow_logits_is_summed_in_float32_before_it_is_rounded():
    # q - p of two nearly equal distributions: in bfloat16 the difference of two rounded numbers
    # would be a multiple of 2^-9 of them, or nothing at all.
    student_NV = normal(5, 4, VOCABULARY).bfloat16()
    block = Block(slice(0, 4), student_NV.clone(), student_NV.float() + 1e-3 * normal(6, 4, 13))
    dense_term("forward_kl")(block, 1.0)
    found = block.close()
    reference = student_NV.double().softmax(-1)
    expected = reference - (student_NV.float() + 1e-3 * normal(6, 4, 13)).double().softmax(-1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=1e-7)
    wrong = reference.bfloat16() - (reference - expected).bfloat16()
    assert (wrong.double() - expected).norm() > 0.5 * expected.norm()


def test_a_bfloat16_head_adds_up_its_gradient_over_chunks_in_float32():
    # The hundredth equal addend of a bfloat16 sum is already rounded; the thousandth is lost.
    hidden = torch.full((1024, 1), 1.0, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    named = {"ce": cross_entropy_term(torch.zeros(1024).long())}
    total, _ = head_loss(hidden, weight, named, {"ce": 1.0}, chunk_rows=1)
    (gradient,) = torch.autograd.grad(total, weight)
    # Each row gives q - 1 = -1/2 to the target and +1/2 to the other.
    assert gradient.dtype == torch.bfloat16 and gradient.flatten().tolist() == [-512.0, 512.0]


def test_the_teacher_receives_no_gradient_even_where_it_could():
    sides = [TEACHER_HIDDEN.clone().requires_grad_(), TEACHER_WEIGHT.clone().requires_grad_()]
    hidden = HIDDEN.clone().requires_grad_()
    named = {"kd": dense_term("forward_kl")}
    total, _ = head_loss(hidden, WEIGHT, named, {"kd": 1.0}, teacher=DenseTeacher(*sides))
    total.backward()
    assert hidden.grad is not None and all(side.grad is None for side in sides)


def test_a_gradient_that_need_not_be_scaled_is_handed_over_and_not_copied():
    weight = WEIGHT.clone().requires_grad_()
    total = loss_of(HIDDEN, weight)
    assert total.grad_fn is not None
    saved = total.grad_fn.saved_tensors[1]  # pyright: ignore[reportAttributeAccessIssue]
    (gradient,) = torch.autograd.grad(total, weight)
    assert gradient.data_ptr() == saved.data_ptr()
