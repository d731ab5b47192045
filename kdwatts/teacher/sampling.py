"""Tokens drawn from the teacher: the same ones for a row of data, on every rank and device."""

# B rows of a batch, T positions, N = B T, V shared vocabulary, S draws at a position, K = S kept.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_STREAM = 0x6B65


@dataclass(frozen=True)
class SampledLogits:
    """Tokens drawn from the teacher at one temperature, and how often each was drawn."""

    ids_NK: Tensor
    counts_NK: Tensor
    """How often each id was drawn. 0 where fewer than K tokens are distinct."""
    num_samples: int
    """Draws at each position.

    It is the sum of the counts and also K, so no token is ever dropped.
    """
    finite_N: Tensor | None = None
    """Where the logits were finite: from NaN, an ordinary token would be drawn.

    None where this was checked before the samples were kept.
    """


def uniforms(
    rows: NDArray[np.int64], *, sequence_length: int, num_samples: int
) -> NDArray[np.float64]:
    """S random numbers in [0, 1) for each position of each row, ascending, float64 [B, T, S].

    They depend on the row's number alone: not on batch, order, seed, rank or device.
    """
    shape = sequence_length, num_samples
    drawn = [np.random.default_rng([_STREAM, int(row)]).random(shape) for row in rows]
    return np.sort(np.stack(drawn), axis=-1)


def sampled_logits(
    logits_NV: Tensor, uniform_NS: Tensor, *, temperature: float = 1.0
) -> SampledLogits:
    """S tokens of softmax(logits / T) for logits [N, V], drawn with replacement, ids ascending.

    `uniform_NS` [N, S] ascend along S. The token of a number u is where the cumulated distribution
    first exceeds u (inversion), in float64. In float32, tokens below 6e-8 would be lost, in float16
    most of a vocabulary. count / S has the mean p, so gradients are unbiased (Sparse Logit
    Sampling, arXiv 2503.16870, section 3).
    """
    cumulated_NV = (logits_NV.double() / temperature).softmax(-1).cumsum(-1)
    # The last sum is 1 up to rounding. A number beyond it would find no token.
    threshold_NS = uniform_NS.to(cumulated_NV) * cumulated_NV[:, -1:]
    drawn_NS = torch.searchsorted(cumulated_NV, threshold_NS, right=True)
    drawn_NS.clamp_(max=logits_NV.shape[-1] - 1)
    first_NS = torch.ones_like(drawn_NS, dtype=torch.bool)
    first_NS[:, 1:] = drawn_NS[:, 1:] != drawn_NS[:, :-1]
    place_NS = first_NS.cumsum(-1) - 1
    ids_NK = torch.zeros_like(drawn_NS).scatter_(-1, place_NS, drawn_NS)
    counts_NK = torch.zeros_like(drawn_NS, dtype=torch.int32)
    counts_NK.scatter_add_(-1, place_NS, torch.ones_like(counts_NK))
    finite_N = cumulated_NV[:, -1].isfinite()
    return SampledLogits(ids_NK, counts_NK, drawn_NS.shape[-1], finite_N)
