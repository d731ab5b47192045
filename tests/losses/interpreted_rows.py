"""Tests of the fused kernel that Triton's interpreter runs on the CPU.

`test_fused_rows` runs this file and `interpreted_trial` in a process of their own, since Triton
reads TRITON_INTERPRET when it is imported. The interpreter cuts float32 off where a GPU rounds it
to bfloat16.
"""

# N rows, V vocabulary.

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter  # pyright: ignore[reportMissingImports]

from kdwatts.losses import fused_choice, fused_kinds
from kdwatts.losses.fused_plan import plan_of
from kdwatts.losses.fused_rows import fused_losses, scale_in_place
from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.logit_rows import Block, RowTerm, block_losses
from kdwatts.losses.response import CLOSED_FORMS, dense_term
from kdwatts.losses.sparse import cross_entropy_term, sampled_term, top_k_of, top_k_term

# Lanes beyond the end of a row hold minus infinity, and numpy speaks of their differences.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

NUM_ROWS, VOCABULARY, BLOCK = 2, 149, 64
TARGET = torch.tensor([3, VOCABULARY - 1])
WEIGHTS = {"ce": 0.3, "kd": 1.7}
KINDS = [*CLOSED_FORMS, "top_k", "sampled"]
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks a row, of which the last one is not full."""
    monkeypatch.setattr(fused_kinds, "BLOCK", BLOCK)


def logits(seed: int, rows: int = NUM_ROWS, vocabulary: int = VOCABULARY) -> Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


def terms_of(
    kind: str, teacher_NV: Tensor, *, temperature: float = 1.0, with_ce: bool = True
) -> dict[str, RowTerm]:
    terms: dict[str, RowTerm] = {}
    if with_ce:
        terms["ce"] = cross_entropy_term(TARGET[: len(teacher_NV)])
    if kind == "top_k":
        terms["kd"] = top_k_term(
            top_k_of(teacher_NV.float(), k=7, temperature=temperature), temperature=temperature
        )
    elif kind == "sampled":
        # Padding names a token that was drawn, and the target is one of them.
        ids_NK = teacher_NV.float().topk(3).indices
        ids_NK = torch.cat([ids_NK, ids_NK[:, :1], TARGET[: len(teacher_NV), None]], 1)
        share_K = torch.tensor([0.5, 0.25, 0.125, 0.0, 0.125])
        terms["kd"] = sampled_term(ids_NK, share_K.expand(len(ids_NK), -1), temperature=temperature)
    elif kind != "none":
        terms["kd"] = dense_term(kind, temperature=temperature)
    return terms


def plain(
    terms: Mapping[str, RowTerm], student_NV: Tensor, teacher_NV: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum of each term and the gradient, in float64."""
    student_NV, teacher_NV = student_NV.double(), teacher_NV.double()
    block = Block(slice(0, len(student_NV)), student_NV, teacher_NV)
    return block_losses(block, terms, WEIGHTS), student_NV


def fused(
    terms: Mapping[str, RowTerm], student_NV: Tensor, teacher_NV: Tensor, *, needs_grad: bool = True
) -> Tensor:
    plan = plan_of(terms, WEIGHTS)
    assert plan
    rows = slice(0, len(student_NV))
    return fused_losses(plan, rows, student_NV, teacher_NV, needs_grad=needs_grad)


def check(terms: Mapping[str, RowTerm], student_NV: Tensor, teacher_NV: Tensor) -> None:
    """Losses and gradient of the kernel are those of the plain form in float64."""
    expected, slope_NV = plain(terms, student_NV, teacher_NV)
    found_NV = student_NV.clone()
    found = fused(terms, found_NV, teacher_NV)
    assert found_NV.dtype == student_NV.dtype
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    rounding = ROUNDING[student_NV.dtype]
    torch.testing.assert_close(
        found_NV.double(), slope_NV, rtol=rounding, atol=1e-6 * len(terms) + rounding * 1e-3
    )


