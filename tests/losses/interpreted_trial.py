"""The fused kernel's trial before its first use, by Triton's interpreter on the CPU."""

# N rows, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from kdwatts.losses import fused_choice, fused_kinds
from kdwatts.losses.fused_rows import fused_losses
from kdwatts.losses.logit_rows import RowTerm
from kdwatts.losses.response import CLOSED_FORMS
from kdwatts.losses.sparse import sampled_term
from tests.losses.interpreted_rows import BLOCK, KINDS, NUM_ROWS, ROUNDING, logits, terms_of

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_kinds, "BLOCK", BLOCK)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The kernel as on a GPU that nobody tried. The rows of each trial."""
    monkeypatch.setattr(fused_choice, "runs_on", lambda _device: True)
    monkeypatch.setattr(fused_choice, "_agreed", set())
    monkeypatch.setattr(fused_choice, "refused", {})
    trials: list[int] = []
    right = fused_losses

    def watched(plan, rows, student_nV, teacher_nV, *, needs_grad):
        trials.append(len(student_nV))
        return right(plan, rows, student_nV, teacher_nV, needs_grad=needs_grad)

    monkeypatch.setattr(fused_choice, "fused_losses", watched)
    return trials


def is_taken(
    terms: Mapping[str, RowTerm], student_NV: Tensor, teacher_NV: Tensor, *, weight: float = 1.0
) -> bool:
    weights, rows = {"ce": 0.3 * weight, "kd": 1.7 * weight}, slice(0, len(student_NV))
    plan = fused_choice.agreed_plan(terms, weights, rows, student_NV, teacher_NV, needs_grad=True)
    return plan is not None


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("dtype", ROUNDING, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_is_taken_whatever_the_first_chunk_holds_and_leaves_it_as_it_is(
    kind: str, dtype: torch.dtype, temperature: float, tried: list[int]
):
    teacher_NV = logits(2).to(dtype)
    terms = terms_of(kind, teacher_NV, temperature=temperature)
    before = torch.get_rng_state()
    student_NV = torch.full_like(teacher_NV, torch.nan)
    # A weight as a step of 10^5 targets has it.
    assert is_taken(terms, student_NV, teacher_NV, weight=1e-5)
    assert tried == [NUM_ROWS] and student_NV.isnan().all()
    assert torch.equal(torch.get_rng_state(), before)


def loss_too_large(found: Tensor, _student_nV: Tensor) -> Tensor:
    return 1.01 * found


def gradient_too_large(found: Tensor, student_nV: Tensor) -> Tensor:
    student_nV.mul_(1.01)
    return found


def one_row_not_written(found: Tensor, student_nV: Tensor) -> Tensor:
    student_nV[-1] = 0
    return found


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (loss_too_large, "losses"),
        (gradient_too_large, "gradients"),
        (one_row_not_written, "gradients"),
    ],
)
@pytest.mark.parametrize("kind", ["forward_kl", "jsd", "top_k"])
def test_a_kernel_that_errs_is_refused_with_one_warning_though_the_first_chunk_would_not_show_it(
    kind: str,
    wrong: Callable[[Tensor, Tensor], Tensor],
    what: str,
    tried: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    def erring(plan, rows, student_nV, teacher_nV, *, needs_grad):
        found = fused_losses(plan, rows, student_nV, teacher_nV, needs_grad=needs_grad)
        return wrong(found, student_nV)

    monkeypatch.setattr(fused_choice, "fused_losses", erring)
    # A student that is its teacher has neither loss nor slope.
    student_NV = logits(1)
    terms = terms_of(kind, student_NV, with_ce=False)
    for _ in range(2):
        assert not is_taken(terms, student_NV, student_NV.clone())
    assert [record.getMessage() for record in caplog.records] == [
        f"losses: the fused kernel is not used on cpu, because its {what} differ from those of the "
        "plain form; the plain form runs, which is slower"
    ]


@pytest.mark.parametrize("kind", CLOSED_FORMS)
def test_a_kernel_that_leaves_out_the_last_token_is_refused(
    kind: str, tried: list[int], monkeypatch: pytest.MonkeyPatch
):
    def short(plan, rows, student_nV, teacher_nV, *, needs_grad):
        parts_nV = student_nV[:, :-1], teacher_nV[:, :-1]
        return fused_losses(plan, rows, *parts_nV, needs_grad=needs_grad)

    monkeypatch.setattr(fused_choice, "fused_losses", short)
    terms = terms_of(kind, logits(2), with_ce=False)
    assert not is_taken(terms, logits(1), logits(2))


def test_what_triton_compiles_anew_is_tried_anew(tried: list[int]):
    for width, num_tokens in ((149, 1), (149, 1), (150, 1), (149, 5), (149, 5)):
        student_NV = logits(1, vocabulary=width)
        share_NK = torch.full((NUM_ROWS, num_tokens), 1 / num_tokens)
        ids_NK = torch.arange(num_tokens).expand(NUM_ROWS, -1)
        terms = {"kd": sampled_term(ids_NK, share_NK, temperature=1.0)}
        assert is_taken(terms, student_NV, student_NV)
    assert len(tried) == 3
