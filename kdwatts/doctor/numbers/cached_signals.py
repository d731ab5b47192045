"""Signals of a teacher that were kept in a cache, beside those of the same teacher now.

The models are the tiny pair, which lies in the package, and the text is its corpus. So the top
tokens are those of a teacher that has learned, and nothing is fetched.
"""

# B rows, T positions, N = B T, K top tokens, M temperatures, V vocabulary; b bins: the K tokens,
# and one for all others.

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.config.paradigm import Paradigm
from kdwatts.data.documents import read_documents
from kdwatts.data.packing import Batch
from kdwatts.doctor.numbers.terms_in_float64 import distance
from kdwatts.doctor.patient import Patient
from kdwatts.losses.sparse import TopK
from kdwatts.metrics.significant_digits import significant
from kdwatts.models.initial import load_student
from kdwatts.models.load import head_weight, load_model, pair_tokenizer
from kdwatts.models.row_attention import attend_by_rows, final_states
from kdwatts.records.doctor_record import Verdict
from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.cache_parts import finish, write_parts
from kdwatts.teacher.cache_record import Form
from kdwatts.teacher.signals import SignalPlan, Signals, compute_signals, signal_plan
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.objective import PairSizes, objective_of

NAME = "cached_signals"
ROWS, LENGTH = np.arange(8), 64
SAMPLES, TOKENS = 50, 16

OFFSET_ERROR = 0.5 / 4096
"""Nats. Offsets are kept in steps of 1/4096 (`teacher.sparse_coding.encode_offsets`)."""
HALF_ERROR = 2.0**-11
"""Relative. float16 keeps 11 bits (IEEE 754)."""
BF16_ERROR = 2.0**-8
"""Relative. bfloat16 keeps 8 bits."""
ROUNDING = 1e-5
"""Nats, or relative: of float32 arithmetic on both sides."""


@dataclass(frozen=True)
class TaughtPair:
    """A student, its teacher, a micro-batch, and what is kept of the teacher for it."""

    student: nn.Module
    teacher: nn.Module
    batch: Batch
    plan: SignalPlan
    paradigm: Paradigm
    width: int
    """Of the teacher."""
    student_width: int

    def live(self) -> Signals:
        """What the teacher says now."""
        return compute_signals(self.teacher, self.batch.input_BT, self.plan, rows=self.batch.rows)

    @property
    def temperature(self) -> float:
        """Of the response term."""
        assert self.paradigm.response
        return self.paradigm.response.temperature


def tiny_pair(device: torch.device) -> TaughtPair:
    """The pair that lies in the package, with the signals of all paradigms that are cached."""
    disable_progress_bar()  # It would tear the page.
    config = to_config(compose(["model=tiny", "paradigm=response", "data=tiny", "gpu=cpu"]))
    model = config.model
    assert model.teacher and config.data.source
    document = " ".join(
        "".join(one.pieces) for one in islice(read_documents(config.data.source), 4)
    )
    ids = pair_tokenizer(model)(document)["input_ids"][: len(ROWS) * LENGTH + 1]
    token_N = torch.tensor(ids)
    batch = Batch(ROWS, token_N[:-1].view(-1, LENGTH), token_N[1:].view(-1, LENGTH))
    student = load_student(model, dtype=torch.float32, seed=0).to(device)
    teacher = load_model(model.teacher, dtype=torch.float32).to(device).requires_grad_(False)
    for each in (student, teacher):
        attend_by_rows(each)
    plan = signal_plan(config.paradigm, [], model.student.architecture.vocab_size)
    plan = replace(plan, samples=SAMPLES, final_hidden=True, pooled=True, token_positions=TOKENS)
    return TaughtPair(
        student,
        teacher,
        batch.to(device),
        plan,
        config.paradigm,
        model.teacher.architecture.hidden_size,
        model.student.architecture.hidden_size,
    )


def write_signals(pair: TaughtPair, directory: Path) -> None:
    """Keep the teacher's signals for the micro-batch, in a part and its index."""

    def signals_of(rows: NDArray[np.int64]) -> Signals:
        assert np.array_equal(rows, pair.batch.rows)
        return pair.live()

    form = Form(pair.plan, LENGTH, pair.width)
    parts_dir = directory / "parts"
    write_parts(parts_dir, pair.batch.rows, form, signals_of)
    finish(parts_dir, directory, pair.batch.rows, form, sources={})


