"""The signals that a paradigm's terms need of the teacher, computed live from its forward pass."""

# B sequences, T positions, N = B T positions, K top tokens, M temperatures, S layers,
# D teacher width, V shared vocabulary.

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from kdwatts.losses.precision import wide
from kdwatts.losses.relational import mean_pool
from kdwatts.losses.response import TopK
from kdwatts.models.layers import LayerPairs, captured_blocks
from kdwatts.models.load import head_weight
from kdwatts.schema import Paradigm


@dataclass(frozen=True)
class SignalPlan:
    """Which signals to take; equal plans make equal caches."""

    top_k: int = 0
    """Tokens kept per position; 0 keeps none."""
    temperatures: tuple[float, ...] = ()
    """Temperatures at which the top-k signal must be exact."""
    vocabulary: int = 0
    """Rows of the head that both models share."""
    final_hidden: bool = False
    """The state after the final norm, from which the head gives dense logits."""
    blocks: tuple[int, ...] = ()
    """Teacher blocks whose outputs are taken."""
    pooled: bool = False
    """Mean over positions of the state after the final norm."""


def signal_plan(paradigm: Paradigm, pairs: LayerPairs, vocabulary: int) -> SignalPlan:
    """The union of what the terms of `paradigm` need."""
    response = paradigm.response
    sparse = response is not None and response.support == "top_k"
    temperatures = {response.temperature, *response.teacher_temperatures} if response else set()
    return SignalPlan(
        top_k=response.k if response and sparse else 0,
        temperatures=tuple(sorted(temperatures)) if sparse else (),
        vocabulary=vocabulary if response else 0,
        final_hidden=response is not None and not sparse,
        blocks=tuple(sorted({teacher for _, teacher in pairs})) if paradigm.feature else (),
        pooled=paradigm.relational is not None,
    )


@dataclass(frozen=True)
class SparseLogits:
    """Top-k log-probabilities at temperature 1 with what makes them exact at others.

    log p_T(i) = l_i / T - c_T, where l is the log-probability at T = 1 and c_T is
    log sum exp(l / T) over the whole vocabulary.
    """

    ids_NK: Tensor
    log_p_NK: Tensor
    offset_NM: Tensor
    """c_T for each temperature of the plan."""
    log_tail_NM: Tensor
    """log of the mass off the support at each temperature."""

    def at(self, temperature: float, temperatures: tuple[float, ...]) -> TopK:
        """The support's log-probabilities at one of the plan's temperatures."""
        place = temperatures.index(temperature)
        log_p_NK = wide(self.log_p_NK) / temperature - wide(self.offset_NM[:, place, None])
        return TopK(self.ids_NK.long(), log_p_NK, wide(self.log_tail_NM[:, place]))

    def rows(self, keep_N: Tensor) -> SparseLogits:
        """The positions where `keep_N` is true."""
        return SparseLogits(*(getattr(self, f.name)[keep_N] for f in fields(self)))


@dataclass(frozen=True)
class Signals:
    """What the teacher says about one batch; None for what the plan leaves out."""

    sparse: SparseLogits | None = None
    final_ND: Tensor | None = None
    blocks: dict[int, Tensor] | None = None
    """Teacher block to its output [B, T, D]."""
    pooled_BD: Tensor | None = None


def sparse_logits(logits_NV: Tensor, *, k: int, temperatures: tuple[float, ...]) -> SparseLogits:
    """The K likeliest tokens of each row, exact at every one of `temperatures`."""
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


@torch.no_grad()
def compute_signals(
    teacher: nn.Module, input_BT: Tensor, plan: SignalPlan, *, chunk_rows: int = 1024
) -> Signals:
    """Run the teacher once over a batch and take what `plan` names.

    Logits exist for `chunk_rows` positions at a time. The caller chooses autocast and device.
    """
    body = teacher.get_submodule("model")
    with captured_blocks(teacher, plan.blocks) as blocks:
        final_BTD = body(input_ids=input_BT, use_cache=False).last_hidden_state
    final_ND = final_BTD.flatten(0, 1)
    sparse = None
    if plan.top_k:
        weight_VD = head_weight(teacher)[: plan.vocabulary]
        parts = [
            sparse_logits(
                chunk @ weight_VD.T.to(chunk.dtype), k=plan.top_k, temperatures=plan.temperatures
            )
            for chunk in final_ND.split(chunk_rows)
        ]
        sparse = SparseLogits(
            *(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(SparseLogits))
        )
    every_position = torch.ones(input_BT.shape, dtype=torch.bool, device=input_BT.device)
    return Signals(
        sparse=sparse,
        final_ND=final_ND if plan.final_hidden else None,
        blocks=dict(blocks) if plan.blocks else None,
        pooled_BD=mean_pool(final_BTD, every_position) if plan.pooled else None,
    )
