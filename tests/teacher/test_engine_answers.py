"""What an engine says of a prompt becomes the signal of our own pass, or is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from kdwatts.teacher.engine_answers import prompt_of, sparse_of, top_of_answer
from kdwatts.teacher.signals import sparse_logits
from tests.teacher.answering_engine.vllm.entrypoints.openai.api_server import entries_of


def read(prompt: list[int], answer: Any, k: int = 2, vocabulary: int = 8) -> Any:
    return top_of_answer(prompt, answer, k=k, vocabulary=vocabulary, engine="vllm")


def entry(**log_p: Any) -> dict[str, Any]:
    return {name.removeprefix("t"): {"logprob": value} for name, value in log_p.items()}


def test_the_signal_of_true_logits_is_that_of_our_own_pass_for_every_k():
    logits_PV = 3 * torch.randn(40, 50, generator=torch.Generator().manual_seed(2))
    text = torch.randint(50, (40,), generator=torch.Generator().manual_seed(3)).numpy()
    prompt = prompt_of(text)
    for k in (1, 2, 7, 49):
        found = sparse_of([read(prompt, entries_of(logits_PV, prompt, k), k, 50)])
        expected = sparse_logits(logits_PV, k=k, temperatures=(1.0,))
        order, wanted = found.ids_NK.sort(-1), expected.ids_NK.sort(-1)
        assert torch.equal(order.values, wanted.values)
        log_p_NK = found.log_p_NK.gather(-1, order.indices)
        torch.testing.assert_close(log_p_NK, expected.log_p_NK.gather(-1, wanted.indices))
        torch.testing.assert_close(found.offset_NM, expected.offset_NM, atol=1e-6, rtol=0)
        tail_NM, true_tail_NM = found.log_tail_NM.exp(), expected.log_tail_NM.exp()
        torch.testing.assert_close(tail_NM, true_tail_NM, atol=1e-6, rtol=0)


def test_the_text_gets_one_more_token_that_no_position_of_it_sees():
    assert prompt_of(np.array([5, 6, 7])) == [5, 6, 7, 5]


def test_the_tail_is_what_the_probabilities_lack_to_one():
    answer = [None, entry(t3=math.log(0.5), t1=math.log(0.3)), entry(t0=0.0, t2=-50.0)]
    sparse = sparse_of([read([4, 3, 0], answer)])
    assert sparse.log_tail_NM[0].item() == pytest.approx(math.log(0.2), rel=1e-6)
    assert sparse.log_tail_NM[1].item() == -math.inf
    assert sparse.at(1.0, (1.0,)).log_p_NK[0].exp().tolist() == pytest.approx([0.5, 0.3])


def test_the_texts_own_token_is_dropped_where_it_is_none_of_the_likeliest():
    answer = [None, entry(t6=-9.0, t1=-0.5, t2=-1.0)]
    ids_PK, log_p_PK = read([0, 6], answer)
    assert ids_PK.tolist() == [[1, 2]] and log_p_PK.tolist() == [[-0.5, -1.0]]


def test_the_texts_own_token_is_kept_where_it_is_one_of_the_likeliest():
    ids_PK, _ = read([0, 2], [None, entry(t2=-1.0, t1=-0.5)])
    assert sorted(ids_PK[0].tolist()) == [1, 2]


def test_of_equal_tokens_the_engines_choice_stands_and_the_tail_is_the_same():
    logits_PV = torch.zeros(2, 8)
    for own in range(8):
        prompt = [0, own, own]
        sparse = sparse_of([read(prompt, entries_of(logits_PV, prompt, 2))])
        chosen = sorted(torch.zeros(8).topk(2).indices.tolist())
        assert [sorted(ids) for ids in sparse.ids_NK.tolist()] == [chosen, chosen]
        assert sparse.log_tail_NM.exp().flatten().tolist() == pytest.approx([0.75, 0.75])


@pytest.mark.parametrize("no_number", [math.nan, None])
def test_what_is_no_number_is_handed_on_to_who_refuses_a_damaged_teacher(no_number: Any):
    sparse = sparse_of([read([0, 2], [None, entry(t2=no_number, t1=-0.5)])])
    assert sparse.log_p_NK.isnan().any() and sparse.log_tail_NM.isnan().all()


FAULTS = [
    ([None, entry(t1=-0.5)], "1 tokens at a position in place of 2"),
    ([None, entry(t1=-0.5, t2=-1.0, t3=-2.0)], "3 tokens at a position in place of 2"),
    ([None, entry(t1=-0.5, t2=-1.0, t3=-2.0, t4=-3.0)], "4 tokens at a position in place of 2"),
    ([None, entry(t6=-0.7, t1=-0.5, t2=-1.0)], "a likelier token left out"),
    ([None, entry(t1=0.5, t2=-1.0)], "probabilities that add up to more than 1"),
    ([None, entry(t1=-0.1, t2=-0.1)], "probabilities that add up to more than 1"),
    ([None, entry(t1=-0.5, t8=-1.0)], "a token that is none of the 8 of the vocabulary"),
    ([None, entry(t1=-0.5, tx=-1.0)], "something else than a logprob for each token id"),
    ([None, {"1": {}, "2": {"logprob": -1.0}}], "something else than a logprob for each"),
    ([None, None], "something else than a logprob for each token id"),
    ([None], "1 entries for 2 tokens"),
    (None, "no list for 2 tokens"),
]


@pytest.mark.parametrize(("answer", "said"), FAULTS, ids=[said for _, said in FAULTS])
def test_an_answer_that_holds_something_else_is_refused_in_one_sentence(answer: Any, said: str):
    with pytest.raises(RuntimeError, match=f"^teacher: vllm answered with {said}") as caught:
        read([0, 6], answer)
    assert str(caught.value).endswith("; take another version of it, or set "
                                      "paradigm.signals_engine=loop")  # fmt: skip
