"""A teacher's likeliest tokens as an engine states them, in the form of our own forward pass."""

# P positions of a text, N those of several texts, K top tokens.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdwatts.teacher.signals import SparseLogits

Top = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Ids [P, K] of the likeliest tokens and their log-probabilities in nats, in any order."""

MOST_SUM = 1.001
"""Of probabilities that were rounded to float32."""


def prompt_of(text: NDArray[np.int64]) -> list[int]:
    """The prompt whose answer describes what follows each token of a text.

    An engine describes the tokens of a prompt, each given those before it. So what follows the last
    token of a text is told of one more token. Which one it is changes nothing: none before sees it.
    """
    return [*text.tolist(), int(text[0])]


def top_of_answer(
    prompt: Sequence[int], answer: Any, *, k: int, vocabulary: int, engine: str
) -> Top:
    """The K likeliest tokens after each of the P tokens of a text, from a prompt of P + 1 tokens.

    `answer` has null for the first token. For each other it maps the ids of the K likeliest tokens
    in its place, and its own id, to a `logprob`. A token beyond the K likeliest is left out.

    Raises RuntimeError, one sentence, for an answer that does not hold exactly this.
    """
    if not isinstance(answer, list) or len(answer) != len(prompt):
        found = f"{len(answer)} entries" if isinstance(answer, list) else "no list"
        raise _unreadable(engine, f"{found} for {len(prompt)} tokens")
    ids: list[int] = []
    log_p: list[float] = []
    own_log_p: list[float] = []
    try:
        for own, entry in zip(prompt[1:], answer[1:], strict=True):
            beyond = entry.get(str(own)) if len(entry) == k + 1 else None
            own_log_p.append(beyond["logprob"] if beyond else -np.inf)
            kept = {name: one for name, one in entry.items() if one is not beyond}
            if len(kept) != k:
                raise _unreadable(engine, f"{len(kept)} tokens at a position in place of {k}")
            ids += map(int, kept)
            log_p += [one["logprob"] for one in kept.values()]
        ids_PK = np.array(ids, dtype=np.int64).reshape(-1, k)
        log_p_PK = np.array(log_p, dtype=np.float64).reshape(-1, k)
        own_P = np.array(own_log_p, dtype=np.float64)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise _unreadable(engine, "something else than a logprob for each token id") from None
    if ids_PK.min(initial=0) < 0 or ids_PK.max(initial=0) >= vocabulary:
        raise _unreadable(engine, f"a token that is none of the {vocabulary:,} of the vocabulary")
    if (np.exp(log_p_PK).sum(axis=1) > MOST_SUM).any():
        raise _unreadable(engine, "probabilities that add up to more than 1")
    if (own_P > log_p_PK.min(axis=1)).any():
        raise _unreadable(engine, "a likelier token left out")
    return ids_PK, log_p_PK


def sparse_of(tops: Sequence[Top]) -> SparseLogits:
    """The signal at temperature 1 of texts that follow each other.

    The tail is what the K probabilities lack to 1. They have the precision of float32, so a tail
    below about 1e-6 is known to be small and no more.
    """
    ids_NK = np.concatenate([ids_PK for ids_PK, _ in tops])
    log_p_NK = np.concatenate([log_p_PK for _, log_p_PK in tops])
    tail_N1 = 1.0 - np.exp(log_p_NK).sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_tail_N1 = np.log(np.maximum(tail_N1, 0.0))  # NaN stays NaN.
    return SparseLogits(
        torch.from_numpy(ids_NK),
        torch.from_numpy(log_p_NK.astype(np.float32)),
        torch.zeros(len(ids_NK), 1),
        torch.from_numpy(log_tail_N1.astype(np.float32)),
    )


def _unreadable(engine: str, found: str) -> RuntimeError:
    return RuntimeError(
        f"teacher: {engine} answered with {found}; take another version of it, or set "
        "paradigm.signals_engine=loop"
    )
