"""When the fused kernel runs, and what happens where it cannot."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kdwatts.losses import fused_choice, products
from kdwatts.losses.head import _scaled_unseen, _weighted
from kdwatts.losses.products import Buffers, add_product, adds_in_float32
from kdwatts.losses.response import dense_term
from kdwatts.losses.sparse import cross_entropy_term
from tests.losses.test_head import HIDDEN, WEIGHT, WEIGHTS, gradients, normal, terms


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is tried here, where no GPU and no interpreter can run it."""
    monkeypatch.setattr(fused_choice, "runs_on", lambda _device: True)
    monkeypatch.setattr(fused_choice, "_agreed", set())
    monkeypatch.setattr(fused_choice, "refused", {})


def test_where_the_kernel_cannot_run_one_warning_says_so_and_losses_are_the_plain_form_s(
    as_on_a_gpu: None, caplog: pytest.LogCaptureFixture
):
    sides = HIDDEN.float(), WEIGHT.float()
    found = [gradients(*sides), gradients(*sides)]
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    # Torch or Triton says what is missing, such as a driver.
    assert fused_choice.refused[torch.device("cpu")] in message
    assert message.startswith("losses: the fused kernel is not used on cpu, because it fails (")
    assert message.endswith("; the plain form runs, which is slower")
    expected = gradients(HIDDEN, WEIGHT)
    for one in found:
        for tensor, other in zip(one, expected, strict=True):
            torch.testing.assert_close(tensor.double(), other, rtol=1e-5, atol=1e-5)


