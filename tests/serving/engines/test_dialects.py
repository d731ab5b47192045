"""The body of a request for each kind of server, and what its events say."""

from __future__ import annotations

import json

import pytest

from kdwatts.serving.engines.dialects import DIALECTS
from kdwatts.serving.load.requests import Request

REQUEST = Request(number=3, prompt_ids=[5, 6, 7], prompt="to be or", output_tokens=12)

# The fields that transformers 5.17 to 5.23 know; every other one is answered by 422.
_OF_TRANSFORMERS = {"model", "prompt", "stream", "max_tokens", "temperature", "generation_config"}
_OF_TRANSFORMERS |= {"frequency_penalty"}
# platform.openai.com/docs/api-reference/completions/create
_OF_OPENAI = {"model", "prompt", "stream", "max_tokens", "temperature", "stream_options"}


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
def test_a_forced_length_of_vllm_is_the_least_and_the_most_and_ignores_end_tokens(dialect: str):
    body = DIALECTS[dialect]("student", REQUEST, "forced")
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (12, 12, True)
    assert body["prompt"] == [5, 6, 7]
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    natural = DIALECTS[dialect]("student", REQUEST, "natural")
    assert natural["max_tokens"] == 12
    assert not {"min_tokens", "ignore_eos"} & set(natural)


def test_a_forced_length_of_transformers_is_json_in_json_and_the_prompt_is_text():
    body = DIALECTS["transformers"]("/folder", REQUEST, "forced")
    assert json.loads(body["generation_config"]) == {
        "min_new_tokens": 12,
        "max_new_tokens": 12,
        "do_sample": False,
        "repetition_penalty": 1.0,
    }
    assert body["prompt"] == "to be or"


@pytest.mark.parametrize("length", ["forced", "natural"])
def test_transformers_gets_no_field_that_it_would_refuse(length: str):
    assert set(DIALECTS["transformers"]("m", REQUEST, length)) <= _OF_TRANSFORMERS


def test_llama_cpp_ignores_end_tokens_only_where_the_length_is_forced():
    assert DIALECTS["llamacpp"]("m", REQUEST, "forced")["ignore_eos"] is True
    assert "ignore_eos" not in DIALECTS["llamacpp"]("m", REQUEST, "natural")


def test_an_unknown_server_gets_standard_fields_alone_and_no_forced_length():
    assert set(DIALECTS["openai"]("m", REQUEST, "natural")) == _OF_OPENAI
    with pytest.raises(ValueError, match=r"length=forced was asked of .* set \S+length=natural$"):
        DIALECTS["openai"]("m", REQUEST, "forced")


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "openai"])
@pytest.mark.parametrize("length", ["forced", "natural"])
def test_every_request_is_streamed(dialect: str, length: str):
    assert DIALECTS[dialect]("m", REQUEST, length)["stream"] is True
