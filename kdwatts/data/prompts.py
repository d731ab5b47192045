"""Where a model continues a text: after the beginning of a text, or before an answer.

No prompt crosses the beginning of a document.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdwatts.data.shards import NO_TARGET, TokenShards


def corpus_prompts(
    shards: TokenShards, *, prompt_tokens: int, piece_tokens: int, num_prompts: int
) -> dict[int, NDArray[np.int64]]:
    """Up to `num_prompts` prompts by the place of their first token in the shards, ascending.

    In a conversation, which begins with context, the prompt is everything before the first target.
    A conversation whose prompt is longer than `prompt_tokens` is left out. In plain text, the
    prompt is the first `prompt_tokens` of every `piece_tokens`. Prompts are drawn by a permutation
    that does not depend on the seed of training, so a larger set holds every smaller one.

    Raises ValueError when there is none.
    """
    begins = shards.starts_between(0, shards.num_tokens)
    ends = np.append(begins[1:], shards.num_tokens)
    talks = np.array(
        [shards.read(place, place + 1)[0] >= NO_TARGET for place in begins], dtype=bool
    )
    # A piece needs one token after its prompt: at the very end there is nothing to continue.
    pieces = np.where(talks, 1, (ends - begins - prompt_tokens - 1) // piece_tokens + 1).clip(min=0)
    nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    places = np.repeat(begins, pieces) + nth * piece_tokens
    stops = np.minimum(np.repeat(ends, pieces), places + prompt_tokens + 1)
    is_talk = np.repeat(talks, pieces)
    prompts: dict[int, NDArray[np.int64]] = {}
    for index in np.random.default_rng(0).permutation(len(places)):
        if len(prompts) == num_prompts:
            break
        tokens = shards.read(int(places[index]), int(stops[index]))
        length = len(tokens) - 1
        if is_talk[index]:
            answers = np.flatnonzero(tokens < NO_TARGET)
            if not len(answers):
                continue
            length = int(answers[0])
        prompts[int(places[index])] = _ids(tokens[:length])
    if not prompts:
        raise ValueError(
            f"paradigm.generate.prompt_tokens={prompt_tokens}: no text in {shards.directory} has a "
            f"prompt of this length with a token after it; {'raise' if talks.any() else 'lower'} "
            "it, or choose other data"
        )
    return dict(sorted(prompts.items()))


def row_prompt(
    shards: TokenShards, row: int, *, sequence_length: int, prompt_tokens: int
) -> NDArray[np.int64] | None:
    """The prompt that a training row gives. None where it has none that fits.

    In plain text it is the first `prompt_tokens` of the row, or those of them after the beginning
    of a document. In a row with context it is everything in a document before the first answer for
    which this is at most `prompt_tokens`.
    """
    first, last = row * sequence_length, (row + 1) * sequence_length + 1
    tokens = shards.read(first, last)
    starts = shards.starts_between(first, last) - first
    is_context = tokens >= NO_TARGET
    if not is_context.any():
        ends = np.array([min(prompt_tokens, sequence_length)])
    else:
        # An answer begins with a target after context; after a document's end there is no context.
        ends = np.setdiff1d(np.flatnonzero(is_context[:-1] & ~is_context[1:]) + 1, starts)
    for end in ends:
        begin = starts[starts < end].max(initial=0)
        if end - begin <= prompt_tokens:
            return _ids(tokens[begin:end])
    return None


def _ids(tokens: NDArray[np.uint32]) -> NDArray[np.int64]:
    return (tokens & ~NO_TARGET).astype(np.int64)