def test_the_warning_says_in_one_line_why_the_kernel_fails(
    as_on_a_gpu: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def failing(*_args: object, **_options: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify it")

    monkeypatch.setattr(fused_choice, "fused_losses", failing)
    gradients(HIDDEN.float(), WEIGHT.float())
    assert [record.getMessage() for record in caplog.records] == [
        "losses: the fused kernel is not used on cpu, because it fails (RuntimeError: Failed to "
        "find C compiler.); the plain form runs, which is slower"
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_dtypes_that_the_kernel_does_not_take_are_never_tried(
    dtype: torch.dtype, as_on_a_gpu: None, caplog: pytest.LogCaptureFixture
):
    logits = normal(0, 7, 13).to(dtype)
    named, rows = {"ce": cross_entropy_term(torch.zeros(7).long())}, slice(0, 7)
    assert fused_choice.agreed_plan(named, {"ce": 1.0}, rows, logits, None, needs_grad=True) is None
    assert not caplog.records


def test_a_kernel_that_fails_says_with_which_words(
    as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_args: object, **_options: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler.\nTry again.")

    monkeypatch.setattr(fused_choice, "fused_losses", fail)
    gradients(HIDDEN.float(), WEIGHT.float())
    assert fused_choice.refused == {
        torch.device("cpu"): "it fails (RuntimeError: Failed to find C compiler.)"
    }


def test_a_cpu_is_never_asked_for_the_kernel():
    assert not fused_choice.runs_on(torch.device("cpu"))
    assert fused_choice.runs_on(torch.device("cuda", 0))


def test_unequal_vocabularies_are_left_to_the_plain_form_which_names_both(as_on_a_gpu: None):
    student, teacher = normal(0, 3, 13).float(), normal(1, 3, 12).float()
    named, rows = {"kd": dense_term("jsd")}, slice(0, 3)
    plan = fused_choice.agreed_plan(named, WEIGHTS, rows, student, teacher, needs_grad=True)
    assert plan is None


def kept(dtype: torch.dtype) -> list[tuple[Tensor | None, torch.dtype | None]]:
    """Gradients of hidden states, head and bias, of which there is none."""
    hidden, weight = normal(0, 4, 5).float(), normal(1, 6, 5).float()
    return [(hidden, torch.float32), (weight, dtype), (None, None)]


def test_the_head_s_gradient_is_multiplied_where_it_lies_once_and_copied_from_then_on():
    ctx, gradients = SimpleNamespace(scale=None), kept(torch.float32)
    (states, _), (weight, _), _ = gradients
    assert states is not None and weight is not None
    before, given = weight.clone(), []
    for scale in (0.5, 0.5, 3.0, 1.0):
        hidden, found, bias = _scaled_unseen(ctx, gradients, torch.tensor(scale))
        assert hidden is not states and bias is None and found is not None
        torch.testing.assert_close(hidden, scale * states)
        given.append((found, scale * before))
    assert [found is weight for found, _ in given] == [True, False, False, False]
    for found, expected in given:
        torch.testing.assert_close(found, expected)


def test_a_third_of_a_bfloat16_gradient_is_rounded_once(monkeypatch: pytest.MonkeyPatch):
    multiply, kinds = torch.mul, []

    def watched(left: Tensor, right: Tensor, **options: Tensor) -> Tensor:
        kinds.append(torch.result_type(left, right))  # A GPU takes both factors in this dtype.
        return multiply(left, right, **options)

    monkeypatch.setattr(torch, "mul", watched)
    states = normal(0, 4, 5).bfloat16()
    third = torch.tensor(1 / 3)
    found, *_ = _scaled_unseen(SimpleNamespace(scale=None), [(states, torch.bfloat16)], third)
    assert found is not None and torch.equal(found, (states.float() * third).bfloat16())
    assert kinds == [torch.float32]


def test_the_gradient_of_a_bfloat16_head_is_rounded_once():
    (hidden, weight, bias) = kept(torch.bfloat16)
    ctx = SimpleNamespace(scale=None)
    _, found, _ = _scaled_unseen(ctx, [hidden, weight, bias], torch.tensor(0.3))
    assert found is not None and weight[0] is not None
    assert torch.equal(found, (weight[0] * torch.tensor(0.3)).bfloat16())


def test_terms_are_weighted_by_numbers_on_a_gpu_as_by_a_tensor_elsewhere():
    sums = torch.tensor([2.0, 3.0], dtype=torch.float64)
    assert _weighted(sums, [0.5, 4.0]).item() == 13
    on_meta = _weighted(sums.to("meta"), [0.5, 4.0])
    assert on_meta.shape == () and on_meta.dtype == torch.float64


def test_a_cpu_does_not_add_bfloat16_products_to_float32_directly():
    assert not adds_in_float32(torch.device("cpu"), torch.bfloat16)


@pytest.fixture
def cuda_products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What CUDA has: overloads of products that exist on no CPU. The names of those called."""
    calls: list[str] = []

    def mm(left: Tensor, right: Tensor, dtype: torch.dtype, *, out: Tensor) -> None:
        calls.append("mm")
        out.copy_(left.to(dtype) @ right.to(dtype))

    def addmm(total: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype, *, out: Tensor):
        calls.append("addmm")
        out.copy_(total + left.to(dtype) @ right.to(dtype))

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(torch, "addmm", addmm)
    monkeypatch.setattr(products, "adds_in_float32", lambda *_: True)
    monkeypatch.setattr(products, "_failed", set())
    return calls


def test_products_that_are_added_directly_are_those_of_torch(cuda_products: list[str]):
    left, right, total = normal(0, 3, 4).bfloat16(), normal(1, 4, 2).bfloat16(), torch.empty(3, 2)
    for first in (True, False):
        add_product(left, right, total, Buffers(), first=first)
    torch.testing.assert_close(total, 2 * (left.float() @ right.float()))
    assert cuda_products == ["mm", "addmm"]


def test_a_product_that_cuda_refuses_later_is_rounded_and_added_with_one_warning(
    cuda_products: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    left, right, total = normal(0, 3, 4).bfloat16(), normal(1, 4, 2).bfloat16(), torch.empty(3, 2)
    add_product(left, right, total, Buffers(), first=True)

    def refusing(*_args: object, **_options: object) -> None:
        cuda_products.append("refused")
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED when calling cublasGemmEx\nframe #0")

    monkeypatch.setattr(torch, "addmm", refusing)
    monkeypatch.setattr(
        torch, "mm", lambda left, right, *, out: out.copy_(left.float() @ right.float())
    )
    for _ in range(2):
        add_product(left, right, total, Buffers(), first=False)
    torch.testing.assert_close(total, 3 * (left.float() @ right.float()), rtol=1e-2, atol=1e-2)
    assert cuda_products == ["mm", "refused"]
    assert [record.getMessage() for record in caplog.records] == [
        "products of torch.bfloat16 are rounded before they are added to the head's gradient on "
        "cpu, as adding them to float32 directly fails (CUBLAS_STATUS_NOT_SUPPORTED when calling "
        "cublasGemmEx)"
    ]


def test_memory_that_is_short_in_a_product_is_no_reason_to_round(
    cuda_products: list[str], monkeypatch: pytest.MonkeyPatch
):
    def short(*_args: object, **_options: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch, "mm", short)
    one = torch.ones(1, 1).bfloat16()
    with pytest.raises(torch.OutOfMemoryError):
        add_product(one, one, torch.empty(1, 1), Buffers(), first=True)
    assert not products._failed


def test_terms_can_still_be_any_callable():
    assert all(callable(term) for term in terms().values())
