"""Text that a model writes: prompts of any lengths in one batch, padded on the left, KV cached.

The loop is our own because transformers' `generate` draws for a whole batch from one generator. The
text after a prompt would then depend on the other prompts. Here every prompt brings its own random
numbers.
"""

# B prompts still written to, P positions of the prompts, N tokens of the longest text, E end
# tokens, V shared vocabulary.

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdwatts.runtime.sending import send
from kdwatts.teacher.decoding_steps import MakeSteps, steps_of
from kdwatts.teacher.late_looks import LateLooks, Pace, pace_of


def uniform_draws(key: Sequence[int], count: int) -> NDArray[np.float64]:
    """`count` random numbers in [0, 1), float64 [L], that depend on `key` alone.

    A longer series begins with the shorter one. A key names a prompt: the seed and the prompt's own
    place, not its place in a batch.
    """
    return np.random.default_rng(list(key)).random(count)


def choose_tokens(
    logits_BV: Tensor, draw_B: Tensor, *, temperature: float, top_p: float = 1.0
) -> Tensor:
    """The next token of each row, int64 [B], for logits [B, V] and one random number per row [B].

    The token is where the number falls in the cumulated probabilities. Temperature 0 takes the
    likeliest token. `top_p` below 1 keeps the smallest set of likeliest tokens with at least this
    probability (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751, section 3.1). Tokens are
    cumulated in the order of their ids. In the order of likelihood, rounding could swap two tokens
    of nearly equal likelihood, and the drawn token with them.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    p_BV = (logits_BV.double() / temperature).softmax(-1)
    if top_p < 1:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        kept_BV = torch.zeros_like(p_BV, dtype=torch.bool).scatter(-1, order_BV, before_BV < top_p)
        p_BV = torch.where(kept_BV, p_BV, 0.0)
    cumulated_BV = p_BV.cumsum(-1)
    total_B1 = cumulated_BV[:, -1:]
    # Rounding may bring the product up to the total, beyond which no token has probability.
    goal_B1 = (draw_B[:, None] * total_B1).minimum(total_B1 * (1 - 1e-12))
    next_B = torch.searchsorted(cumulated_BV, goal_B1, right=True)[:, 0]
    # It is beyond the last token for NaN alone. That is refused later, and read before by a GPU.
    return next_B.clamp(max=logits_BV.shape[-1] - 1)


@torch.no_grad()
def write_text(
    model: nn.Module,
    prompts: Sequence[NDArray[np.int64]],
    draws: Sequence[NDArray[np.float64]],
    *,
    end_ids: Collection[int],
    vocabulary: int,
    temperature: float,
    top_p: float = 1.0,
    writer: str = "model",
    make_steps: MakeSteps = steps_of,
    make_pace: Callable[[torch.device], Pace] = pace_of,
) -> list[NDArray[np.int64]]:
    """What the model writes after each prompt, int64 [L]: at least one token, without the prompt.

    A text ends with the first of `end_ids` that is written, which belongs to it, or after as many
    tokens as its prompt has random numbers. Only ids below `vocabulary` are written. A text does
    not depend on the other prompts, up to rounding of logits. The caller chooses device and
    autocast, and sets the model to evaluation mode: with gradient checkpointing it would keep no
    cache.

    On a CPU a prompt whose text has ended leaves the batch at once. On a GPU the host looks only
    now and then which have ended, and waits for no token: what is written after an end is cut off.

    Raises ValueError for a prompt without a token. Raises RuntimeError, which names the `writer`,
    for logits that are not finite: ordinary tokens would be drawn from NaN.
    """
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("generate: a prompt has no tokens; give each prompt at least one")
    if not prompts:
        return []
    assert all(len(draw) for draw in draws), "a prompt without draws is to be left out"
    device = next(model.parameters()).device
    token_BP, mask_BP = (_sent(array, device) for array in _left_padded(prompts))
    limits = np.array([len(draw) for draw in draws])
    draw_BN = np.zeros((len(prompts), limits.max()))
    for row, draw in enumerate(draws):
        draw_BN[row, : len(draw)] = draw
    draws_BN, limit_B = _sent(draw_BN, device), _sent(limits, device)
    text_BN = torch.zeros(draw_BN.shape, dtype=torch.int64, device=device)
    end_E = _sent(np.array(sorted(end_ids), dtype=np.int64), device)
    steps = make_steps(model, token_BP, mask_BP, new_tokens=draw_BN.shape[1])
    pace = make_pace(device)
    looks = LateLooks(pace)
    row_B = torch.arange(len(prompts), device=device)
    # Whether a text has ended, and whether logits inside it were not finite.
    flags_2B = torch.zeros(2, len(prompts), dtype=torch.bool, device=device)
    next_B = row_B
    for place in range(draw_BN.shape[1]):
        seen_2B = looks.read(written=place)
        if seen_2B is not None:
            _refuse_damaged(seen_2B[1], writer)
            open_rows = np.flatnonzero(~seen_2B[0])
            if not len(open_rows):
                break
            if pace.lets_leave(len(open_rows), len(row_B)):
                stay_B = _sent(open_rows, device)
                steps.keep(stay_B)
                row_B, next_B, limit_B = row_B[stay_B], next_B[stay_B], limit_B[stay_B]
                flags_2B = flags_2B[:, stay_B]
        logits_BV = (steps.step(next_B) if place else steps.begin())[:, :vocabulary]
        draw_B = draws_BN[row_B, place]
        next_B = choose_tokens(logits_BV, draw_B, temperature=temperature, top_p=top_p)
        text_BN[row_B, place] = next_B
        ended_B, damaged_B = flags_2B
        # A row's maximum is NaN if one of its logits is.
        damaged_B |= ~(ended_B | logits_BV.amax(-1).isfinite())
        ended_B |= (next_B[:, None] == end_E).any(-1) | (limit_B <= place + 1)
        looks.start(flags_2B, written=place + 1)
    _refuse_damaged(flags_2B[1].cpu().numpy(), writer)
    texts_BN = text_BN.cpu().numpy()
    return [_cut(text_N[:limit], end_ids) for text_N, limit in zip(texts_BN, limits, strict=True)]


def _sent(array: NDArray, device: torch.device) -> Tensor:
    """An array on a device, which the host does not wait for."""
    return send(torch.from_numpy(array), device)


def _refuse_damaged(damaged_B: NDArray[np.bool_], writer: str) -> None:
    if damaged_B.any():
        raise RuntimeError(
            f"generate: the {writer}'s logits are not finite (NaN or infinite), so its text "
            f"would mean nothing; its weights may be damaged: check the {writer}'s files"
        )


def _cut(text_N: NDArray[np.int64], end_ids: Collection[int]) -> NDArray[np.int64]:
    """A text up to its first end token, which belongs to it."""
    end_indices = np.flatnonzero(np.isin(text_N, list(end_ids)))
    return text_N[: end_indices[0] + 1] if len(end_indices) else text_N


def _left_padded(
    prompts: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and mask [B, P]. A pad is told by its place, never by its id, which any token has."""
    longest = max(len(prompt) for prompt in prompts)
    token_BP = np.zeros((len(prompts), longest), dtype=np.int64)
    mask_BP = np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        token_BP[row, longest - len(prompt) :] = prompt
        mask_BP[row, longest - len(prompt) :] = 1
    return token_BP, mask_BP


def keep_texts(path: Path, texts: Mapping[tuple[int, ...], NDArray[np.int64]]) -> None:
    """Write texts under keys of one length. The file is complete as soon as it has its name."""
    aside = path.with_suffix(".part")
    with aside.open("wb") as file:
        np.savez(
            file,
            keys=np.array(list(texts), dtype=np.int64),
            lengths=np.array([len(text) for text in texts.values()], dtype=np.int64),
            tokens=np.concatenate([np.empty(0, dtype=np.int64), *texts.values()]),
        )
    aside.rename(path)


def read_texts(path: Path) -> dict[tuple[int, ...], NDArray[np.int64]]:
    """The texts of a file that `keep_texts` wrote."""
    with np.load(path) as kept:
        stops = kept["lengths"].cumsum()
        texts = np.split(kept["tokens"], stops)[: len(stops)]
        return dict(zip(map(tuple, kept["keys"].tolist()), texts, strict=True))
