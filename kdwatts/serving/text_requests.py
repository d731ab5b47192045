"""A text that a server is to write, and how the request for it is put to each engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdwatts.models.tokens_as_numbers import as_words

VLLM_BIASES = 1024
"""Most tokens that vLLM forbids in one request (vllm/v1/worker/gpu/sample/logit_bias.py, 0.32)."""


@dataclass(frozen=True)
class TextRequest:
    """A prompt to go on with."""

    place: int
    """What the caller knows it by."""
    prompt_ids: list[int]
    new_tokens: int
    """Most tokens that are written."""
    seed: int
    """Of its own random numbers, so that its text does not depend on the others."""


@dataclass(frozen=True)
class Sampling:
    """How each next token is chosen, and what ends a text."""

    end_ids: Sequence[int]
    """Each ends a text, and belongs to it. Nothing else ends one but its length and `stop`."""
    vocabulary: int
    """Only ids below this may be written."""
    rows: int
    """Rows of the model's vocabulary: at least as many."""
    temperature: float
    """0 takes the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """Draw from so many likeliest tokens. 0 draws from all."""
    repetition_penalty: float = 1.0
    """What logits of tokens that stand there already are divided by."""
    stop: Sequence[str] = ()
    """Each ends a text once it stands in it. What stands behind it may be there or not."""
    decode: Callable[[list[int]], str] = str
    """Ids to text, by which `stop` is looked for where the engine does not know our tokens."""

    @property
    def forbidden(self) -> range:
        """Ids that the model has and that may not be written."""
        return range(self.vocabulary, self.rows)


def seed_of(*numbers: int) -> int:
    """A seed of 63 bits that depends on the numbers alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def check_forbidden(dialect: str, sampling: Sampling) -> None:
    """Raise ValueError where an engine cannot forbid so many tokens."""
    if dialect == "vllm" and len(sampling.forbidden) > VLLM_BIASES:
        raise ValueError(
            f"vLLM was asked to write without the last {len(sampling.forbidden)} tokens of the "
            f"model's vocabulary, which the pair's other model lacks, and can leave out "
            f"{VLLM_BIASES}; choose transformers or loop"
        )


def _vllm(model: str, request: TextRequest, sampling: Sampling) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "prompt": request.prompt_ids,
        "max_tokens": request.new_tokens,
        "temperature": sampling.temperature,
        "return_token_ids": True,
        # It has end tokens of its own choice; ours are those of the loop.
        "ignore_eos": True,
        "stop_token_ids": list(sampling.end_ids),
        "stop": [text for text in sampling.stop if text],
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.forbidden:
        body["logit_bias"] = {str(token): -100 for token in sampling.forbidden}
    if sampling.temperature > 0:
        body |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "seed": request.seed}
    return body


def _transformers(model: str, request: TextRequest, sampling: Sampling) -> dict[str, Any]:
    """The settings are JSON inside of JSON, and what they leave out has the library's default."""
    settings: dict[str, Any] = {
        "max_new_tokens": request.new_tokens,
        "do_sample": sampling.temperature > 0,
        "eos_token_id": list(sampling.end_ids),
        "pad_token_id": sampling.end_ids[0],
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.forbidden:
        settings["suppress_tokens"] = list(sampling.forbidden)
    body: dict[str, Any] = {"model": model, "prompt": as_words(request.prompt_ids), "stream": True}
    if sampling.temperature > 0:
        names = ("temperature", "top_p", "top_k")
        settings |= {name: getattr(sampling, name) for name in names}
        body["seed"] = request.seed
    return body | {"generation_config": json.dumps(settings)}


TEXT_BODIES: dict[str, Callable[[str, TextRequest, Sampling], dict[str, Any]]] = {
    "transformers": _transformers,
    "vllm": _vllm,
}
"""Kind of server to the body of a request for a text. vLLM answers at once, transformers streams.
"""