def look_at_cached_signals(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """`cached_signals`: what is read back of a cache, the loss and the gradient it gives."""
    device = torch.device(patient.device)
    directory = patient.work_dir / "cached_signals"
    try:
        pair = tiny_pair(device)
        write_signals(pair, directory)
        yield verdict_on_cache(pair, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def verdict_on_cache(pair: TaughtPair, directory: Path) -> Verdict:
    """The verdict on a cache of the micro-batch's signals."""
    against = (
        "the teacher's signals now; the error of each kept number as kdwatts states it "
        "(teacher.sparse_coding: sqrt(d R) / 255 + R / 510^2 nats for a depth d of at most R)"
    )
    remedy = (
        "test this machine's memory and disk, then delete the teacher folders of the store; where "
        "both are sound, report it"
    )
    live = pair.live()
    try:
        cached = SignalCache(directory).read(pair.batch.rows, pair.batch.input_BT.device)
    except ValueError as error:
        found = f"a cache that was just written is refused: {error}"
        return Verdict(NAME, "wrong", found, against, remedy)
    shares = shares_of_stated_errors(live, cached, pair.plan)
    wrong = [name for name, share in shares.items() if not share <= 1]
    losses, slopes = zip(
        *(_loss_and_slopes(pair, signals) for signals in (live, cached)), strict=True
    )
    apart, allowed = abs(losses[1] - losses[0]), stated_loss_error(pair, live)
    if not apart <= allowed:
        wrong.append("the response loss")
    figures = (
        f"the response loss of {losses[0]:.3f} nats moves by {significant(apart, 2)} nats, where "
        f"the stated errors allow {significant(allowed, 2)}; the gradient by "
        f"{significant(100 * distance(slopes[1], slopes[0]), 2)} %"
    )
    value = {"value": apart, "unit": "nats"}
    if wrong:
        found = f"read back beyond their stated error: {', '.join(wrong)}; {figures}"
        return Verdict(NAME, "wrong", found, against, remedy, **value)
    worst = max(shares, key=lambda name: shares[name])
    near = f"{worst} come to {100 * shares[worst]:.0f} % of it"
    found = f"{figures}; no kept number is beyond its stated error ({near})"
    return Verdict(NAME, "right", found, against, **value)


def shares_of_stated_errors(live: Signals, cached: Signals, plan: SignalPlan) -> dict[str, float]:
    """Name of each kind of signal to its largest error over the stated one. More than 1 is wrong.

    What is kept exactly has 0, or infinity where it differs.
    """
    found: dict[str, float] = {}
    assert live.sparse and cached.sparse and live.sampled and cached.sampled
    ids_NK, depth_NK, deepest_N1 = _by_id(live)
    found_ids_NK, found_depth_NK, _ = _by_id(cached)
    found["token ids"] = _unequal(ids_NK, found_ids_NK)
    stated_NK = stated_depth_error(depth_NK, deepest_N1)
    found["depths"] = _share(found_depth_NK - depth_NK, stated_NK)
    top_N1 = live.sparse.log_p_NK.amax(-1, keepdim=True)
    temperature_M = torch.tensor(plan.temperatures, device=top_N1.device)
    offset_NM = live.sparse.offset_NM - top_N1 / temperature_M
    stated = torch.full_like(offset_NM, OFFSET_ERROR)
    found["offsets"] = _share(cached.sparse.offset_NM - offset_NM, stated)
    tail_NM = live.sparse.log_tail_NM
    found["tails"] = _share(cached.sparse.log_tail_NM - tail_NM, HALF_ERROR * tail_NM.abs())
    for name in ("ids_NK", "counts_NK"):
        one, other = (getattr(side.sampled, name) for side in (live, cached))
        found[f"samples' {name.partition('_')[0]}"] = _unequal(one.long(), other.long())
    for name in ("final_ND", "tokens_BMD"):
        one, other = getattr(live, name), getattr(cached, name).float()
        found[f"states ({name})"] = _share(other - one, BF16_ERROR * one.abs())
    assert live.pooled_BD is not None and cached.pooled_BD is not None
    found["pooled states"] = _share(
        cached.pooled_BD - live.pooled_BD, torch.zeros_like(live.pooled_BD)
    )
    return found


def stated_depth_error(depth_NK: Tensor, deepest_N1: Tensor) -> Tensor:
    """The largest error of depths [N, K] that are kept in u8, in nats (`teacher.sparse_coding`)."""
    # The deepest is kept in float16, rounded up.
    kept_N1 = deepest_N1 * (1 + 2 * HALF_ERROR)
    return (depth_NK * kept_N1).sqrt() / 255 + kept_N1 / 510**2


def _by_id(signals: Signals) -> tuple[Tensor, Tensor, Tensor]:
    """Ids that ascend, their depths in nats below the likeliest, and the deepest [N, 1]."""
    assert signals.sparse
    ids_NK, order_NK = signals.sparse.ids_NK.sort(-1)
    log_p_NK = signals.sparse.log_p_NK
    depth_NK = (log_p_NK.amax(-1, keepdim=True) - log_p_NK).gather(-1, order_NK)
    return ids_NK, depth_NK, depth_NK.amax(-1, keepdim=True)


def _share(error: Tensor, stated: Tensor) -> float:
    """The largest error over the stated one and the rounding of both sides; NaN for a NaN."""
    return float((error.abs() / (stated + ROUNDING)).max())


def _unequal(one: Tensor, other: Tensor) -> float:
    return 0.0 if torch.equal(one, other) else float("inf")


def _loss_and_slopes(pair: TaughtPair, signals: Signals) -> tuple[float, list[Tensor]]:
    """The response loss of the micro-batch in nats, and the gradient of the whole loss."""
    vocabulary = pair.plan.vocabulary
    objective = objective_of(
        pair.paradigm,
        [],
        pair.plan,
        sizes=PairSizes(vocabulary, pair.student_width, pair.width),
        chunk_rows=256,
        teacher_head=None,
        seed=0,
    ).to(pair.batch.input_BT.device)
    size = objective.step_size([pair.batch])
    loss, parts = objective.micro_batch_loss(pair.student, MicroBatch(pair.batch, signals), size)
    slopes = torch.autograd.grad(loss, list(pair.student.parameters()))
    return parts["response_nats"].item(), [slope.double().cpu() for slope in slopes]


@torch.no_grad()
def stated_loss_error(pair: TaughtPair, live: Signals) -> float:
    """By how much the stated errors can move the response loss, in nats: a mean over positions.

    With p the teacher's bins, q the student's and p' the kept ones, KL(p' || q) - KL(p || q) is
    sum (p' - p) log(p / q) + KL(p' || p). Bins whose logarithm is off by at most e have
    |p' - p| <= p (exp(2 e) - 1), with the e of the worst bin in the sum that is divided by.
    """
    assert live.sparse
    temperature = pair.temperature
    top: TopK = live.sparse.at(temperature, pair.plan.temperatures)
    final_ND = final_states(pair.student, pair.batch.input_BT).flatten(0, 1)
    weight_VD = head_weight(pair.student)[: pair.plan.vocabulary]
    log_q_NV = (final_ND @ weight_VD.T / temperature).double().log_softmax(-1)
    rest_N1 = log_q_NV.scatter(-1, top.ids_NK, -torch.inf).logsumexp(-1, keepdim=True)
    log_q_Nb = torch.cat([log_q_NV.gather(-1, top.ids_NK), rest_N1], -1)
    log_p_Nb = torch.cat([top.log_p_NK, top.log_tail_N[:, None]], -1).double()
    depth_NK = (top.log_p_NK.amax(-1, keepdim=True) - top.log_p_NK) * temperature
    of_ids_NK = stated_depth_error(depth_NK, depth_NK.amax(-1, keepdim=True)) / temperature
    error_Nb = torch.cat(
        [of_ids_NK + OFFSET_ERROR, HALF_ERROR * top.log_tail_N[:, None].abs()], -1
    ).double()
    p_Nb = log_p_Nb.exp()
    mean_N1 = (p_Nb * error_Nb.expm1()).sum(-1, keepdim=True)
    moved_Nb = p_Nb * ((error_Nb.exp() * (1 + mean_N1)) - 1)
    gap_Nb = log_p_Nb - log_q_Nb
    centred_Nb = (gap_Nb - (p_Nb * gap_Nb).sum(-1, keepdim=True)).abs()
    second_N = (moved_Nb**2 / p_Nb.clamp(min=1e-300)).sum(-1)
    return float(temperature**2 * ((moved_Nb * centred_Nb).sum(-1) + second_N).mean()) + ROUNDING
