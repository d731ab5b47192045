"""Tokens, counts and faults of one answer, event by event."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kdwatts.serving.client.streamed_answers import Answer, BadAnswer, Usage

PROMPT = 20


def counts(output: object, prompt: object = PROMPT) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": output}}


def chunk(text: str, so_far: int | None = None, *, end: str | None = None, **more: Any) -> dict:
    """A chunk, with a usage that runs along if `so_far` tokens are given."""
    running = {} if so_far is None else counts(so_far)
    choice = {"index": 0, "text": text, "finish_reason": end}
    return {"choices": [choice], **running, **more}


def final(output: object, prompt: object = PROMPT) -> dict[str, Any]:
    return {"choices": [], **counts(output, prompt)}


def answer(*events: Any) -> Answer:
    """An answer to which event number n came at n seconds."""
    taken = Answer()
    for moment_s, event in enumerate(events):
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        taken.take(data, float(moment_s))
    return taken


def failure(*events: Any) -> tuple[str, str]:
    with pytest.raises(BadAnswer) as caught:
        answer(*events).ended()
    return caught.value.kind, caught.value.detail


def test_a_usage_that_runs_along_tells_the_tokens_of_each_chunk():
    took = answer(chunk("a", 3), chunk("b", 11), chunk("c", 19, end="stop"), final(19))
    assert took.tokens == 19
    assert took.ended() == (Usage(PROMPT, 19), [(0.0, 3), (1.0, 8), (2.0, 8)])


def test_an_answer_that_is_given_up_is_counted_where_a_usage_ran_along():
    assert answer(chunk("a", 3), chunk("b", 11)).so_far() == Usage(PROMPT, 11)
    assert answer(chunk("a"), chunk("b")).so_far() is None


def test_a_server_that_says_nothing_of_chunks_has_its_count_spread_evenly():
    took = answer(chunk("a"), chunk("b"), chunk("c", 8, end="length"))
    assert took.ended()[1] == [(0.0, 2), (1.0, 3), (2.0, 3)]


def test_an_early_role_chunk_and_a_chunk_without_choices_are_no_token():
    took = answer(chunk(""), final(0), chunk("a"), chunk("b", end="stop"), final(2), b"[DONE]")
    assert took.is_done
    assert took.ended()[1] == [(2.0, 1), (3.0, 1)]


def test_tokens_without_text_are_tokens_where_the_server_says_so():
    took = answer(chunk("", 0), chunk("", 1), chunk("é", 2), chunk("", 3, end="stop"), final(3))
    assert took.ended()[1] == [(1.0, 1), (2.0, 1), (3.0, 1)]


def test_text_without_a_token_is_no_token_where_the_server_says_so():
    took = answer(chunk("", 1), chunk("a", 2), chunk("held back", 2, end="stop"))
    assert took.ended()[1] == [(0.0, 1), (1.0, 1)]


def test_a_usage_that_ran_along_only_at_first_is_spread_too():
    took = answer(chunk("a", 1), chunk("b"), chunk("c", end="stop"), final(6))
    assert took.ended()[1] == [(0.0, 2), (1.0, 2), (2.0, 2)]


def test_the_tokens_of_an_answer_without_text_came_with_its_end():
    assert answer(chunk(""), chunk("", end="stop"), final(1)).ended()[1] == [(1.0, 1)]


def test_an_empty_finish_reason_is_none():
    assert failure(chunk("a", end=""), final(1)) == (
        "no_finish",
        "2 events came, none with its reason",
    )


def test_two_equal_usages_are_one():
    assert answer(chunk("a", end="stop"), final(1), final(1)).ended()[0] == Usage(PROMPT, 1)


@pytest.mark.parametrize(
    "events",
    [
        (chunk("a", end="stop"),),
        (chunk("a", end="stop", usage=None),),
        (chunk("a"), chunk("b", end="stop"), final(1)),
        (chunk("a", end="stop"), final(-1)),
        (chunk("a", end="stop"), final(True)),
        (chunk("a", end="stop"), final(None)),
        (chunk("a", end="stop"), final(1, prompt=None)),
        (chunk("a", end="stop"), final(1.0)),
        (chunk("a", end="stop"), final("1")),
        (chunk("a", end="stop", usage=[1, 2]),),
        (chunk("a", end="stop"), final(1), final(2)),
        (chunk("a", end="stop"), final(2), final(1)),
        (chunk("a", 1, end="stop"), final(2)),
        (chunk("a", end="stop"), final(1), final(1, prompt=PROMPT + 1)),
        (chunk("a", 2), chunk("b", 1, end="stop")),
        (chunk("a", 0), chunk("b", 0), chunk("c", 0, end="stop")),
    ],
)
def test_a_count_that_is_missing_or_wrong_or_contradicts_another_is_bad_usage(events: tuple):
    assert failure(*events)[0] == "bad_usage"


def test_an_error_inside_an_answer_is_the_servers_own_sentence():
    error = {"error": {"message": "the engine died", "type": "internal", "code": 500}}
    assert failure(chunk("a"), error) == ("error_in_stream", "the engine died")
    flat = {"object": "error", "message": "too long"}
    assert failure(chunk("a"), flat) == ("error_in_stream", "too long")


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (b'{"choices": [', "event 2 is no JSON in UTF-8"),
        (b'{"choices": [{"text": "\xc3("}]}', "event 2 is no JSON in UTF-8"),
        (b"null", "event 2 has no choices"),
        ({"choices": {}}, "event 2 has no choices"),
        ({"choices": ["a"]}, "event 2 has a choice that is no object"),
        ({"choices": [{"text": 1}]}, "event 2 has a text that is no string"),
    ],
)
def test_what_is_no_chunk_of_json_is_a_bad_stream(event: Any, fault: str):
    assert failure(chunk("a"), event) == ("bad_stream", fault)


def test_an_answer_that_failed_has_the_chunks_that_came():
    assert answer(chunk("a", 2), chunk("b")).chunks == [(0.0, 2), (1.0, 1)]
