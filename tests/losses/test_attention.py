"""Attention relations against loops in float64, and the wrong formulas they must differ from."""

# B sequences, T positions, W width of a projection.

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdwatts.losses.attention import attention_loss
from kdwatts.losses.chunks import RELATION_ELEMENTS

Projections = dict[str, Tensor]
LENGTH = 5


def projections(seed: int, *, query: int, key: int, batch: int = 2) -> Projections:
    """Queries of one width, keys and values of another, as under grouped-query attention."""
    generator = torch.Generator().manual_seed(seed)
    widths = {"q": query, "k": key, "v": key}
    return {
        name: torch.randn(batch, LENGTH, width, generator=generator, dtype=torch.float64)
        for name, width in widths.items()
    }


STUDENT = projections(0, query=8, key=4)
TEACHER = projections(1, query=16, key=8)
ALL_TEXT = torch.ones(2, LENGTH, dtype=torch.bool)
RIGHT_PADDED = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def relation_by_loop(state_TE: Tensor, query: int, text: list[bool]) -> list[float]:
    """Softmax over the text up to the query of scaled dot products, key by key."""
    width = state_TE.shape[1]
    keys = [key for key in range(query + 1) if text[key] or key == query]
    scores = [(state_TE[query] @ state_TE[key]).item() / math.sqrt(width) for key in keys]
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def loss_by_loop(student: Projections, teacher: Projections, valid_BT: Tensor, heads: int) -> float:
    total = 0.0
    for name in "qkv":
        for b, text in enumerate(valid_BT.tolist()):
            for head in range(heads):
                mine, theirs = (side[name][b].chunk(heads, -1)[head] for side in (student, teacher))
                for query in range(LENGTH):
                    if text[query]:
                        q = relation_by_loop(mine, query, text)
                        p = relation_by_loop(theirs, query, text)
                        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / heads / 3


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("valid_BT", [ALL_TEXT, RIGHT_PADDED], ids=["text", "padded"])
def test_the_loss_is_the_mean_kl_over_relations_and_heads_of_every_text_query(
    heads: int, valid_BT: Tensor
):
    found = attention_loss(STUDENT, TEACHER, valid_BT, relation_heads=heads).item()
    expected = loss_by_loop(STUDENT, TEACHER, valid_BT, heads)
    assert found == pytest.approx(expected, rel=1e-9)


def test_two_tokens_at_right_angles_in_one_model_and_alike_in_the_other_cost_a_known_kl():
    # The second query sees two keys. Teacher: both products are 1, p = (1/2, 1/2). Student: 0 and
    # 1, q = (1, e) / (1 + e). KL = -log 2 - (log q1 + log q2) / 2 = log((1 + e) / 2) - 1/2.
    student = dict.fromkeys("qkv", torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]) * 2**0.25)
    teacher = dict.fromkeys("qkv", torch.tensor([[[1.0], [1.0]]]))
    found = attention_loss(student, teacher, torch.ones(1, 2, dtype=torch.bool), relation_heads=1)
    assert found.item() == pytest.approx(math.log((1 + math.e) / 2) - 0.5, rel=1e-6)


def test_equal_models_have_no_loss_and_heads_that_are_rotated_alike_neither():
    turned_EE = torch.linalg.qr(projections(5, query=4, key=4)["q"][0, :4])[0]
    turned = {
        name: torch.cat([part @ turned_EE for part in state.split(4, -1)], -1)
        for name, state in STUDENT.items()
    }
    for other in (STUDENT, turned):
        # Relation heads as wide as the turned parts: 2 of queries, 1 of keys and values.
        for name, heads in (("q", 2), ("k", 1), ("v", 1)):
            found = attention_loss(
                dict.fromkeys("qkv", STUDENT[name]),
                dict.fromkeys("qkv", other[name]),
                ALL_TEXT,
                relation_heads=heads,
            )
            assert found.item() == pytest.approx(0, abs=1e-12)


def wrong_loss(student: Projections, teacher: Projections, valid_BT: Tensor, *, trap: str) -> float:
    """Two relation heads, formed as peers have formed them."""

    def relation(state_BTW: Tensor) -> Tensor:
        heads_BATE = state_BTW.unflatten(-1, (2, -1)).transpose(1, 2)
        whole = trap == "scaled by the whole width"
        width = (state_BTW if whole else heads_BATE).shape[-1]
        scores = heads_BATE @ heads_BATE.mT / math.sqrt(width)
        causal_TT = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        seen = causal_TT if trap == "padding is seen" else causal_TT & valid_BT[:, None, None]
        seen = seen | torch.eye(LENGTH, dtype=torch.bool)
        if trap == "no causal mask":
            seen = valid_BT[:, None, None].expand(2, 1, LENGTH, LENGTH)
        if trap == "masked after the softmax":
            return scores.softmax(-1).masked_fill(~seen, 0.0)
        return scores.masked_fill(~seen, -torch.inf).softmax(-1)

    total = 0.0
    for name in "qkv":
        mine, theirs = student[name], teacher[name]
        if trap == "keys repeated for every query head" and name != "q":
            mine, theirs = (
                state.unflatten(-1, (2, -1)).repeat_interleave(2, -2).flatten(-2)
                for state in (mine, theirs)
            )
        q, p = relation(mine), relation(theirs)
        kl = torch.where(p > 0, p * (p.clamp(min=1e-30) / q.clamp(min=1e-30)).log(), 0.0).sum(-1)
        if trap != "padding is asked":
            kl = kl * valid_BT[:, None]
        total += kl.sum().item() / 2 / 3
    return total


