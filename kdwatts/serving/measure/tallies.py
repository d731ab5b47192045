"""What was done in each slice of a window: tokens by arrival, requests by their end."""

# S slices of one window.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdwatts.config.serving import Slo
from kdwatts.serving.client.outcomes import UNFINISHED, Outcome
from kdwatts.serving.measure.latencies import is_good, written
from kdwatts.serving.measure.steady_start import Window

Counts = NDArray[np.float64]
"""[S]: one number for each slice."""


@dataclass(frozen=True)
class Tally:
    """Work of a window, slice by slice."""

    output_tokens_S: Counts
    """Tokens that arrived, of requests that did not fail."""
    prompt_tokens_S: Counts
    """Tokens of the prompts whose first token arrived, of requests that did not fail."""
    completed_S: Counts
    """Requests that ended well."""
    good_S: Counts
    """Requests that ended well and kept the SLO."""
    completed: list[Outcome]
    """Requests that ended well in the window."""
    failed: list[Outcome]
    """Requests that failed in the window."""
    all_output_tokens: float
    """Tokens that arrived in the window, of all requests."""
    guessed_prompts: int
    """Prompts in `prompt_tokens_S` whose length the server did not say."""


def tally(outcomes: Sequence[Outcome], window: Window, slo: Slo) -> Tally:
    """The work of a window.

    A chunk counts when it arrives, a prompt when its first token arrives, a request when it ends. A
    request that failed, then or later, has no tokens. One that the end of the measurement cut short
    has those that arrived. Many servers state their counts at the end only. Then the length of its
    prompt and the tokens of its chunks are not known: the means of the others stand for them.
    """
    edges_s = np.array([*(one.start_s for one in window.slices), window.end_s])
    worked = [o for o in outcomes if o.failure in (None, UNFINISHED)]
    started = [o for o in worked if o.chunks and window.holds(o.chunks[0][0])]
    known = [o.prompt_tokens for o in worked if o.prompt_tokens is not None]
    mean_prompt = float(np.mean(known)) if known else 0.0
    prompts = [mean_prompt if o.prompt_tokens is None else o.prompt_tokens for o in started]
    completed = [o for o in outcomes if o.failure is None and window.holds(o.ended_s)]
    good = [o for o in completed if is_good(o, slo)]
    lost = [o for o in outcomes if o.failure not in (None, UNFINISHED)]
    output_tokens_S = _tokens_by_arrival(worked, edges_s)
    return Tally(
        output_tokens_S=output_tokens_S,
        prompt_tokens_S=_by_slice([o.chunks[0][0] for o in started], prompts, edges_s),
        completed_S=_by_slice([o.ended_s for o in completed], None, edges_s),
        good_S=_by_slice([o.ended_s for o in good], None, edges_s),
        completed=completed,
        failed=[o for o in lost if window.holds(o.ended_s)],
        all_output_tokens=float(output_tokens_S.sum() + _tokens_by_arrival(lost, edges_s).sum()),
        guessed_prompts=sum(o.prompt_tokens is None for o in started),
    )


def _tokens_by_arrival(outcomes: Sequence[Outcome], edges_s: Counts) -> Counts:
    """[S]. Where usage says more than the chunks held, such as an end token, chunks share it."""
    times_s: list[float] = []
    tokens: list[float] = []
    stated = [o for o in outcomes if o.output_tokens is not None and o.chunks]
    num_chunks = sum(len(o.chunks) for o in stated)
    mean_chunk = sum(written(o) for o in stated) / num_chunks if num_chunks else 1.0
    for outcome in outcomes:
        held = sum(number for _, number in outcome.chunks)
        is_stated = outcome.output_tokens is not None
        whole = written(outcome) if is_stated else mean_chunk * len(outcome.chunks)
        share = whole / held if held else 0.0
        times_s.extend(time_s for time_s, _ in outcome.chunks)
        tokens.extend(number * share for _, number in outcome.chunks)
    return _by_slice(times_s, tokens, edges_s)


def _by_slice(times_s: Sequence[float], weights: Sequence[float] | None, edges_s: Counts) -> Counts:
    """[S]. Sum of what lies in each slice; its start is in it, its end is not."""
    index = np.searchsorted(edges_s, np.asarray(times_s, float), side="right") - 1
    inside = (index >= 0) & (index < len(edges_s) - 1)
    chosen = None if weights is None else np.asarray(weights, float)[inside]
    return np.bincount(index[inside], weights=chosen, minlength=len(edges_s) - 1).astype(float)
