"""How a request is written for each kind of server. Greedy, streamed, POST /v1/completions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kdwatts.serving.load.requests import Request


def _vllm(model: str, request: Request, length: str) -> dict[str, Any]:
    body = {
        "model": model,
        "prompt": request.prompt_ids,
        "max_tokens": request.output_tokens,
        "temperature": 0,
        "stream": True,
        # Chunks may hold several tokens, so each says how many there are until now.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if length == "forced":
        body |= {"min_tokens": request.output_tokens, "ignore_eos": True}
    return body


def _transformers(model: str, request: Request, length: str) -> dict[str, Any]:
    """Prompts are text: ids are refused. So is every field that it does not know, by a 422.

    The penalty is one that a model's own settings may hold, as Qwen's do, and that takes time.
    """
    body: dict[str, Any] = {"model": model, "prompt": request.prompt, "stream": True}
    if length == "forced":
        # It replaces the model's own settings, and is JSON inside of JSON.
        tokens = request.output_tokens
        forced = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}
        return body | {"generation_config": json.dumps(forced | {"repetition_penalty": 1.0})}
    # It takes 1 + frequency_penalty for its repetition_penalty.
    return body | {"max_tokens": request.output_tokens, "temperature": 0, "frequency_penalty": 0}


def _llamacpp(model: str, request: Request, length: str) -> dict[str, Any]:
    body = {
        "model": model,
        "prompt": request.prompt_ids,
        "max_tokens": request.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": True,
    }
    return body | {"ignore_eos": True} if length == "forced" else body


def _openai(model: str, request: Request, length: str) -> dict[str, Any]:
    if length == "forced":
        raise ValueError(
            "eval.serving.workload.length=forced was asked of a server that is none of vLLM, "
            "SGLang, llama.cpp and transformers, and OpenAI's own fields force no length; set "
            "eval.serving.workload.length=natural"
        )
    return {
        "model": model,
        "prompt": request.prompt,
        "max_tokens": request.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def check_length(dialect: str, length: str) -> None:
    """Raise ValueError for a length that a kind of server cannot be asked for."""
    DIALECTS[dialect]("", Request(0, [], "", 1), length)


DIALECTS: dict[str, Callable[[str, Request, str], dict[str, Any]]] = {
    "transformers": _transformers,
    "vllm": _vllm,
    "sglang": _vllm,
    "llamacpp": _llamacpp,
    "openai": _openai,
}
"""Kind of server to the body of a request, from the model's name, the request, and its length."""
