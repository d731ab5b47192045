"""Every term that a paradigm can have, as a case: what it compares, and from which numbers.

Divergences and distances are those of the dictionaries of `losses` and of installed packages. A new
one is examined without a change here.
"""

# N positions, D and E widths, V and W vocabularies, K tokens named, B sequences, T positions of
# one, R groups of G embeddings.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from kdwatts.doctor.numbers.terms_in_float64 import Case, Loss
from kdwatts.losses.attention import attention_loss
from kdwatts.losses.feature import DISTANCES, distance_of
from kdwatts.losses.head import DenseTeacher, head_loss
from kdwatts.losses.logit_rows import RowTerm
from kdwatts.losses.plain import named_options
from kdwatts.losses.relational import angle_loss, distance_loss, group_loss, mean_pool
from kdwatts.losses.response import DEFINITIONS, DIVERGENCES, dense_term
from kdwatts.losses.sparse import TopK, cross_entropy_term, sampled_term, top_k_of, top_k_term
from kdwatts.losses.universal import universal_term
from kdwatts.runtime import plugins

TEMPERATURE, BETA, SKEW = 2.0, 0.5, 0.1
TOP, SAMPLES = 64, 50
LONG = 4096
"""Width of Llama 3.1 8B. On these numbers a sum that is rounded to bfloat16 after each term is 7 %
off, after every 4 terms 4 %, and after every 64 terms 0.9 %, which passes."""
EDGE_OF_RANKS = (5.0, 15.0)
"""By rank, slopes turn where two probabilities are equal within rounding. Under autocast they were
4 to 22 % apart on a CPU, over draws of several sizes. `universal_apart` has none such."""
APART_LOGITS, APART_SPREAD = (4.0, 6.0), 0.2
"""Logits of a tenth of the student's tokens and of as many of the teacher's stand so far above the
others', which spread less. So the probabilities of one rank differ: slopes were 0.2 % apart."""
EDGE_OF_SIGNS = (5.0, 5.0)
"""The slope of a total variation turns where probabilities are equal within rounding."""


