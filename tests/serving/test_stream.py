"""The requests of a workload."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from kdwatts.config.serving import Workload
from kdwatts.models.load import load_tokenizer
from kdwatts.runtime.paths import resolve_dir
from kdwatts.serving.load.requests import Request
from kdwatts.serving.load.stream import requests
from kdwatts.serving.serving_text import ids_of_file

TOKENIZER = load_tokenizer("tiny:tokenizer")
WORKLOAD = Workload(prompt_tokens=8, output_tokens=4)


def first(count: int, ids: np.ndarray, workload: Workload = WORKLOAD, seed: int = 0):
    stream = requests(workload, ids, TOKENIZER, seed=seed, max_positions=None)
    return list(islice(stream, count))


def starts(found: list[Request]) -> list[int]:
    return [request.prompt_ids[0] for request in found]


def test_prompts_have_the_tokens_asked_for_and_follow_the_text():
    found = first(3, np.arange(300, 500))
    for number, request in enumerate(found):
        assert request.number == number
        assert request.output_tokens == 4
        start = request.prompt_ids[0]
        assert request.prompt_ids == [300 + (start - 300 + i) % 200 for i in range(8)]


def test_no_start_comes_twice_before_every_position_of_the_text_was_one():
    found = starts(first(200, np.arange(300, 500)))
    assert sorted(found) == list(range(300, 500))
    # Within one round prompts do not overlap: their starts lie 8 apart.
    assert {(start - found[0]) % 8 for start in found[:25]} == {0}
    assert {(start - found[25]) % 8 for start in found[25:50]} == {0}
    assert (found[25] - found[0]) % 8
    assert found[:25] != sorted(found[:25])


def test_a_text_that_is_used_up_is_gone_round_again_in_another_order():
    found = starts(first(400, np.arange(300, 500)))
    assert sorted(found[200:]) == sorted(found[:200])
    assert found[200:] != found[:200]


def test_equal_seeds_give_equal_requests_and_others_give_others():
    ids = np.arange(300, 500)
    assert first(30, ids, seed=1) == first(30, ids, seed=1)
    assert starts(first(30, ids, seed=1)) != starts(first(30, ids, seed=2))


def test_lengths_vary_where_a_percentile_is_asked():
    workload = Workload(prompt_tokens=8, prompt_tokens_p95=16, output_tokens=4, output_tokens_p95=8)
    found = first(500, np.arange(300, 500), workload)
    assert len({len(request.prompt_ids) for request in found}) > 5
    assert len({request.output_tokens for request in found}) > 5


def test_a_prompt_reads_the_same_as_text_and_as_tokens():
    path = resolve_dir("tiny:tasks/held_out.jsonl")
    ids = ids_of_file(path, TOKENIZER, setting="prompts")
    found = first(50, ids, Workload(prompt_tokens=64))
    again = [TOKENIZER(request.prompt, add_special_tokens=False)["input_ids"] for request in found]
    assert TOKENIZER.decode(found[0].prompt_ids) == found[0].prompt
    # A cut through a word may join other letters; most prompts read back exactly.
    assert np.mean([len(ids) for ids in again]) == pytest.approx(64, abs=1)


def test_a_text_shorter_than_a_prompt_is_refused_when_the_stream_is_asked_for():
    with pytest.raises(ValueError, match=r"a prompt of 8 tokens is longer than the text, .* 7"):
        requests(WORKLOAD, np.arange(7), TOKENIZER, seed=0, max_positions=None)
    workload = Workload(prompt_tokens=8, prompt_tokens_p95=16)
    with pytest.raises(ValueError, match=r"a prompt of 16 tokens .* which has 15; ask for shorter"):
        requests(workload, np.arange(15), TOKENIZER, seed=0, max_positions=None)


def test_lengths_beyond_the_context_are_refused_when_the_stream_is_asked_for():
    with pytest.raises(
        ValueError, match=r"tokens=8 and .*tokens=4 together exceed the context of 11 "
    ):
        requests(WORKLOAD, np.arange(300), TOKENIZER, seed=0, max_positions=11)
