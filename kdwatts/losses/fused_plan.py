"""The terms of a head as the fused kernel takes them, where it knows them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kdwatts.losses import fused_kinds as kinds
from kdwatts.losses.logit_rows import RowTerm
from kdwatts.losses.response import DenseTerm
from kdwatts.losses.sparse import SampledTerm, TopKTerm


@dataclass(frozen=True, eq=False)
class Plan:
    """The terms of a head as the kernel takes them."""

    kind: int
    temperature: float
    """Of the divergence, or of the only terms there are."""
    other_temperature: float | None
    """Of terms that name tokens, where it differs: cross entropy beside a divergence."""
    terms: Mapping[str, RowTerm]
    weights: Mapping[str, float]

    @property
    def is_dense(self) -> bool:
        """Whether the teacher's logits are needed."""
        return self.kind not in (kinds.NONE, kinds.TOP_K)


def plan_of(terms: Mapping[str, RowTerm], weights: Mapping[str, float]) -> Plan | None:
    """The terms for the kernel, or None where it does not know one of them or their sum.

    It knows at most one divergence from a dense or a top-k teacher, with any terms that sample, at
    no more than two temperatures in all.
    """
    kind, main, temperatures = kinds.NONE, None, []
    for term in terms.values():
        if isinstance(term, DenseTerm) and term.is_ours:
            if not all(0 < option < 1 for option in term.options.values()):
                return None
            found = kinds.KINDS[term.divergence]
        elif isinstance(term, TopKTerm):
            found = kinds.TOP_K
        elif isinstance(term, SampledTerm):
            found = kinds.NONE
        else:
            return None
        if found != kinds.NONE:
            if kind != kinds.NONE:
                return None
            kind, main = found, term.temperature
        temperatures.append(term.temperature)
    if not temperatures:
        return None
    temperature = temperatures[0] if main is None else main
    others = {other for other in temperatures if other != temperature}
    if len(others) > 1:
        return None
    return Plan(kind, temperature, others.pop() if others else None, terms, weights)


def num_named(plan: Plan) -> tuple[int, ...]:
    """How many tokens each term names in a row."""
    numbers = []
    for term in plan.terms.values():
        if isinstance(term, TopKTerm):
            numbers.append(term.teacher.ids_NK.shape[1])
        else:
            numbers.append(term.ids_NK.shape[1] if isinstance(term, SampledTerm) else 0)
    return tuple(numbers)


def options_of(plan: Plan) -> tuple[float, float, float]:
    """The gradient's factor, and for mixtures m = share a + (1 - share) b two logarithms.

    They are log((1 - share) / share) and log(share).
    """
    for name, term in plan.terms.items():
        if isinstance(term, TopKTerm):
            return plan.weights[name] * term.temperature, 0.0, 0.0
        if isinstance(term, DenseTerm):
            factor = plan.weights[name] * term.temperature
            if plan.kind == kinds.JSD:
                beta = term.options["beta"]
                log_share = math.log1p(-beta)
                return factor * (1 - beta), math.log(beta) - log_share, log_share
            if plan.kind in (kinds.SKEW_KL, kinds.SKEW_REVERSE_KL):
                skew = term.options["skew"]
                log_share = math.log(skew)
                scale = 1 - skew if plan.kind == kinds.SKEW_KL else 1.0
                return factor * scale, math.log1p(-skew) - log_share, log_share
            return factor / (2 if plan.kind == kinds.TOTAL_VARIATION else 1), 0.0, 0.0
    return 0.0, 0.0, 0.0
