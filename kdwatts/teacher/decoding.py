"""Text that a model writes: prompts of any lengths in one batch, padded on the left, KV cached.

The loop is our own because transformers' `generate` draws for a whole batch from one generator. The
text after a prompt would then depend on the other prompts. Here every prompt brings its own random
numbers.
"""

# B prompts still written to, P positions so far, V shared vocabulary.

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache


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
    return torch.searchsorted(cumulated_BV, goal_B1, right=True)[:, 0]


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
) -> list[NDArray[np.int64]]:
    """What the model writes after each prompt, int64 [L]: at least one token, without the prompt.

    A text ends with the first of `end_ids` that is written, which belongs to it, or after as many
    tokens as its prompt has random numbers. Only ids below `vocabulary` are written. A text does
    not depend on the other prompts, up to rounding of logits. A prompt whose text has ended leaves
    the batch. The caller chooses device and autocast, and sets the model to evaluation mode: with
    gradient checkpointing it would keep no cache.

    Raises ValueError for a prompt without a token. Raises RuntimeError, which names the `writer`,
    for logits that are not finite: ordinary tokens would be drawn from NaN.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not all(lengths):
        raise ValueError("generate: a prompt has no tokens; give each prompt at least one")
    if not prompts:
        return []
    assert all(len(draw) for draw in draws), "a prompt without draws is to be left out"
    device = next(model.parameters()).device
    token_BP, mask_BP = (tensor.to(device) for tensor in _left_padded(prompts))
    # Pads have no position: a text's first token is at position 0 whatever stands before it.
    position_BP = (mask_BP.cumsum(-1) - 1).clamp(min=0)
    limit_B = np.array([len(draw) for draw in draws])
    draw_BN = np.zeros((len(prompts), limit_B.max()))
    for row, draw in enumerate(draws):
        draw_BN[row, : len(draw)] = draw
    draws_BN = torch.from_numpy(draw_BN).to(device)
    text_BN = torch.zeros(draw_BN.shape, dtype=torch.int64, device=device)
    ends = torch.tensor(sorted(end_ids), device=device)
    num_written = np.zeros(len(prompts), dtype=np.int64)
    open_B = torch.arange(len(prompts), device=device)
    cache = DynamicCache(config=model.config)  # pyright: ignore[reportArgumentType]
    for place in range(draw_BN.shape[1]):
        said = model(
            input_ids=token_BP,
            attention_mask=mask_BP,
            position_ids=position_BP,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV = said.logits[:, -1, :vocabulary]
        finite_B = logits_BV.amax(-1).isfinite()
        draw_B = draws_BN[open_B, place]
        next_B = choose_tokens(logits_BV, draw_B, temperature=temperature, top_p=top_p)
        text_BN[open_B, place] = next_B
        num_written[open_B.cpu().numpy()] = place + 1
        # One transfer, since each is a wait. A row's maximum is NaN if one of its logits is.
        ended_B, finite_B = torch.stack([torch.isin(next_B, ends), finite_B]).cpu().numpy()
        if not finite_B.all():
            raise RuntimeError(
                f"generate: the {writer}'s logits are not finite (NaN or infinite), so its text "
                f"would mean nothing; its weights may be damaged: check the {writer}'s files"
            )
        done = ended_B | (limit_B[open_B.cpu().numpy()] == place + 1)
        if done.all():
            break
        token_BP, position_BP = next_B[:, None], position_BP[:, -1:] + 1
        mask_BP = torch.cat([mask_BP, mask_BP.new_ones(len(mask_BP), 1)], dim=-1)
        if done.any():
            stay = torch.from_numpy(np.flatnonzero(~done)).to(device)
            cache.batch_select_indices(stay)
            open_B, token_BP, position_BP, mask_BP = (
                tensor[stay] for tensor in (open_B, token_BP, position_BP, mask_BP)
            )
    texts_BN = text_BN.cpu().numpy()
    return [text_N[:count] for text_N, count in zip(texts_BN, num_written, strict=True)]


def _left_padded(prompts: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Tokens and mask [B, P]. A pad is told by its place, never by its id, which any token has."""
    longest = max(len(prompt) for prompt in prompts)
    token_BP = np.zeros((len(prompts), longest), dtype=np.int64)
    mask_BP = np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        token_BP[row, longest - len(prompt) :] = prompt
        mask_BP[row, longest - len(prompt) :] = 1
    return torch.from_numpy(token_BP), torch.from_numpy(mask_BP)


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
