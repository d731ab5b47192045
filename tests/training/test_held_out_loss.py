"""The loss on held-out rows: what it is, and that reading it changes nothing."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.config.paradigm import CrossEntropy, Feature, Paradigm, Relational, Response
from kdwatts.config.training import Lora
from kdwatts.data.packing import IGNORE
from kdwatts.data.text_size import bytes_of_tokens
from kdwatts.losses import head
from kdwatts.training.held_out_loss import HeldOut, held_out_losses
from kdwatts.training.lora import add_adapters
from tests.training.pair import make_batch, make_learner, make_objective, part_of, share

CE = CrossEntropy(0.3)
TOP_K = Response(0.7, k=8)
JSD = Response(1.0, divergence="jsd", support="dense")
PARADIGMS = {
    "sft": Paradigm("sft", ce=CE),
    "response_alone": Paradigm("response", response=TOP_K),
    "on_policy": Paradigm("on_policy", text="student", teacher="online", response=JSD),
    "all": Paradigm(
        "all", ce=CE, response=TOP_K, feature=Feature(0.6), relational=Relational(0.1, group_size=4)
    ),
}
EVERY_PARADIGM = pytest.mark.parametrize("name", PARADIGMS)


def reader(
    name: str, student: Any, teacher: Any, *, cuts: tuple[int, ...] = (0, 4, 8), size: Any = None
) -> Callable[[], dict[str, float]]:
    """What reads the losses; whatever draws random numbers for it is drawn before."""
    batch = make_batch()
    parts = [part_of(batch, slice(*cut)) for cut in itertools.pairwise(cuts)]
    objective = make_objective(PARADIGMS[name], teacher)
    return lambda: held_out_losses(make_learner(objective, student, teacher), HeldOut(parts, size))


def read(name: str, student: Any, teacher: Any, **changes: Any) -> dict[str, float]:
    return reader(name, student, teacher, **changes)()


@EVERY_PARADIGM
def test_it_is_the_objective_on_all_rows_as_one_step_whatever_the_micro_batches(
    name: str, student: Any, teacher: Any
):
    paradigm = PARADIGMS[name]
    loss, parts = share(make_objective(paradigm, teacher), student, teacher, make_batch())
    expected = {"loss": loss.item(), **{term: part.item() for term, part in parts.items()}}
    for cuts in ((0, 8), (0, 4, 8)):
        found = read(name, student, teacher, cuts=cuts)
        assert {term: found[term] for term in expected} == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_is_read_even_where_it_is_no_term_and_stays_out_of_the_loss(
    student: Any, teacher: Any
):
    found, batch = read("response_alone", student, teacher), make_batch()
    with torch.no_grad():
        logits = student(batch.input_BT).logits[..., :64]
    kept = batch.target_BT != IGNORE
    expected = F.cross_entropy(logits[kept], batch.target_BT[kept])
    assert found["ce_nats"] == pytest.approx(expected.item(), rel=1e-5)
    assert found["loss"] == pytest.approx(0.7 * found["response_nats"], rel=1e-4)


def test_cross_entropy_is_read_where_the_student_may_not_be_taught_by_it(
    student: Any, teacher: Any
):
    """A paradigm whose text the student writes refuses the term of one who asks for it."""
    found = read("on_policy", student, teacher)
    assert found["ce_nats"] == read("response_alone", student, teacher)["ce_nats"]
    assert found["loss"] == pytest.approx(found["response_nats"])


def test_bits_per_byte_are_the_targets_nats_over_their_bytes(student: Any, teacher: Any):
    found = read("sft", student, teacher, size=100)
    num_targets = make_batch().num_targets
    expected = found["ce_nats"] * num_targets / math.log(2) / 100
    assert found["bits_per_byte"] == pytest.approx(expected)
    assert "bits_per_byte" not in read("sft", student, teacher)


@EVERY_PARADIGM
def test_reading_changes_no_weight_gradient_mode_or_random_number(
    name: str, student: Any, teacher: Any
):
    reading = reader(name, student, teacher)
    before, random = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    reading()
    assert student.training
    assert all(p.grad is None for p in student.parameters())
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_dropout_has_no_part_in_it(student: Any, teacher: Any):
    add_adapters(student, Lora(rank=2, dropout=0.5), seed=0)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    first, again = (read("sft", student, teacher) for _ in range(2))
    assert first == again
    batch, objective = make_batch(), make_objective(PARADIGMS["sft"])
    trained = [share(objective, student, teacher, batch)[0].item() for _ in range(2)]
    assert trained[0] != trained[1]


def test_no_gradient_of_the_head_is_formed_for_it(student: Any, teacher: Any, monkeypatch: Any):
    asked: list[bool] = []
    forward = head._HeadLoss.forward

    def watched(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        asked.append(any(ctx.needs_input_grad))
        return forward(ctx, *arguments)

    monkeypatch.setattr(head._HeadLoss, "forward", staticmethod(watched))
    objective = make_objective(PARADIGMS["sft"])
    share(objective, student, teacher, make_batch())
    read("sft", student, teacher)
    assert asked == [True, False, False]


def test_the_bytes_of_tokens_are_those_of_their_text(tokenizer: Any):
    sizes = bytes_of_tokens(tokenizer)
    assert sizes is not None and sizes[tokenizer.eos_token_id] == 0
    for text in ("To be, or not to be", "naïve — 日本語 🎭", "\n\t two  spaces"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert sizes[ids].sum() == len(text.encode())
        assert (sizes[ids].sum() == len(text)) == text.isascii()


def test_a_tokenizer_that_is_not_of_bytes_tells_no_size():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    assert bytes_of_tokens(PreTrainedTokenizerFast(tokenizer_object=words)) is None
