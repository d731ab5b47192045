"""The teacher signals that a paradigm's terms need, computed live from its forward pass."""

# B sequences, T positions, N = B T positions, K top tokens, M temperatures, S layers,
# D teacher width, V shared vocabulary.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdwatts.config.paradigm import Paradigm
from kdwatts.data.positions import sampled_positions
from kdwatts.losses.chunks import SPARSE_ROWS
from kdwatts.losses.relational import mean_pool
from kdwatts.losses.rounding import wide
from kdwatts.losses.sparse import TopK
from kdwatts.models.layers import LayerPairs, captured_blocks, captured_projections
from kdwatts.models.load import head_bias, head_weight
from kdwatts.models.row_attention import final_states
from kdwatts.runtime.sending import send
from kdwatts.teacher.sampling import SampledLogits, sampled_logits, uniforms


@dataclass(frozen=True)
class SignalPlan:
    """Which signals to take. Equal plans make equal caches."""

    top_k: int = 0
    """Tokens kept per position. 0 keeps none."""
    temperatures: tuple[float, ...] = ()
    """Temperatures at which the top-k signal must be exact."""
    vocabulary: int = 0
    """Rows of the head that both models share."""
    precision: str = "u8"
    """How a cache keeps the top-k log-probabilities: see `teacher.sparse_coding`."""
    samples: int = 0
    """Tokens drawn at each position, with replacement. 0 draws none."""
    sample_temperature: float = 1.0
    """Temperature of the distribution they are drawn from."""
    final_hidden: bool = False
    """The state after the final norm, from which the head gives dense logits."""
    blocks: tuple[int, ...] = ()
    """Teacher blocks whose outputs are taken."""
    block_positions: int = 0
    """Sampled positions of each row at which block outputs are taken. 0 takes all."""
    pooled: bool = False
    """Mean over positions of the state after the final norm."""
    token_positions: int = 0
    """Sampled positions of each row whose final states are taken. 0 takes none."""
    attention_block: int | None = None
    """Teacher block whose queries, keys and values are taken. They are never cached."""


def signal_plan(paradigm: Paradigm, pairs: LayerPairs, vocabulary: int) -> SignalPlan:
    """The plan with all signals that the terms of `paradigm` need."""
    response = paradigm.response
    support = response.support if response else None
    sparse = support == "top_k"
    temperatures = {response.temperature, *response.teacher_temperatures} if response else set()
    feature, relational = paradigm.feature, paradigm.relational
    level = relational.level if relational else None
    return SignalPlan(
        top_k=response.k if response and sparse else 0,
        temperatures=tuple(sorted(temperatures)) if sparse else (),
        vocabulary=vocabulary if response else 0,
        precision=response.cache_precision if response and sparse else SignalPlan.precision,
        samples=response.num_samples if response and support == "sampled" else 0,
        sample_temperature=(
            response.temperature
            if response and support == "sampled"
            else SignalPlan.sample_temperature
        ),
        final_hidden=support == "dense",
        blocks=tuple(sorted({teacher for _, teacher in pairs})) if feature else (),
        block_positions=feature.positions if feature else 0,
        pooled=level == "sequence",
        token_positions=relational.tokens if relational and level == "token" else 0,
        attention_block=relational.teacher_block if relational and level == "attention" else None,
    )


@dataclass(frozen=True)
class SparseLogits:
    """The K likeliest tokens at temperature 1, with what makes them exact at other temperatures.

    log p_T(i) = l_i / T - c_T. l is the log-probability at T = 1 in nats, and c_T is log sum exp(l
    / T) over the whole vocabulary. A constant that is added to all l of a position changes c_T by
    its T-th part and no probability. So a cache stores l relative to the likeliest token.
    """

    ids_NK: Tensor
    log_p_NK: Tensor
    """l in nats, in any order of the tokens."""
    offset_NM: Tensor
    """c_T in nats for each temperature of the plan."""
    log_tail_NM: Tensor
    """log of the probability of all other tokens, in nats, at each temperature."""

    def at(self, temperature: float, temperatures: tuple[float, ...]) -> TopK:
        """The K likeliest tokens with their log-probabilities at one of the plan's temperatures."""
        place = temperatures.index(temperature)
        log_p_NK = wide(self.log_p_NK) / temperature - wide(self.offset_NM[:, place, None])
        return TopK(self.ids_NK.long(), log_p_NK, wide(self.log_tail_NM[:, place]))

    def at_places(self, place_n: Tensor) -> SparseLogits:
        """The positions with the numbers `place_n`, int64 [n]."""
        return SparseLogits(*(getattr(self, f.name).index_select(0, place_n) for f in fields(self)))


