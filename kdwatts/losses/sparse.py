"""Losses of a teacher that names a few tokens: its top ones, samples of it, or the text's own."""

# N positions, n those of one block, V vocabulary, K tokens named.

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kdwatts.losses.logit_rows import Block, RowTerm, row_loss
from kdwatts.losses.rounding import wide


@dataclass(frozen=True)
class TopK:
    """A teacher's K likeliest tokens, exact at one temperature."""

    ids_NK: Tensor
    log_p_NK: Tensor
    """log p at the temperature asked for, over the whole vocabulary."""
    log_tail_N: Tensor
    """log of the probability outside the support, at the same temperature."""

    def rows(self, rows: slice) -> TopK:
        """The positions of one block."""
        return TopK(*(getattr(self, field.name)[rows] for field in fields(self)))


def top_k_of(teacher_NV: Tensor, *, k: int, temperature: float = 1.0) -> TopK:
    """The K likeliest tokens of dense teacher logits, and the mass of the rest.

    Raises ValueError when K leaves no tail: then the dense loss is the one to use.
    """
    if k >= teacher_NV.shape[-1]:
        raise ValueError(
            f"top_k_of: k={k} is not below the vocabulary of {teacher_NV.shape[-1]}; "
            "use support=dense"
        )
    log_p_NV = (wide(teacher_NV) / temperature).log_softmax(-1)
    log_p_NK, ids_NK = log_p_NV.topk(k, dim=-1)
    log_tail_N = log_p_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1)
    return TopK(ids_NK, log_p_NK, log_tail_N)


def top_k_term(teacher: TopK, *, temperature: float) -> RowTerm:
    """T^2 KL over K + 1 bins, the last of which holds all that is off the support, in nats, [n].

    The ghost token makes mass outside the support cost what it should: the result is the exact KL
    of the K + 1 bins and a lower bound of the full one (log-sum inequality). Without it the
    minimiser is the teacher renormalised on its support, an over-confident head. With P and Q the
    tails' masses, the gradient is T (q - p) on the support and T (q - q P / Q) off it.

    A student's tail is summed itself, as 1 - sum(q) would cancel when it is small. Below the least
    normal number relative to the likeliest token it counts as that number.
    """

    def term(block: Block, weight: float) -> Tensor:
        bins = teacher.rows(block.rows)
        q, ids_nK = block.student(temperature), bins.ids_NK
        log_p_nB = torch.cat([bins.log_p_NK, bins.log_tail_N[:, None]], dim=-1).double()
        # Rounding in a cache leaves the bins' sum at 1 +- 1e-4; they are made a distribution again.
        log_p_nB = log_p_nB.log_softmax(-1)
        p_nB = log_p_nB.exp()
        log_q_nK, kept_nK = q.log_at(ids_nK), q.exp_nV.gather(-1, ids_nK)
        q.exp_nV.scatter_(-1, ids_nK, 0.0)
        least = torch.finfo(q.exp_nV.dtype).tiny
        rest_n1 = q.exp_nV.sum(-1, keepdim=True).double().clamp(min=least)
        log_q_nB = torch.cat([log_q_nK, rest_n1.log() - q.log_total_n[:, None]], dim=-1)
        if block.needs_grad:
            factor = weight * temperature
            off_n1 = factor * (q.total_n1.reciprocal() - p_nB[:, -1:] / rest_n1)
            block.add_gradient(q.exp_nV, off_n1.to(q.exp_nV.dtype))
            block.add_gradient_at(ids_nK, factor * (log_q_nK.exp() - p_nB[:, :-1]))
        q.exp_nV.scatter_(-1, ids_nK, kept_nK)
        kl_nB = torch.where(p_nB > 0, p_nB * (log_p_nB - log_q_nB), 0.0)
        return temperature**2 * kl_nB.sum(-1)

    return term


def sampled_term(ids_NK: Tensor, share_NK: Tensor, *, temperature: float) -> RowTerm:
    """T^2 sum f (log f - log q) of the shares f that sampled tokens have, in nats, [n].

    Tokens are drawn from the teacher at this temperature, f = count / draws; padding has f = 0.
    The gradient T (q - f) is that of the full KL on average, since the mean of f is p (Sparse Logit
    Sampling, arXiv 2503.16870, section 3); the value is not: it exceeds the full KL on average by
    T^2 times the entropy that f lacks of p's.
    """

    def term(block: Block, weight: float) -> Tensor:
        ids_nK, share_nK = ids_NK[block.rows], share_NK[block.rows].double()
        q = block.student(temperature)
        if block.needs_grad:
            factor = weight * temperature
            drawn_n1 = share_nK.sum(-1, keepdim=True).to(q.exp_nV.dtype)
            block.add_gradient(q.exp_nV, factor * drawn_n1 * q.scale_n1)
            block.add_gradient_at(ids_nK, -factor * share_nK)
        loss_nK = torch.xlogy(share_nK, share_nK) - share_nK * q.log_at(ids_nK)
        return temperature**2 * loss_nK.sum(-1)

    return term


def cross_entropy_term(target_N: Tensor) -> RowTerm:
    """-log q of the target token in nats, [n], at temperature 1."""
    ids_N1 = target_N[:, None]
    return sampled_term(ids_N1, torch.ones_like(ids_N1), temperature=1.0)


def top_k_forward_kl(student_NV: Tensor, teacher: TopK, *, temperature: float = 1.0) -> Tensor:
    """`top_k_term` of logits, [N], differentiable."""
    return row_loss(top_k_term(teacher, temperature=temperature), student_NV)


def sampled_forward_kl(
    student_NV: Tensor, ids_NK: Tensor, share_NK: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """`sampled_term` of logits, [N], differentiable."""
    return row_loss(sampled_term(ids_NK, share_NK, temperature=temperature), student_NV)


def cross_entropy(student_NV: Tensor, target_N: Tensor) -> Tensor:
    """`cross_entropy_term` of logits, [N], differentiable."""
    return row_loss(cross_entropy_term(target_N), student_NV)
