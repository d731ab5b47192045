"""Every other term of a loss on the GPU beside float64 on the CPU: value and slopes."""

# N positions, D and E widths, V and W vocabularies, K tokens named, B sequences, T positions of
# one, R groups of G embeddings.

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from kdwatts.losses.attention import attention_loss
from kdwatts.losses.feature import DISTANCES
from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.logit_rows import RowTerm
from kdwatts.losses.relational import angle_loss, distance_loss, group_loss, mean_pool
from kdwatts.losses.sparse import TopK, cross_entropy_term, sampled_term, top_k_of, top_k_term
from kdwatts.losses.universal import universal_term
from tests.gpu.gpu import DEVICE, ON_GPU, distance

pytestmark = [pytest.mark.gpu, ON_GPU]

POSITIONS, WIDTH, VOCABULARY, OTHER_VOCABULARY = 300, 64, 4_000, 3_000
TOP, SAMPLES, TEMPERATURE = 64, 50, 2.0
EVERY_DTYPE = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)]
)
Loss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Of the student's tensors, which are trained, and the teacher's."""


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def value_and_slopes(
    loss: Loss, student: Sequence[Tensor], teacher: Sequence[Tensor]
) -> tuple[float, list[Tensor]]:
    student = [tensor.detach().requires_grad_() for tensor in student]
    value = loss(student, teacher)
    return value.item(), list(torch.autograd.grad(value, student))


def check(
    loss: Loss,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    dtype: torch.dtype,
    tolerance: float,
    *,
    of_slopes: float = 1.0,
) -> None:
    """Raise unless the GPU computes in `dtype` what the CPU computes in float64."""
    # Rounded first, so that both compute from the same numbers.
    rounded = [[tensor.to(dtype) for tensor in side] for side in (student, teacher)]
    expected, slopes = value_and_slopes(loss, *([t.double() for t in side] for side in rounded))
    found, found_slopes = value_and_slopes(loss, *([t.to(DEVICE) for t in s] for s in rounded))
    assert found == pytest.approx(expected, rel=tolerance)
    assert distance(found_slopes, slopes) < of_slopes * tolerance


def teacher_logits() -> Tensor:
    return drawn(2, POSITIONS, WIDTH) @ (0.3 * drawn(3, VOCABULARY, WIDTH)).T


def cross_entropy(device: torch.device) -> RowTerm:
    target_N = torch.randint(VOCABULARY, (POSITIONS,), generator=torch.manual_seed(4))
    return cross_entropy_term(target_N.to(device))


def top_k(device: torch.device) -> RowTerm:
    top = top_k_of(teacher_logits(), k=TOP, temperature=TEMPERATURE)
    on_device = TopK(*(part.to(device) for part in (top.ids_NK, top.log_p_NK, top.log_tail_N)))
    return top_k_term(on_device, temperature=TEMPERATURE)


def sampled(device: torch.device) -> RowTerm:
    p_NV = (teacher_logits() / TEMPERATURE).softmax(-1)
    ids_NK = p_NV.multinomial(SAMPLES, generator=torch.manual_seed(5))
    share_NK = torch.full(ids_NK.shape, 1 / SAMPLES)
    return sampled_term(ids_NK.to(device), share_NK.to(device), temperature=TEMPERATURE)


def universal(device: torch.device) -> RowTerm:
    compared_N = torch.arange(POSITIONS) % 3 > 0
    return universal_term(temperature=TEMPERATURE, compared_N=compared_N.to(device))


HEAD_TERMS = {
    "cross entropy": cross_entropy,
    "top_k": top_k,
    "sampled": sampled,
    "universal": universal,
}


@EVERY_DTYPE
@pytest.mark.parametrize("name", HEAD_TERMS)
def test_a_term_through_the_head_is_that_of_float64(
    name: str, dtype: torch.dtype, tolerance: float
):
    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return head_loss(
            student[0],
            student[1],
            {name: HEAD_TERMS[name](student[0].device)},
            {name: 1 / POSITIONS},
            teacher=DenseTeacher(*teacher) if name == "universal" else None,
            chunk_rows=128,
        )[0]

    student = [drawn(0, POSITIONS, WIDTH), 0.3 * drawn(1, VOCABULARY, WIDTH)]
    teacher = [drawn(6, POSITIONS, WIDTH), 0.3 * drawn(7, OTHER_VOCABULARY, WIDTH)]
    # By rank, the slope turns where two probabilities are equal within rounding. Of logits in
    # bfloat16 many are equal: the slopes were 18 % apart on a CPU.
    by_rank = 5 if dtype == torch.float32 else 15
    check(
        *(loss, student, teacher, dtype, tolerance),
        of_slopes=by_rank if name == "universal" else 1,
    )


@EVERY_DTYPE
@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_of_states_is_that_of_float64(name: str, dtype: torch.dtype, tolerance: float):
    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return DISTANCES[name](student[0], teacher[0]).mean()

    check(loss, [drawn(0, POSITIONS, WIDTH)], [drawn(1, POSITIONS, WIDTH)], dtype, tolerance)


def groups(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Groups of eight of which only the first few count; two have no angle."""
    valid_RG = torch.arange(8) < torch.tensor([8, 5, 3, 2])[:, None]
    return group_loss(
        student[0],
        teacher[0],
        valid_RG.to(student[0].device),
        distance_weight=1.0,
        angle_weight=2.0,
    )


RELATIONS: dict[str, Loss] = {
    "distances": lambda student, teacher: distance_loss(student[0], teacher[0]).sum(),
    "angles": lambda student, teacher: angle_loss(student[0], teacher[0]).sum(),
    "groups of some": groups,
}


@EVERY_DTYPE
@pytest.mark.parametrize("name", RELATIONS)
def test_a_relation_of_embeddings_is_that_of_float64(
    name: str, dtype: torch.dtype, tolerance: float
):
    check(RELATIONS[name], [drawn(0, 4, 8, 48)], [drawn(1, 4, 8, WIDTH)], dtype, tolerance)


@EVERY_DTYPE
def test_a_pooled_embedding_is_that_of_float64(dtype: torch.dtype, tolerance: float):
    valid_BT = torch.arange(16) < torch.tensor([16, 9, 4])[:, None]

    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return (mean_pool(student[0], valid_BT.to(student[0].device)) * teacher[0]).sum()

    check(loss, [drawn(0, 3, 16, WIDTH)], [drawn(1, 3, WIDTH)], dtype, tolerance)


@EVERY_DTYPE
@pytest.mark.parametrize("has_documents", [False, True], ids=["rows", "documents"])
def test_relations_of_attention_are_those_of_float64(
    has_documents: bool, dtype: torch.dtype, tolerance: float
):
    length = 40
    valid_BT = torch.arange(length) < torch.tensor([length, 21, 7])[:, None]
    position_BT = (torch.arange(length) % 15).expand(3, -1) if has_documents else None

    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        device = student[0].device
        return attention_loss(
            dict(zip("qkv", student, strict=True)),
            dict(zip("qkv", teacher, strict=True)),
            valid_BT.to(device),
            position_BT=None if position_BT is None else position_BT.to(device),
            relation_heads=4,
        )

    student = [drawn(seed, 3, length, width) for seed, width in enumerate((48, 24, 24))]
    teacher = [drawn(3 + seed, 3, length, width) for seed, width in enumerate((64, 32, 32))]
    check(loss, student, teacher, dtype, tolerance)