@dataclass(frozen=True)
class Signals:
    """What the teacher says about one batch. None for what the plan leaves out."""

    sparse: SparseLogits | None = None
    sampled: SampledLogits | None = None
    final_ND: Tensor | None = None
    aligned_N: Tensor | None = None
    """Where the final states stand for the student's positions. None where all do.

    See `universal`. It always lies in the CPU's memory, where it was made.
    """
    blocks: dict[int, Tensor] | None = None
    """Teacher block to its output [B, T, D], or [B, M, D] at the plan's sampled positions."""
    pooled_BD: Tensor | None = None
    tokens_BMD: Tensor | None = None
    """States after the final norm at the plan's sampled positions."""
    attention: dict[str, Tensor] | None = None
    """Queries, keys and values [B, T, heads times head width] under q, k and v."""

    def to(self, device: torch.device) -> Signals:
        """The signals on `device`. The host does not wait for the copies."""
        sent = _mapped(self, lambda tensor: send(tensor, device))
        return replace(sent, aligned_N=self.aligned_N)

    def first(self, num_rows: int, *, of: int) -> Signals:
        """The signals of the first `num_rows` of `of` rows."""
        return _mapped(self, lambda tensor: tensor[: len(tensor) // of * num_rows])

    def pinned(self) -> Signals:
        """The signals in page-locked memory, which a GPU reads by itself."""
        return _mapped(self, Tensor.pin_memory)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(part, change) for key, part in value.items()}
    if is_dataclass(value):
        parts = {f.name: _mapped(getattr(value, f.name), change) for f in fields(value)}
        return type(value)(**parts)
    return value


def worst(signals: Signals) -> Tensor:
    """NaN where a number of the teacher is not finite, else 0: a float32 scalar on its device.

    This does not wait for the device. A log-probability may be minus infinity: that of no
    probability. Samples are ordinary tokens whatever the logits are, so whoever draws them checks
    the logits.
    """
    found: list[Tensor] = []

    def look(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            found.append(tensor.isfinite().all())
        return tensor

    dense = Signals(**{**vars(signals), "sparse": None, "sampled": None})
    _mapped(dense, look)
    if signals.sparse:
        sparse = (signals.sparse.log_p_NK, signals.sparse.offset_NM, signals.sparse.log_tail_NM)
        found += [~(part.isnan() | part.isposinf()).any() for part in sparse]
    if signals.sampled and signals.sampled.finite_N is not None:
        found.append(signals.sampled.finite_N.all())
    if not found:
        return torch.zeros(())
    return torch.where(torch.stack(found).all(), 0.0, torch.nan)


def sparse_logits(logits_NV: Tensor, *, k: int, temperatures: tuple[float, ...]) -> SparseLogits:
    """The K likeliest tokens of each row of logits [N, V], exact at each of `temperatures`."""
    log_p_NV = wide(logits_NV).log_softmax(-1)
    log_p_NK, ids_NK = log_p_NV.topk(k, dim=-1)
    offsets, tails = [], []
    for temperature in temperatures:
        tempered_NV = log_p_NV / temperature
        offset_N = tempered_NV.logsumexp(-1)
        tail_N = tempered_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1)
        offsets.append(offset_N)
        tails.append(tail_N - offset_N)
    return SparseLogits(ids_NK, log_p_NK, torch.stack(offsets, -1), torch.stack(tails, -1))


def sampled_index(rows: NDArray[np.int64], like: Tensor, *, count: int) -> Tensor:
    """The `count` sampled positions of each row, int64 [B, M], on the device of `like` [B, ...]."""
    places = sampled_positions(rows, sequence_length=like.shape[1], count=count)
    return send(torch.from_numpy(places), like.device)


def at_positions(state: Tensor, index_BM: Tensor) -> Tensor:
    """Values [B, M, ...] of `state` [B, T] or [B, T, D] at positions [B, M] of each row."""
    if state.ndim == 2:
        return state.gather(1, index_BM)
    return state.gather(1, index_BM[..., None].expand(-1, -1, state.shape[-1]))


@torch.no_grad()
def compute_signals(
    teacher: nn.Module,
    input_BT: Tensor,
    plan: SignalPlan,
    *,
    rows: NDArray[np.int64] | None = None,
    valid_BT: Tensor | None = None,
    position_BT: Tensor | None = None,
    chunk_rows: int = SPARSE_ROWS,
) -> Signals:
    """The signals that `plan` names, from one forward pass of the teacher over tokens [B, T].

    `rows` are the batch's row numbers, from which sampled positions are drawn. `valid_BT` [B, T] is
    false at padding, which stands right of the text and is never pooled over. With `position_BT`
    [B, T], the places of tokens in their documents, each token sees its own document alone. Logits
    exist for `chunk_rows` positions at a time. The caller chooses autocast and device.
    """
    with (
        captured_blocks(teacher, plan.blocks) as blocks,
        captured_projections(teacher, plan.attention_block) as attention,
    ):
        final_BTD = final_states(teacher, input_BT, position_BT)
    final_ND = final_BTD.flatten(0, 1)
    sparse, sampled = _of_logits(teacher, final_ND, plan, rows, chunk_rows=chunk_rows)
    if plan.block_positions:
        assert rows is not None
        index_BM = sampled_index(rows, input_BT, count=plan.block_positions)
        blocks = {block: at_positions(state, index_BM) for block, state in blocks.items()}
    tokens_BMD = None
    if plan.token_positions:
        assert rows is not None
        index_BM = sampled_index(rows, input_BT, count=plan.token_positions)
        tokens_BMD = at_positions(final_BTD, index_BM)
    if valid_BT is None:
        valid_BT = torch.ones_like(input_BT, dtype=torch.bool)
    return Signals(
        sparse=sparse,
        sampled=sampled,
        final_ND=final_ND if plan.final_hidden else None,
        blocks=dict(blocks) if plan.blocks else None,
        pooled_BD=mean_pool(final_BTD, valid_BT) if plan.pooled else None,
        tokens_BMD=tokens_BMD,
        attention=dict(attention) or None,
    )


def _of_logits(
    teacher: nn.Module,
    final_ND: Tensor,
    plan: SignalPlan,
    rows: NDArray[np.int64] | None,
    *,
    chunk_rows: int,
) -> tuple[SparseLogits | None, SampledLogits | None]:
    """The signals that are taken of logits, which exist for `chunk_rows` positions at a time."""
    if not plan.top_k and not plan.samples:
        return None, None
    weight_VD, bias_V = head_weight(teacher)[: plan.vocabulary], head_bias(teacher)
    uniform_NS = None
    if plan.samples:
        assert rows is not None
        length = len(final_ND) // len(rows)
        drawn = uniforms(rows, sequence_length=length, num_samples=plan.samples)
        uniform_NS = send(torch.from_numpy(drawn), final_ND.device).flatten(0, 1)
    sparse, sampled = [], []
    for start in range(0, len(final_ND), chunk_rows):
        part = slice(start, start + chunk_rows)
        chunk_nD = final_ND[part]
        logits_nV = chunk_nD @ weight_VD.T.to(chunk_nD.dtype)
        if bias_V is not None:
            logits_nV = logits_nV + bias_V[: plan.vocabulary]
        if plan.top_k:
            sparse.append(sparse_logits(logits_nV, k=plan.top_k, temperatures=plan.temperatures))
        if uniform_NS is not None:
            sampled.append(
                sampled_logits(logits_nV, uniform_NS[part], temperature=plan.sample_temperature)
            )
    return _joined(SparseLogits, sparse), _joined(SampledLogits, sampled)


def _joined(kind: type[Any], parts: list[Any]) -> Any:
    """Signals of consecutive positions as one; None of none."""
    if not parts:
        return None
    values = {f.name: [getattr(part, f.name) for part in parts] for f in fields(kind)}
    return kind(
        **{name: torch.cat(v) if isinstance(v[0], Tensor) else v[0] for name, v in values.items()}
    )
