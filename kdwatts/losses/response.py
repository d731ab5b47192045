"""Divergences between the next-token distributions of teacher and student, in nats per position.

In all formulas p is the teacher, q the student and T the temperature. Both distributions are
softmax(logits / T). Each value is multiplied by T squared. This keeps the gradients the same size
at every temperature (Hinton et al. 2015, arXiv 1503.02531, section 2).

Each divergence is here twice. The `plain_` function is the definition: logits in, one value per row
out. The function without that prefix is the closed form, which is what runs. It takes a block of
logits in any float dtype, computes in float32 (float64 stays float64), and forms its own gradient:
for a sum of f(p, q) over the vocabulary, the gradient of the student's logits over T is h - q
sum(h) with h = q df/dq. Autograd differentiates a divergence that has a definition alone
(`kdwatts.losses.plain`).
"""

# N positions, n those of one block, V shared vocabulary.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.logit_rows import Block, RowTerm, Softmax, row_loss
from kdwatts.losses.plain import named_options, plain
from kdwatts.losses.rounding import tied
from kdwatts.runtime import plugins


def plain_forward_kl(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
    """KL(p || q) of logits [n, V] in nats, [n] (Hinton et al. 2015, section 2)."""
    return _kl(teacher_nV.log_softmax(-1), student_nV.log_softmax(-1))


def forward_kl(block: Block, weight: float, *, temperature: float) -> Tensor:
    """T^2 KL(p || q) in nats, [n] (Hinton et al. 2015, section 2). Its gradient is T (q - p)."""
    q, p = _pair("forward_kl", block, temperature)
    if block.needs_grad:
        factor = weight * temperature
        block.add_gradient(q.exp_nV, factor * q.scale_n1)
        block.add_gradient(p.exp_nV, -factor * p.scale_n1)
    gap_nV = p.shifted_nV.sub_(q.shifted_nV).mul_(p.exp_nV)
    kl_n = gap_nV.sum(-1).double() / p.total_n1[:, 0] + q.log_total_n - p.log_total_n
    return temperature**2 * kl_n


def plain_reverse_kl(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
    """KL(q || p) of logits [n, V] in nats, [n] (MiniLLM, arXiv 2306.08543, section 2)."""
    return _kl(student_nV.log_softmax(-1), teacher_nV.log_softmax(-1))


def reverse_kl(block: Block, weight: float, *, temperature: float) -> Tensor:
    """T^2 KL(q || p) in nats, [n] (MiniLLM, arXiv 2306.08543, section 2)."""
    q, p = _pair("reverse_kl", block, temperature)
    q_nV, ratio_nV = q.probabilities(), _log_ratio(q, p)
    kl_n1 = (q_nV * ratio_nV).sum(-1, keepdim=True)
    if block.needs_grad:
        block.add_gradient(ratio_nV.sub_(kl_n1).mul_(q_nV), weight * temperature)
    return temperature**2 * kl_n1[:, 0].double()


def plain_jsd(student_nV: Tensor, teacher_nV: Tensor, *, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence of logits [n, V] in nats, [n].

    It is beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (GKD, arXiv
    2306.13649, equation 1).
    """
    log_q_nV, log_p_nV = student_nV.log_softmax(-1), teacher_nV.log_softmax(-1)
    log_m_nV = _log_mixture(log_p_nV, log_q_nV, beta)
    return beta * _kl(log_p_nV, log_m_nV) + (1 - beta) * _kl(log_q_nV, log_m_nV)


def jsd(block: Block, weight: float, *, temperature: float, beta: float) -> Tensor:
    """T^2 times the generalised Jensen-Shannon divergence in nats, [n].

    It is beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (GKD, arXiv
    2306.13649, equation 1).
    """
    q, p = _pair("jsd", block, temperature)
    q_nV, p_nV, ratio_nV = q.probabilities(), p.probabilities(), _log_ratio(q, p)
    over_m_nV = _log_of_share(ratio_nV, 1 - beta)
    own_n1 = (q_nV * over_m_nV).sum(-1, keepdim=True)
    # Not log(q / m) - log(q / p): the difference of two large numbers loses its digits.
    teacher_n = _log_of_share(ratio_nV.neg_(), beta).mul_(p_nV).sum(-1)
    if block.needs_grad:
        factor = weight * temperature * (1 - beta)
        block.add_gradient(over_m_nV.sub_(own_n1).mul_(q_nV), factor)
    return temperature**2 * (beta * teacher_n.double() + (1 - beta) * own_n1[:, 0].double())


def plain_skew_kl(student_nV: Tensor, teacher_nV: Tensor, *, skew: float) -> Tensor:
    """KL(p || skew p + (1 - skew) q) of logits [n, V] in nats, [n] (DistiLLM, section 3.1)."""
    log_q_nV, log_p_nV = student_nV.log_softmax(-1), teacher_nV.log_softmax(-1)
    return _kl(log_p_nV, _log_mixture(log_p_nV, log_q_nV, skew))


def skew_kl(block: Block, weight: float, *, temperature: float, skew: float) -> Tensor:
    """T^2 KL(p || skew p + (1 - skew) q) in nats, [n] (DistiLLM, arXiv 2402.03898, section 3.1).

    The mixture is above 0 wherever p is. So no gradient exceeds T (1 - skew) / skew.
    """
    q, p = _pair("skew_kl", block, temperature)
    q_nV, p_nV = q.probabilities(), p.probabilities()
    over_m_nV = _log_of_share(_log_ratio(q, p).neg_(), skew)
    loss_n = (p_nV * over_m_nV).sum(-1)
    if block.needs_grad:
        # q df/dq is -(1 - skew) q p / m.
        pull_nV = over_m_nV.exp_()
        mean_n1 = (pull_nV * q_nV).sum(-1, keepdim=True)
        factor = weight * temperature * (1 - skew)
        block.add_gradient(pull_nV.neg_().add_(mean_n1).mul_(q_nV), factor)
    return temperature**2 * loss_n.double()


def plain_skew_reverse_kl(student_nV: Tensor, teacher_nV: Tensor, *, skew: float) -> Tensor:
    """KL(q || skew q + (1 - skew) p) of logits [n, V] in nats, [n] (DistiLLM, section 3.1)."""
    log_q_nV, log_p_nV = student_nV.log_softmax(-1), teacher_nV.log_softmax(-1)
    return _kl(log_q_nV, _log_mixture(log_q_nV, log_p_nV, skew))


def skew_reverse_kl(block: Block, weight: float, *, temperature: float, skew: float) -> Tensor:
    """T^2 KL(q || skew q + (1 - skew) p) in nats, [n] (DistiLLM, arXiv 2402.03898, section 3.1)."""
    q, p = _pair("skew_reverse_kl", block, temperature)
    q_nV = q.probabilities()
    over_m_nV = _log_of_share(_log_ratio(q, p), skew)
    loss_n = (q_nV * over_m_nV).sum(-1)
    if block.needs_grad:
        # df/dq is log(q / m) + 1 - skew q / m.
        slope_nV = over_m_nV.exp().mul_(-skew).add_(over_m_nV).add_(1)
        mean_n1 = (slope_nV * q_nV).sum(-1, keepdim=True)
        block.add_gradient(slope_nV.sub_(mean_n1).mul_(q_nV), weight * temperature)
    return temperature**2 * loss_n.double()


def plain_total_variation(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
    """Total variation distance, 1/2 sum |q - p|, of logits [n, V]: [n], no unit (f-DISTILL).

    f-DISTILL, arXiv 2307.15190.
    """
    return (student_nV.softmax(-1) - teacher_nV.softmax(-1)).abs().sum(-1) / 2


def total_variation(block: Block, weight: float, *, temperature: float) -> Tensor:
    """T^2 / 2 sum |q - p|, [n], between 0 and T^2, no unit (f-DISTILL, arXiv 2307.15190).

    The slope jumps where q = p, and is 0 there. Within rounding it would otherwise be noise.
    """
    q, p = _pair("total_variation", block, temperature)
    q_nV = q.probabilities()
    gap_nV = q_nV.addcmul(p.exp_nV, p.scale_n1, value=-1)
    distance_nV = gap_nV.abs()
    loss_n = distance_nV.sum(-1) / 2
    if block.needs_grad:
        sign_nV = gap_nV.sign_().masked_fill_(tied(distance_nV, q_nV), 0.0)
        mean_n1 = (sign_nV * q_nV).sum(-1, keepdim=True)
        block.add_gradient(sign_nV.sub_(mean_n1).mul_(q_nV), weight * temperature / 2)
    return temperature**2 * loss_n.double()


DEFINITIONS: dict[str, Callable[..., Tensor]] = {
    "forward_kl": plain_forward_kl,
    "reverse_kl": plain_reverse_kl,
    "jsd": plain_jsd,
    "skew_kl": plain_skew_kl,
    "skew_reverse_kl": plain_skew_reverse_kl,
    "total_variation": plain_total_variation,
}
CLOSED_FORMS: dict[str, Callable[..., Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_kl": skew_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
}
"""Faster than autograd, with less memory, and equal to it: the tests compare them."""
DIVERGENCES = {name: plain(function) for name, function in DEFINITIONS.items()} | CLOSED_FORMS

REVISIONS = {"total_variation": 2, "universal": 2}
"""Divergences whose numbers have changed since they first shipped. This is part of a student's key.

2: no slope where probabilities are equal within rounding.
"""


def divergence_of(name: str) -> Callable[..., Tensor]:
    """The divergence with this name, ours or an installed package's: of a block to nats [n]."""
    return DIVERGENCES.get(name) or plain(plugins.load(plugins.DIVERGENCES, name))


@dataclass(frozen=True, eq=False)
class DenseTerm:
    """A divergence with its options: a term, and what the fused kernels read of it."""

    divergence: str
    function: Callable[..., Tensor]
    temperature: float
    options: Mapping[str, float]

    def __call__(self, block: Block, weight: float) -> Tensor:
        return self.function(block, weight, temperature=self.temperature, **self.options)

    @property
    def is_ours(self) -> bool:
        """Whether the function is this file's closed form of that name."""
        return self.function is CLOSED_FORMS.get(self.divergence)


def dense_term(
    divergence: str, *, temperature: float = 1.0, beta: float = 0.5, skew: float = 0.1
) -> RowTerm:
    """The divergence with this name as a term of `head_loss`, which forms the teacher's logits."""
    function = divergence_of(divergence)
    given = {"beta": beta, "skew": skew}
    options = {name: given[name] for name in named_options(function) if name in given}
    return DenseTerm(divergence, function, temperature, options)


def divergence_loss(
    divergence: str,
    student_NV: Tensor,
    teacher_NV: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 0.5,
    skew: float = 0.1,
) -> Tensor:
    """The divergence with this name between logits [N, V] and [N, V], per position [N], in nats.

    You can differentiate it with respect to the student's logits. `total_variation` has no unit. An
    option that the divergence does not have is ignored.

    Raises ValueError when the shapes differ: cut both to `models.align.shared_vocabulary` first.
    """
    term = dense_term(divergence, temperature=temperature, beta=beta, skew=skew)
    return row_loss(term, student_NV, teacher_NV)


def _kl(log_a_nV: Tensor, log_b_nV: Tensor) -> Tensor:
    """KL(a || b), [n]."""
    return (log_a_nV.exp() * (log_a_nV - log_b_nV)).sum(-1)


def _log_mixture(log_a_nV: Tensor, log_b_nV: Tensor, share: float) -> Tensor:
    """log(share a + (1 - share) b)."""
    return torch.logaddexp(log_a_nV + math.log(share), log_b_nV + math.log1p(-share))


def _pair(name: str, block: Block, temperature: float) -> tuple[Softmax, Softmax]:
    """Student's and teacher's softmax; the teacher's may be overwritten."""
    q, p = block.student(temperature), block.teacher(temperature)
    if q.exp_nV.shape != p.exp_nV.shape:
        raise ValueError(
            f"{name}: student logits are {tuple(q.exp_nV.shape)}, but teacher logits are "
            f"{tuple(p.exp_nV.shape)}; cut both to models.align.shared_vocabulary first"
        )
    return q, p


def _log_ratio(q: Softmax, p: Softmax) -> Tensor:
    """log(q / p), in the memory of the teacher's logits."""
    constant_n = p.log_total_n - q.log_total_n
    gap_nV = p.shifted_nV.sub_(q.shifted_nV).neg_()
    return gap_nV.add_(constant_n[:, None].to(gap_nV.dtype))


def _log_of_share(log_ratio_nV: Tensor, share: float) -> Tensor:
    """log(a / m) of m = share a + (1 - share) b, from log(a / b): at most -log(share).

    log m / a = log(share) + log(1 + exp(log(1 / share - 1) - log a / b)): no probability can
    underflow in it. torch turns linear at the threshold, which float64 must not notice.
    """
    odds = math.log1p(-share) - math.log(share)
    return F.softplus(odds - log_ratio_nV, threshold=40).add_(math.log(share)).neg_()
