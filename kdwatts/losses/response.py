"""Divergences between what teacher and student say next, one value per position, in nats.

Every function takes logits in any float dtype, works in float32 (float64 stays float64) and
multiplies by the temperature squared, which keeps gradients the same size at every temperature
(Hinton et al. 2015, arXiv 1503.02531, section 2).
"""

# N positions kept by the loss mask, V shared vocabulary, K support of a sparse teacher.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdwatts.losses.precision import wide


def _log_softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    return (wide(logits_NV) / temperature).log_softmax(-1)


def _check_shapes(name: str, student_NV: Tensor, teacher_NV: Tensor) -> None:
    if student_NV.shape != teacher_NV.shape:
        raise ValueError(
            f"{name}: student logits are {tuple(student_NV.shape)}, teacher logits are "
            f"{tuple(teacher_NV.shape)}; cut both to models.align.shared_vocabulary first"
        )


def _kl(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """KL(p || q) per position; a probability of zero in p adds nothing."""
    p_NV = log_p_NV.exp()
    return torch.where(p_NV > 0, p_NV * (log_p_NV - log_q_NV), 0.0).sum(-1)


def forward_kl(student_NV: Tensor, teacher_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) in nats, [N] (Hinton et al. 2015, section 2).

    Raises ValueError when the shapes differ: align the vocabularies first.
    """
    _check_shapes("forward_kl", student_NV, teacher_NV)
    log_q_NV = _log_softmax(student_NV, temperature)
    return temperature**2 * _kl(_log_softmax(teacher_NV, temperature), log_q_NV)


def reverse_kl(student_NV: Tensor, teacher_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(student || teacher) in nats, [N] (MiniLLM, arXiv 2306.08543, section 2).

    Raises ValueError when the shapes differ: align the vocabularies first.
    """
    _check_shapes("reverse_kl", student_NV, teacher_NV)
    log_q_NV = _log_softmax(student_NV, temperature)
    return temperature**2 * _kl(log_q_NV, _log_softmax(teacher_NV, temperature))


def jsd(
    student_NV: Tensor, teacher_NV: Tensor, *, temperature: float = 1.0, beta: float = 0.5
) -> Tensor:
    """T^2 times beta KL(p || m) + (1 - beta) KL(q || m) in nats, [N], m = beta p + (1 - beta) q.

    p is the teacher, q the student (GKD, arXiv 2306.13649, equation 1).
    Raises ValueError when the shapes differ: align the vocabularies first.
    """
    _check_shapes("jsd", student_NV, teacher_NV)
    log_q_NV = _log_softmax(student_NV, temperature)
    log_p_NV = _log_softmax(teacher_NV, temperature)
    log_m_NV = torch.logaddexp(log_p_NV + math.log(beta), log_q_NV + math.log1p(-beta))
    mixture_N = beta * _kl(log_p_NV, log_m_NV) + (1 - beta) * _kl(log_q_NV, log_m_NV)
    return temperature**2 * mixture_N


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}


@dataclass(frozen=True)
class TopK:
    """A teacher's K likeliest tokens, exact at one temperature."""

    ids_NK: Tensor
    log_p_NK: Tensor
    """log p at the temperature asked for, over the whole vocabulary."""
    log_tail_N: Tensor
    """log of the probability outside the support, at the same temperature."""

    def rows(self, rows: slice) -> TopK:
        """The positions of one chunk."""
        return TopK(self.ids_NK[rows], self.log_p_NK[rows], self.log_tail_N[rows])


def top_k_of(teacher_NV: Tensor, *, k: int, temperature: float = 1.0) -> TopK:
    """The K likeliest tokens of dense teacher logits, and the mass of the rest.

    Raises ValueError when K leaves no tail: then the dense loss is the one to use.
    """
    if k >= teacher_NV.shape[-1]:
        raise ValueError(
            f"top_k_of: k={k} is not below the vocabulary of {teacher_NV.shape[-1]}; "
            "use support=dense"
        )
    log_p_NV = _log_softmax(teacher_NV, temperature)
    log_p_NK, ids_NK = log_p_NV.topk(k, dim=-1)
    log_tail_N = log_p_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1)
    return TopK(ids_NK, log_p_NK, log_tail_N)


def top_k_forward_kl(student_NV: Tensor, teacher: TopK, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL over K + 1 bins, the last of which holds all that is off the support, in nats, [N].

    The ghost token makes mass outside the support cost what it should: the result is the exact KL
    of the K + 1 bins and a lower bound of the full one (log-sum inequality). Without it the
    minimiser is the teacher renormalised on its support, an over-confident head.
    """
    log_q_NV = _log_softmax(student_NV, temperature)
    log_q_NK = log_q_NV.gather(-1, teacher.ids_NK)
    # Summed over the tail itself: 1 - sum(q) would cancel when the tail is small.
    log_rest_N = log_q_NV.scatter(-1, teacher.ids_NK, -torch.inf).logsumexp(-1)
    log_q_bins = torch.cat([log_q_NK, log_rest_N[:, None]], dim=-1)
    log_p_bins = torch.cat([teacher.log_p_NK, teacher.log_tail_N[:, None]], dim=-1)
    # Rounding in a cache leaves the bins' sum at 1 +- 1e-4; they are made a distribution again.
    return temperature**2 * _kl(log_p_bins.to(log_q_bins.dtype).log_softmax(-1), log_q_bins)


def cross_entropy(student_NV: Tensor, target_N: Tensor) -> Tensor:
    """-log q of the target token in nats, [N], at temperature 1."""
    return -_log_softmax(student_NV, 1.0).gather(-1, target_N[:, None])[:, 0]
