"""The requests of a workload: prompts cut from a text, each with a start of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.serving import Workload
from kdwatts.serving.load.lengths import Lengths, lengths_of
from kdwatts.serving.load.requests import Request


def requests(
    workload: Workload,
    ids: NDArray[np.int64],
    tokenizer: Any,
    *,
    seed: int,
    max_positions: int | None,
) -> Iterator[Request]:
    """Requests without an end, numbered from 0; equal arguments give equal requests.

    `ids` is the text in the model's tokens, int64 [n]. Starts lie a mean prompt apart and come
    in a seeded order. When all are used, it goes round with another offset. So no two prompts begin
    alike before every position of the text was a start once, and a cache of prefixes saves nothing
    that a service would not. Take one stream for all loads of a server: another seed's starts may
    be the same.

    Raises ValueError for lengths that no context or lognormal has, and for a text that is shorter
    than one prompt, at its 95th percentile where lengths differ.
    """
    longest = workload.prompt_tokens_p95 or workload.prompt_tokens
    if len(ids) < longest:
        raise ValueError(
            f"eval.serving.workload.prompt_tokens: a prompt of {longest} tokens is longer than the "
            f"text, which has {len(ids)}; ask for shorter prompts, or give a longer text"
        )
    lengths = lengths_of(workload, max_positions=max_positions, text_tokens=len(ids))
    return _cut(lengths, workload.prompt_tokens, ids, tokenizer, np.random.default_rng(seed))


def _cut(
    lengths: Lengths,
    stride: int,
    ids: NDArray[np.int64],
    tokenizer: Any,
    draw: np.random.Generator,
) -> Iterator[Request]:
    places = starts(len(ids), stride, draw)
    for number, start in enumerate(places):
        prompt_tokens, output_tokens, _ = lengths.draw(draw)
        # A prompt that reaches the end of the text goes on at its beginning.
        cut = np.take(ids, np.arange(start, start + prompt_tokens), mode="wrap").tolist()
        yield Request(
            number,
            prompt_ids=cut,
            # End tokens between documents stay: an engine that takes text reads them as such again.
            prompt=tokenizer.decode(
                cut, skip_special_tokens=False, clean_up_tokenization_spaces=False
            ),
            output_tokens=output_tokens,
        )


def starts(text_tokens: int, stride: int, draw: np.random.Generator) -> Iterator[int]:
    """Every position of the text once, in rounds of positions a stride apart; then anew."""
    while True:
        for offset in draw.permutation(min(stride, text_tokens)):
            yield from draw.permutation(np.arange(offset, text_tokens, stride)).tolist()