@dataclass(frozen=True)
class Sizes:
    """How large the logits are."""

    positions: int
    vocabulary: int
    other_vocabulary: int
    """Of a teacher that is compared by rank."""
    width: int = 64

    @property
    def chunk_rows(self) -> int:
        """Three chunks: what is added up over chunks is seen too."""
        return -(-self.positions // 3)


SMALL = Sizes(positions=48, vocabulary=2_000, other_vocabulary=1_500)
PRODUCT = Sizes(positions=12, vocabulary=128_256, other_vocabulary=151_936)
"""The vocabularies of Llama 3 and of Qwen 2.5."""


def drawn(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float32 on the CPU: the same ones everywhere."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def divergence_names() -> list[str]:
    """The divergences of the dictionary, and those of installed packages."""
    return [*DIVERGENCES, *plugins.names(plugins.DIVERGENCES)]


def divergence_case(name: str, sizes: Sizes) -> Case:
    """A divergence through the head. Its definition takes all logits at once."""

    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        term = dense_term(name, temperature=TEMPERATURE, beta=BETA, skew=SKEW)
        return _through_head(term, student, sizes, DenseTeacher(*teacher))

    def by_definition(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        student_NV, teacher_NV = (
            hidden @ weight.T / TEMPERATURE for hidden, weight in (student, teacher)
        )
        known = {"beta": BETA, "skew": SKEW}
        options = {o: known[o] for o in named_options(DEFINITIONS[name]) if o in known}
        value_N = DEFINITIONS[name](student_NV, teacher_NV, **options)
        return TEMPERATURE**2 * value_N.mean()

    return Case(
        name,
        _side(0, sizes.positions, sizes.vocabulary, sizes),
        _side(2, sizes.positions, sizes.vocabulary, sizes),
        loss,
        definition=by_definition if name in DEFINITIONS else None,
        is_of_logits=True,
        slope_slack=EDGE_OF_SIGNS if name == "total_variation" else (1.0, 1.0),
    )


def _side(
    seed: int, positions: int, vocabulary: int, sizes: Sizes, *, spread: float = 0.3
) -> list[Tensor]:
    """States [N, D] and a head [V, D]; logits spread by about 8 times `spread`."""
    head_VD = spread * drawn(seed + 1, vocabulary, sizes.width)
    return [drawn(seed, positions, sizes.width), head_VD]


def _through_head(
    term: RowTerm, student: Sequence[Tensor], sizes: Sizes, teacher: DenseTeacher | None = None
) -> Tensor:
    return head_loss(
        student[0],
        student[1],
        {"term": term},
        {"term": 1 / sizes.positions},
        teacher=teacher,
        chunk_rows=sizes.chunk_rows,
    )[0]


def _teacher_logits(sizes: Sizes) -> Tensor:
    hidden_ND, weight_VD = _side(4, sizes.positions, sizes.vocabulary, sizes)
    return hidden_ND @ weight_VD.T


TermOn = Callable[[torch.device], RowTerm]
"""A term whose own numbers lie on a device."""


def _cross_entropy(sizes: Sizes) -> TermOn:
    generator = torch.Generator().manual_seed(6)
    target_N = torch.randint(sizes.vocabulary, (sizes.positions,), generator=generator)
    return lambda device: cross_entropy_term(target_N.to(device))


def _top_k(sizes: Sizes) -> TermOn:
    top = top_k_of(_teacher_logits(sizes), k=TOP, temperature=TEMPERATURE)
    parts = (top.ids_NK, top.log_p_NK, top.log_tail_N)

    def term(device: torch.device) -> RowTerm:
        return top_k_term(TopK(*(part.to(device) for part in parts)), temperature=TEMPERATURE)

    return term


def _sampled(sizes: Sizes) -> TermOn:
    p_NV = (_teacher_logits(sizes) / TEMPERATURE).softmax(-1)
    generator = torch.Generator().manual_seed(7)
    ids_NK = p_NV.multinomial(SAMPLES, replacement=True, generator=generator)
    share_NK = torch.full(ids_NK.shape, 1 / SAMPLES)
    return lambda device: sampled_term(
        ids_NK.to(device), share_NK.to(device), temperature=TEMPERATURE
    )


def _universal(sizes: Sizes) -> TermOn:
    # It is read in the CPU's memory.
    compared_N = torch.arange(sizes.positions) % 3 > 0
    return lambda device: universal_term(temperature=TEMPERATURE, compared_N=compared_N)


_OF_LOGITS: dict[str, Callable[[Sizes], TermOn]] = {
    "cross_entropy": _cross_entropy,
    "top_k": _top_k,
    "sampled": _sampled,
    "universal": _universal,
    "universal_apart": _universal,
}


def _case_of_logits(name: str, sizes: Sizes) -> Case:
    by_rank, is_apart = name.startswith("universal"), name == "universal_apart"
    # Made here: within the loss, autocast would round the teacher's own numbers.
    term_on = _OF_LOGITS[name](sizes)

    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        term = term_on(student[0].device)
        return _through_head(term, student, sizes, DenseTeacher(*teacher) if by_rank else None)

    student = _side(0, sizes.positions, sizes.vocabulary, sizes)
    # Of two sides that spread alike, probabilities of a rank would be nearly equal everywhere.
    spread = 0.3 if is_apart else 0.6
    teacher = (
        _side(2, sizes.positions, sizes.other_vocabulary, sizes, spread=spread) if by_rank else []
    )
    if is_apart:
        for (hidden_ND, weight_VD), logit in zip((student, teacher), APART_LOGITS, strict=True):
            hidden_ND[:, 0] = 1.0
            weight_VD *= APART_SPREAD
            weight_VD[: sizes.vocabulary // 10, 0] += logit
    return Case(
        name,
        student,
        teacher,
        loss,
        is_of_logits=True,
        slope_slack=EDGE_OF_RANKS if name == "universal" else (1.0, 1.0),
    )


def _long_products(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Products as long as those of a large model: a device that adds in few bits shows here."""
    return linear(student[0], teacher[0].to(student[0].dtype)).square().mean()


def _distance_case(name: str, sizes: Sizes) -> Case:
    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return distance_of(name)(student[0], teacher[0]).mean()

    student, teacher = ([drawn(seed, sizes.positions, sizes.width)] for seed in (0, 1))
    return Case(name, student, teacher, loss)


def _groups(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Groups of eight of which only the first few count; two have no angle."""
    valid_RG = torch.arange(8) < torch.tensor([8, 5, 3, 2])[:, None]
    return group_loss(
        student[0],
        teacher[0],
        valid_RG.to(student[0].device),
        distance_weight=1.0,
        angle_weight=2.0,
    )


_RELATIONS: dict[str, Loss] = {
    "relational_distances": lambda student, teacher: distance_loss(student[0], teacher[0]).sum(),
    "relational_angles": lambda student, teacher: angle_loss(student[0], teacher[0]).sum(),
    "relational_groups": _groups,
}


def _pooled(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    valid_BT = torch.arange(16) < torch.tensor([16, 9, 4])[:, None]
    pooled_BD = mean_pool(student[0], valid_BT.to(student[0].device))
    return (pooled_BD - teacher[0]).square().mean()


def _attention_case(name: str, *, has_documents: bool) -> Case:
    length = 40
    valid_BT = torch.arange(length) < torch.tensor([length, 21, 7])[:, None]
    position_BT = (torch.arange(length) % 15).expand(3, -1) if has_documents else None

    def loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        device = student[0].device
        return attention_loss(
            dict(zip("qkv", student, strict=True)),
            dict(zip("qkv", teacher, strict=True)),
            valid_BT.to(device),
            position_BT=None if position_BT is None else position_BT.to(device),
            relation_heads=4,
        )

    student = [drawn(seed, 3, length, width) for seed, width in enumerate((48, 24, 24))]
    teacher = [drawn(3 + seed, 3, length, width) for seed, width in enumerate((64, 32, 32))]
    return Case(name, student, teacher, loss)


def term_makers(sizes: Sizes) -> dict[str, Callable[[], Case]]:
    """Name of each term that is no dense divergence, to what makes its case.

    The cheap ones come first.
    """
    makers: dict[str, Callable[[], Case]] = {}

    def add(name: str, make: Callable[..., Case], *given: object, **named: object) -> None:
        makers[name] = lambda: make(name, *given, **named)

    long = [drawn(seed, rows, LONG) for seed, rows in ((0, 48), (1, 256))]
    add("long_products", Case, long[:1], long[1:], _long_products, is_of_logits=True)
    for name in [*DISTANCES, *plugins.names(plugins.DISTANCES)]:
        add(name, _distance_case, sizes)
    for name, loss in _RELATIONS.items():
        add(name, Case, [drawn(0, 4, 8, 48)], [drawn(1, 4, 8, sizes.width)], loss)
    add("mean_pool", Case, [drawn(0, 3, 16, sizes.width)], [drawn(1, 3, sizes.width)], _pooled)
    add("attention_rows", _attention_case, has_documents=False)
    add("attention_documents", _attention_case, has_documents=True)
    for name in _OF_LOGITS:
        add(name, _case_of_logits, sizes)
    return makers


def divergence_makers(sizes: Sizes) -> dict[str, Callable[[], Case]]:
    """Name of each dense divergence, to what makes its case."""
    return {name: lambda name=name: divergence_case(name, sizes) for name in divergence_names()}
