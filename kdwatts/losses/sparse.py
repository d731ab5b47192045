"""Losses of a teacher that names a few tokens: its likeliest, samples of it, or the text's own."""

# N positions, n those of one block, V vocabulary, K tokens named.

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kdwatts.losses.logit_rows import Block, RowTerm, row_loss
from kdwatts.losses.rounding import wide


@dataclass(frozen=True)
class TopK:
    """The K likeliest tokens of a teacher at N positions, exact at one temperature."""

    ids_NK: Tensor
    log_p_NK: Tensor
    """log p in nats at this temperature, over the whole vocabulary."""
    log_tail_N: Tensor
    """log of the probability of all other tokens in nats, at this temperature."""

    def rows(self, rows: slice) -> TopK:
        """The same for the positions of one block."""
        return TopK(*(getattr(self, field.name)[rows] for field in fields(self)))


def top_k_of(teacher_NV: Tensor, *, k: int, temperature: float = 1.0) -> TopK:
    """The K likeliest tokens of teacher logits [N, V], with the probability of all others.

    Raises ValueError when K is not below V: use the dense loss then.
    """
    if k >= teacher_NV.shape[-1]:
        raise ValueError(
            f"top_k_of: k={k} is not smaller than the vocabulary of {teacher_NV.shape[-1]}; use "
            "support=dense"
        )
    log_p_NV = (wide(teacher_NV) / temperature).log_softmax(-1)
    log_p_NK, ids_NK = log_p_NV.topk(k, dim=-1)
    log_tail_N = log_p_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1)
    return TopK(ids_NK, log_p_NK, log_tail_N)


@dataclass(frozen=True, eq=False)
class TopKTerm:
    """A term: T^2 KL(teacher || student) over K + 1 bins, in nats, [n] (see `top_k_term`)."""

    teacher: TopK
    temperature: float

    def __call__(self, block: Block, weight: float) -> Tensor:
        temperature = self.temperature
        bins = self.teacher.rows(block.rows)
        q, ids_nK = block.student(temperature), bins.ids_NK
        log_p_nB = torch.cat([bins.log_p_NK, bins.log_tail_N[:, None]], dim=-1).double()
        # Rounding in a cache leaves the bins' sum at 1 +- 1e-4: divide by it again.
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


def top_k_term(teacher: TopK, *, temperature: float) -> RowTerm:
    """A term: T^2 KL(teacher || student) over K + 1 bins, in nats, [n].

    The last bin holds all tokens outside the K named ones. It makes probability outside of them
    cost what it should. The result is the exact KL of the K + 1 bins, and a lower bound of the full
    KL (log-sum inequality). Without the last bin, the best student would be the teacher
    renormalised on its K tokens: an over-confident head. With P and Q the last bin's probabilities,
    the gradient is T (q - p) on the K tokens and T (q - q P / Q) elsewhere.

    The student's last bin is summed directly, since 1 - sum(q) loses its digits when it is small.
    Below the least normal number, relative to the likeliest token, it counts as that number.
    """
    return TopKTerm(teacher, temperature)


@dataclass(frozen=True, eq=False)
class SampledTerm:
    """A term: T^2 sum f (log f - log q) over sampled tokens, in nats, [n] (see `sampled_term`)."""

    ids_NK: Tensor
    share_NK: Tensor
    temperature: float

    def __call__(self, block: Block, weight: float) -> Tensor:
        ids_nK, share_nK = self.ids_NK[block.rows], self.share_NK[block.rows].double()
        temperature = self.temperature
        q = block.student(temperature)
        if block.needs_grad:
            factor = weight * temperature
            drawn_n1 = share_nK.sum(-1, keepdim=True).to(q.exp_nV.dtype)
            block.add_gradient(q.exp_nV, factor * drawn_n1 * q.scale_n1)
            block.add_gradient_at(ids_nK, -factor * share_nK)
        loss_nK = torch.xlogy(share_nK, share_nK) - share_nK * q.log_at(ids_nK)
        return temperature**2 * loss_nK.sum(-1)


def sampled_term(ids_NK: Tensor, share_NK: Tensor, *, temperature: float) -> RowTerm:
    """A term: T^2 sum f (log f - log q) over sampled tokens with shares f, in nats, [n].

    `ids_NK` [N, K] are tokens drawn from the teacher at this temperature. `share_NK` [N, K] is how
    often each was drawn over the number of draws; padding has 0. On average the gradient T (q - f)
    is that of the full KL, since the mean of f is p (Sparse Logit Sampling, arXiv 2503.16870,
    section 3). The value is not that of the full KL: on average it is larger, by T^2 times the
    entropy that f lacks of p's.
    """
    return SampledTerm(ids_NK, share_NK, temperature)


def cross_entropy_term(target_N: Tensor) -> RowTerm:
    """A term: -log q of the target tokens `target_N` [N], in nats, [n], at temperature 1."""
    ids_N1 = target_N[:, None]
    return sampled_term(ids_N1, torch.ones_like(ids_N1), temperature=1.0)


def top_k_forward_kl(student_NV: Tensor, teacher: TopK, *, temperature: float = 1.0) -> Tensor:
    """The loss of `top_k_term` for student logits [N, V]: one value per position [N], in nats."""
    return row_loss(top_k_term(teacher, temperature=temperature), student_NV)


def sampled_forward_kl(
    student_NV: Tensor, ids_NK: Tensor, share_NK: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """The loss of `sampled_term` for student logits [N, V]: one value per position [N], in nats."""
    return row_loss(sampled_term(ids_NK, share_NK, temperature=temperature), student_NV)


def cross_entropy(student_NV: Tensor, target_N: Tensor) -> Tensor:
    """Cross entropy of student logits [N, V] with targets [N], per position [N], in nats.

    You can differentiate it with respect to the student's logits.
    """
    return row_loss(cross_entropy_term(target_N), student_NV)
