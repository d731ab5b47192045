"""Answers that an engine writes for a harness: its requests as tokens, and the tokens it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdwatts.evaluation.counting import TokenCount
from kdwatts.evaluation.lm_tasks import LoadedTask


@dataclass(frozen=True)
class AnswerSettings:
    """How the harness has answers written."""

    new_tokens: int
    """Most tokens of an answer."""
    stop: Sequence[str]
    """Each ends an answer. The harness cuts off what stands behind it."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    top_k: int = 0
    """Draw from so many likeliest tokens. 0 draws from all."""


Write = Callable[[Sequence[list[int]], AnswerSettings], list[list[int]]]
"""From prompts and settings to the answers, all as tokens. Raises RuntimeError, one sentence."""


class NotWritten(RuntimeError):
    """An engine that failed: its sentence needs no words of the harness around it."""


def is_generated(loaded: LoadedTask, name: str, engine: str) -> bool:
    """Whether a benchmark's answers are written, and not chosen by their likelihoods.

    Raises ValueError for one that has parts of both kinds: they need two programs on one GPU.
    """
    kinds = {leaf.OUTPUT_TYPE == "generate_until" for leaf in loaded.leaves}
    if len(kinds) > 1:
        raise ValueError(
            f"eval.engine={engine}: {name} has parts that generate and parts that compare "
            "likelihoods, which only our own loop reads; list its parts as tasks of their own, or "
            "set eval.engine=loop"
        )
    return kinds == {True}


def write_with(served: Any, write: Write, count: TokenCount) -> None:
    """Have all answers of an HFLM be written by `write`, and count their tokens.

    All that the harness asks at once reaches `write` at once, whatever the batch size, so that no
    answer waits for a batch to end. The HFLM's model needs no weights.
    """
    served._device = torch.device("cpu")
    generate = served.generate_until

    def generate_at_once(requests: list[Any], *arguments: Any, **options: Any) -> list[str]:
        served.batch_size_per_gpu = max(1, len(requests))
        return generate(requests, *arguments, **options)

    def written(context: Tensor, max_length: int, stop: list[str], **asked: Any) -> Tensor:
        mask = asked.pop("attention_mask").bool()
        prompts = [row[kept].tolist() for row, kept in zip(context, mask, strict=True)]
        settings = _settings(max_length - context.shape[1], stop, asked)
        try:
            texts = write(prompts, settings)
        except RuntimeError as error:
            raise NotWritten(str(error)) from error
        count.add(sum(map(len, prompts)) + sum(map(len, texts)))
        longest = max(map(len, texts))
        pad = served.tokenizer.pad_token_id
        rows = [text + [pad] * (longest - len(text)) for text in texts]
        return torch.cat([context, torch.tensor(rows, dtype=context.dtype)], dim=1)

    served.generate_until, served._model_generate = generate_at_once, written


def _settings(new_tokens: int, stop: Sequence[str], asked: dict[str, Any]) -> AnswerSettings:
    """What the harness asks for. Raises ValueError for what an engine is not asked for here."""
    asked = dict(asked)
    draws, temperature = asked.pop("do_sample", False), asked.pop("temperature", None)
    top_p, top_k = asked.pop("top_p", None), asked.pop("top_k", None)
    if unknown := sorted(name for name, value in asked.items() if value is not None):
        raise ValueError(
            f"the task asks for {', '.join(unknown)}, which eval.engine takes from no task; set "
            "eval.engine=loop"
        )
    if not draws:
        return AnswerSettings(new_tokens, stop)
    # 1 is what transformers draws with where a task samples and states no temperature.
    return AnswerSettings(
        new_tokens,
        stop,
        temperature=1.0 if temperature is None else float(temperature),
        top_p=1.0 if top_p is None else float(top_p),
        top_k=0 if top_k is None else int(top_k),
    )