@pytest.mark.parametrize("with_ce", [True, False], ids=["ce", "alone"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("dtype", ROUNDING, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradient_are_those_of_float64(
    kind: str, dtype: torch.dtype, temperature: float, with_ce: bool
):
    student_NV, teacher_NV = logits(1).to(dtype), logits(2).to(dtype)
    check(
        terms_of(kind, teacher_NV, temperature=temperature, with_ce=with_ce), student_NV, teacher_NV
    )


def test_cross_entropy_alone_is_that_of_torch():
    student_NV = logits(1)
    found = fused({"ce": cross_entropy_term(TARGET)}, student_NV.clone(), student_NV)
    expected = torch.nn.functional.cross_entropy(student_NV.double(), TARGET, reduction="sum")
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("jsd", {"beta": 0.9}), ("skew_kl", {"skew": 0.4}), ("skew_reverse_kl", {"skew": 0.4})],
)
def test_the_share_of_a_mixture_counts_on_the_side_that_it_names(kind: str, options: dict):
    student_NV, teacher_NV = logits(1), logits(2)
    check({"kd": dense_term(kind, **options)}, student_NV, teacher_NV)


@pytest.mark.parametrize("ruled_out", ["student", "teacher", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_a_bias_rules_out_leave_no_nan(kind: str, ruled_out: str):
    student_NV, teacher_NV = logits(1), logits(2)
    # A whole block of the first row, so that its first maximum is a token that is ruled out.
    for name, sides_NV in (("student", student_NV), ("teacher", teacher_NV)):
        if ruled_out in (name, "both"):
            sides_NV[0, : BLOCK + 3] = -1e30
    terms = terms_of(kind, teacher_NV)
    terms["ce"] = cross_entropy_term(torch.tensor([BLOCK + 9, 5]))
    if kind in ("forward_kl", "reverse_kl", "sampled") and ruled_out != "both":
        # The value is infinite by right, here some 1e30: the gradient is what must stay finite.
        _, slope_NV = plain(terms, student_NV, teacher_NV)
        found = fused(terms, student_NV, teacher_NV)
        assert found.isfinite().all() and student_NV.isfinite().all()
        if kind != "reverse_kl":
            torch.testing.assert_close(student_NV.double(), slope_NV, rtol=1e-5, atol=2e-6)
    else:
        check(terms, student_NV, teacher_NV)


@pytest.mark.parametrize("kind", CLOSED_FORMS)
def test_a_student_that_is_its_teacher_has_no_slope(kind: str):
    student_NV = logits(1)
    terms = {"kd": dense_term(kind)}
    value = fused(terms, student_NV, student_NV.clone())
    assert abs(value.item()) < 1e-6 and student_NV.abs().max() < 1e-6


def test_probabilities_are_equal_within_rounding_and_not_beyond_it():
    student_NV = logits(1)
    apart_V = torch.where(torch.arange(VOCABULARY) % 3 == 0, 1.0, -1.0)
    terms = {"kd": dense_term("total_variation")}
    check(terms, student_NV.clone(), student_NV + 2e-4 * apart_V)
    fused(terms, student_NV, student_NV + 1e-6 * apart_V)
    assert student_NV.abs().max() == 0


def test_what_a_student_leaves_to_unnamed_tokens_counts_as_the_least_number_where_it_is_less():
    student_NV, teacher_NV = logits(1), logits(2)
    terms = terms_of("top_k", teacher_NV, with_ce=False)
    student_NV.scatter_add_(1, teacher_NV.topk(7).indices, torch.full((NUM_ROWS, 7), 200.0))
    plain_NV = student_NV.clone()
    expected = block_losses(Block(slice(0, NUM_ROWS), plain_NV, teacher_NV), terms, WEIGHTS)
    found = fused(terms, student_NV, teacher_NV)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(student_NV, plain_NV, rtol=1e-5, atol=1e-6)


def test_one_row_and_no_row():
    student_NV, teacher_NV = logits(1, rows=1), logits(2, rows=1)
    check(terms_of("jsd", teacher_NV), student_NV, teacher_NV)
    nothing_NV = student_NV[:0]
    assert fused(terms_of("jsd", nothing_NV), nothing_NV, nothing_NV).tolist() == [0, 0]


def test_a_vocabulary_of_less_than_one_block():
    student_NV, teacher_NV = logits(1)[:, :9].clone(), logits(2)[:, :9].clone()
    for kind in ("forward_kl", "jsd"):
        terms = {"ce": cross_entropy_term(torch.tensor([8, 0])), "kd": dense_term(kind)}
        check(terms, student_NV, teacher_NV)


def test_rows_of_wider_tensors_are_read_and_written_in_place_and_nothing_else_is():
    whole_NV, teacher_NV = logits(1, vocabulary=VOCABULARY + 11), logits(2, vocabulary=200)
    before_NV, student_NV = whole_NV.clone(), whole_NV[:, :VOCABULARY]
    terms = terms_of("jsd", teacher_NV[:, :VOCABULARY])
    _, slope_NV = plain(terms, student_NV.clone(), teacher_NV[:, :VOCABULARY].clone())
    fused(terms, student_NV, teacher_NV[:, :VOCABULARY])
    torch.testing.assert_close(student_NV.double(), slope_NV, rtol=2e-6, atol=2e-6)
    assert torch.equal(whole_NV[:, VOCABULARY:], before_NV[:, VOCABULARY:])


@pytest.mark.parametrize("kind", ["forward_kl", "jsd", "sampled"])
def test_without_gradient_nothing_is_written_and_the_losses_are_the_same(kind: str):
    student_NV, teacher_NV = logits(1), logits(2)
    terms, kept_NV = terms_of(kind, teacher_NV), student_NV.clone()
    found = fused(terms, student_NV, teacher_NV, needs_grad=False)
    assert torch.equal(student_NV, kept_NV)
    assert torch.equal(found, fused(terms, student_NV, teacher_NV))


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Bytes of bfloat16, which logits alone are here, that the kernel loads and stores."""
    count = {"read": 0, "written": 0}
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def counted_load(self, ptrs, mask, *rest):
        if ptrs.get_element_ty() == interpreter.tl.bfloat16:
            count["read"] += 2 * int(mask.data.sum())
        return load(self, ptrs, mask, *rest)

    def counted_store(self, ptrs, value, mask, *rest):
        if ptrs.get_element_ty() == interpreter.tl.bfloat16:
            count["written"] += 2 * int(mask.data.sum())
        return store(self, ptrs, value, mask, *rest)

    monkeypatch.setattr(builder, "create_masked_load", counted_load)
    monkeypatch.setattr(builder, "create_masked_store", counted_store)
    yield count


@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_the_kernel_moves_the_bytes_that_are_counted(kind: str, moved: dict[str, int]):
    width = 4 * BLOCK
    student_NV, teacher_NV = (logits(s, vocabulary=width).bfloat16() for s in (1, 2))
    terms = terms_of(kind, teacher_NV, temperature=2.0)
    fused(terms, student_NV, teacher_NV)
    each = fused_kinds.bytes_per_logit(
        {**fused_kinds.KINDS, "top_k": fused_kinds.TOP_K}.get(kind, fused_kinds.NONE),
        vocabulary=width,
    )
    assert moved["written"] == 2 * NUM_ROWS * width
    assert moved["read"] + moved["written"] == each * NUM_ROWS * width


def test_a_head_through_the_kernel_is_the_head_through_the_plain_form(
    monkeypatch: pytest.MonkeyPatch,
):
    def step() -> list[Tensor]:
        hidden_ND = logits(3, 7, 5).requires_grad_()
        weight_VD = logits(4, VOCABULARY, 5).requires_grad_()
        target_N = torch.arange(7) * 20
        terms = {"ce": cross_entropy_term(target_N), "kd": dense_term("jsd", temperature=2.0)}
        teacher = DenseTeacher(logits(5, 7, 4), logits(6, VOCABULARY, 4))
        total, sums = head_loss(hidden_ND, weight_VD, terms, WEIGHTS, teacher=teacher, chunk_rows=3)
        return [total, *sums.values(), *torch.autograd.grad(total, (hidden_ND, weight_VD))]

    expected = step()
    monkeypatch.setattr(fused_choice, "runs_on", lambda _device: True)
    launched: list[int] = []
    launch = fused_choice.fused_losses
    monkeypatch.setattr(
        "kdwatts.losses.head.fused_losses", lambda *a, **k: launched.append(1) or launch(*a, **k)
    )
    for found, wanted in zip(step(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-5)
    assert len(launched) == 3


def test_a_gradient_is_multiplied_in_place():
    values = logits(1)
    expected = 0.25 * values
    scale_in_place(values, torch.tensor(0.25))
    assert torch.equal(values, expected)


def test_a_scale_of_one_reads_and_writes_nothing(monkeypatch: pytest.MonkeyPatch):
    written: list[int] = []
    builder = interpreter.InterpreterBuilder
    monkeypatch.setattr(builder, "create_masked_store", lambda *args: written.append(1))
    scale_in_place(logits(1), torch.tensor(1.0))
    assert not written
    scale_in_place(logits(1), torch.tensor(2.0))
    assert written