@pytest.mark.parametrize(
    "trap",
    [
        "scaled by the whole width",
        "padding is asked",
        "no causal mask",
        "masked after the softmax",
        "keys repeated for every query head",
    ],
)
def test_a_wrong_relation_gives_another_loss(trap: str):
    found = attention_loss(STUDENT, TEACHER, RIGHT_PADDED, relation_heads=2).item()
    assert wrong_loss(STUDENT, TEACHER, RIGHT_PADDED, trap="") == pytest.approx(found, rel=1e-9)
    wrong = wrong_loss(STUDENT, TEACHER, RIGHT_PADDED, trap=trap)
    assert abs(wrong / found - 1) > 0.01


def test_keys_of_padding_between_texts_are_seen_by_nobody():
    valid_BT = torch.tensor([[True, False, True, True, True]] * 2)
    found = attention_loss(STUDENT, TEACHER, valid_BT, relation_heads=2).item()
    assert found == pytest.approx(loss_by_loop(STUDENT, TEACHER, valid_BT, 2), rel=1e-9)
    assert abs(wrong_loss(STUDENT, TEACHER, valid_BT, trap="padding is seen") / found - 1) > 0.01


def test_what_stands_in_padding_changes_neither_loss_nor_gradient():
    def loss_and_gradients(fill: float) -> tuple[float, list[Tensor]]:
        student = {
            name: state.masked_fill(~RIGHT_PADDED[..., None], fill).requires_grad_()
            for name, state in STUDENT.items()
        }
        loss = attention_loss(student, TEACHER, RIGHT_PADDED, relation_heads=2)
        return loss.item(), list(torch.autograd.grad(loss, list(student.values())))

    first, second = loss_and_gradients(0.0), loss_and_gradients(30.0)
    assert first[0] == pytest.approx(second[0], rel=1e-12)
    for one, other in zip(first[1], second[1], strict=True):
        torch.testing.assert_close(one, other)
        assert not one[~RIGHT_PADDED].any() and one[RIGHT_PADDED].any()


def test_a_batch_of_left_padding_has_finite_gradients():
    valid_BT = RIGHT_PADDED.flip(1)
    student = {name: state.clone().requires_grad_() for name, state in STUDENT.items()}
    loss = attention_loss(student, TEACHER, valid_BT, relation_heads=2)
    assert loss.item() == pytest.approx(loss_by_loop(STUDENT, TEACHER, valid_BT, 2), rel=1e-9)
    gradients = torch.autograd.grad(loss, list(student.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("chunk_elements", [1, 40, 1 << 25])
def test_the_gradient_is_the_finite_difference_and_the_chunk_changes_nothing(
    chunk_elements: int, monkeypatch: pytest.MonkeyPatch
):
    expected = attention_loss(STUDENT, TEACHER, RIGHT_PADDED, relation_heads=2)
    monkeypatch.setitem(RELATION_ELEMENTS, "cpu", chunk_elements)

    def loss(*states: Tensor) -> Tensor:
        student = dict(zip("qkv", states, strict=True))
        return 1.7 * attention_loss(student, TEACHER, RIGHT_PADDED, relation_heads=2)

    inputs = [state.clone().requires_grad_() for state in STUDENT.values()]
    torch.testing.assert_close(loss(*inputs), 1.7 * expected)
    assert torch.autograd.gradcheck(loss, inputs)


def test_the_teacher_gets_no_gradient():
    teacher = {name: state.clone().requires_grad_() for name, state in TEACHER.items()}
    student = {name: state.clone().requires_grad_() for name, state in STUDENT.items()}
    attention_loss(student, teacher, ALL_TEXT, relation_heads=2).backward()
    assert all(state.grad is None for state in teacher.values())
    assert all(state.grad is not None and state.grad.any() for state in student.values())


def test_relations_are_taken_in_float32_under_autocast_and_from_bfloat16():
    student, teacher = ({n: s.float() for n, s in side.items()} for side in (STUDENT, TEACHER))
    expected = attention_loss(student, teacher, ALL_TEXT, relation_heads=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention_loss(student, teacher, ALL_TEXT, relation_heads=2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    narrow = {name: state.bfloat16() for name, state in student.items()}
    widened = {name: state.float() for name, state in narrow.items()}
    torch.testing.assert_close(
        attention_loss(narrow, teacher, ALL_TEXT, relation_heads=2),
        attention_loss(widened, teacher, ALL_TEXT, relation_heads=2),
    )


def test_a_width_that_does_not_split_is_refused_with_its_remedy():
    with pytest.raises(ValueError, match=r"width 8 cannot be split into 3 relation heads; set"):
        attention_loss(STUDENT, TEACHER, ALL_TEXT, relation_heads=3)


def test_tokens_have_no_relation_to_another_document_of_their_row():
    position_BT = torch.tensor([[0, 1, 2, 0, 1]] * 2)
    found = attention_loss(
        STUDENT, TEACHER, ALL_TEXT, position_BT=position_BT, relation_heads=2
    ).item()
    alone = 0.0
    for document in (slice(0, 3), slice(3, 5)):
        student, teacher = (
            {name: state[:, document] for name, state in side.items()}
            for side in (STUDENT, TEACHER)
        )
        alone += attention_loss(student, teacher, ALL_TEXT[:, document], relation_heads=2).item()
    assert found == pytest.approx(alone, rel=1e-9)
    across = attention_loss(STUDENT, TEACHER, ALL_TEXT, relation_heads=2).item()
    assert abs(across / found - 1) > 0.01
