"""The response head of the pair: ours beside dense PyTorch, Liger's and TRL's."""

# N positions, D the student's width, V shared vocabulary.

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import torch
from torch import Tensor

from kdwatts.config.experiment import Config
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.speed.free_memory import emptied, free_bytes, is_out_of_memory
from kdwatts.doctor.speed.head_forms import OTHERS, PACKAGES, HeadTimes, Sides, ours, random_sides
from kdwatts.doctor.speed.timed_windows import ends_of, figure, with_interval
from kdwatts.memory.budget import GIB
from kdwatts.metrics.quantity import Quantity, mean_of
from kdwatts.records.doctor_record import Verdict
from kdwatts.stages.work import shared_rows

CHECK = "response_head"
TERM = "forward_kl"

MOST_POSITIONS = 8_192
LEAST_POSITIONS = 64
DENSE_BYTES = 32
"""Bytes of each logit in the dense form: both models' logits as they come and in float32, their
logarithms, and what the backward pass makes of them."""
WEIGHT_BYTES = 24
"""Bytes of each weight of the head: both models' as they are drawn, in float32, and as they are
used, and the gradients of two forms."""
FLOP_PER_S = {"cuda": 1e14, "cpu": 1e10}
"""Rate that the head's products are taken to reach, low."""

WARM_ROUNDS = 2
LEAST_ROUNDS = 3
MOST_ROUNDS = 20

SLOWER = 1.2
"""Ours may take so many times as long as the fastest form. Our judgement."""
LOSS_APART = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
GRADIENT_APART = {torch.float32: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative differences from dense. bfloat16 keeps 8 digits of each logit, and the forms
round at other places; a wrong head is far beyond. The chapter Numbers looks closer."""


def response_head(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The check of the head: its time and memory, and its loss and gradient, beside others."""
    device = torch.device(patient.device)
    ends_s = time.monotonic() + seconds
    sizes = _sizes(patient.config, device, seconds)
    needed, free = _bytes(sizes), free_bytes(device)
    if needed > free:
        yield Verdict(
            CHECK,
            None,
            f"not measured: it needs {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free",
            remedy="give a smaller --model, or end what takes the memory",
        )
        return
    try:
        with emptied(device):
            yield from _measured(patient, device, sizes, ends_s)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        yield Verdict(
            CHECK,
            "wrong",
            f"it ran out of memory: {' '.join(str(error).split())[:120]}",
            remedy=f"look for other processes with {'nvidia-smi' if patient.has_cuda else 'top'}",
        )


def _bytes(sizes: tuple[int, int, int]) -> float:
    positions, width, vocabulary = sizes
    return (WEIGHT_BYTES * width + DENSE_BYTES * positions) * vocabulary


def _measured(
    patient: Patient, device: torch.device, sizes: tuple[int, int, int], ends_s: float
) -> Iterator[Verdict]:
    config = patient.config
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    student, teacher = random_sides(sizes, device, dtype)
    rows = config.training.rows_at_once
    forms = {"ours": HeadTimes(ours(student, teacher, term=TERM, rows=rows), [])}
    absent: dict[str, str] = {}
    for name, make in OTHERS.items():
        if not find_spec(PACKAGES[name]):
            absent[name] = f"{PACKAGES[name]} is not installed"
        elif device.type == "cpu" and name != "dense":
            absent[name] = f"{PACKAGES[name]} is for GPUs"
        else:
            try:
                forms[name] = HeadTimes(make(student, teacher, term=TERM), [])
            except Exception as error:  # Another package's matter.
                absent[name] = f"{PACKAGES[name]} fails: {type(error).__name__}: {error}"[:200]
    gradients: dict[str, Tensor] = {}
    for name in list(forms):
        try:
            for _ in range(WARM_ROUNDS):
                forms[name].take(student)
        except Exception as error:
            if name in ("ours", "dense"):
                raise
            absent[name] = f"{PACKAGES[name]} fails: {type(error).__name__}: {error}"[:200]
            del forms[name]
            continue
        gradients[name] = _gradient(student)
    # In turn, so that a clock that falls and a guest that comes meet all forms alike.
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and time.monotonic() > ends_s:
            break
        for one in forms.values():
            one.take(student)
    rounds = {name: one.times_ms[WARM_ROUNDS:] for name, one in forms.items()}
    positions, width, vocabulary = sizes
    shape = f"{positions:,} x {width:,} x {vocabulary:,} in {config.training.precision}"
    yield _ours_verdict(forms, rounds, gradients, shape, dtype)
    for name in OTHERS:
        if name != "dense":
            yield _other_verdict(name, forms, rounds, absent)


def _sizes(config: Config, device: torch.device, seconds: float) -> tuple[int, int, int]:
    """Positions, width and vocabulary: the pair's, with fewer positions where they do not fit."""
    width, vocabulary = config.model.student.architecture.hidden_size, shared_rows(config)
    training = config.training
    positions = min(MOST_POSITIONS, training.micro_batch * training.sequence_length)
    rounds = len(OTHERS) * (WARM_ROUNDS + LEAST_ROUNDS)
    while positions > LEAST_POSITIONS and (
        DENSE_BYTES * positions * vocabulary > free_bytes(device) / 2
        or rounds * 8.0 * positions * width * vocabulary > FLOP_PER_S[device.type] * seconds
    ):
        positions //= 2
    return positions, width, vocabulary


def _gradient(student: Sides) -> Tensor:
    """The gradient of the student's hidden states [N, D] after a round, in float32."""
    grad_ND = student[0].grad
    assert grad_ND is not None
    return grad_ND.float().clone()


def _times(ms: list[float], others_ms: list[float]) -> Quantity:
    """How many times as long as another form: the mean over rounds, each beside its neighbour."""
    return mean_of([one / other for one, other in zip(ms, others_ms, strict=True)], unit="1")


def _ours_verdict(
    forms: Mapping[str, HeadTimes],
    rounds: Mapping[str, list[float]],
    gradients: Mapping[str, Tensor],
    shape: str,
    dtype: torch.dtype,
) -> Verdict:
    mine, plain = forms["ours"], forms["dense"]
    assert mine.loss is not None and plain.loss is not None
    loss_apart = abs(mine.loss / plain.loss - 1)
    apart = float((gradients["ours"] - gradients["dense"]).norm() / gradients["dense"].norm())
    took = mean_of(rounds["ours"], unit="ms")
    low, high = ends_of(took)
    fastest = min((name for name in rounds if name != "ours"), key=lambda name: sum(rounds[name]))
    beside = _times(rounds["ours"], rounds[fastest])
    beside_ends = ends_of(beside)
    verdict, remedy = "right", None
    agrees = loss_apart <= LOSS_APART[dtype] and apart <= GRADIENT_APART[dtype]
    if not (agrees and math.isfinite(mine.loss)):
        verdict, remedy = "wrong", "train nothing with it, and report it with doctor.json"
    elif (beside_ends[0] or 0.0) > SLOWER:
        verdict = "attention"
        remedy = "try another training.chunk_rows; the log says whether the fused kernel runs"
    memory = ""
    if mine.peak_gib is not None and plain.peak_gib is not None:
        memory = f" and {mine.peak_gib:.2f} GiB (dense {plain.peak_gib:.2f})"
        if mine.peak_gib > plain.peak_gib and verdict == "right":
            verdict, remedy = "attention", "try a smaller training.chunk_rows"
    return Verdict(
        CHECK,
        verdict,
        f"{with_interval(took.number, low, high, 'ms')}{memory} at {shape}, "
        f"{with_interval(beside.number, *beside_ends, '')} times {_words(fastest)}; the loss is "
        f"{loss_apart:.1e} off and the gradient {apart:.1e}",
        f"dense PyTorch on the same numbers, and the fastest form here, {_words(fastest)}: at most "
        f"{SLOWER:g} times its time, {LOSS_APART[dtype]:g} of its loss and "
        f"{GRADIENT_APART[dtype]:g} of its gradient",
        remedy,
        value=took.number,
        low=low,
        high=high,
        unit="ms",
    )


def _words(name: str) -> str:
    return {"dense": "dense PyTorch", "liger": "Liger's", "trl": "TRL's"}[name]


def _other_verdict(
    name: str,
    forms: Mapping[str, HeadTimes],
    rounds: Mapping[str, list[float]],
    absent: Mapping[str, str],
) -> Verdict:
    """Another form's own time. It is not ours to judge."""
    check = f"head_of_{name}"
    if name in absent:
        return Verdict(check, None, f"not measured: {absent[name]}")
    took, peak = mean_of(rounds[name], unit="ms"), forms[name].peak_gib
    low, high = ends_of(took)
    memory = "" if peak is None else f" and {peak:.2f} GiB"
    beside = figure(sum(rounds[name]) / sum(rounds["ours"]))
    return Verdict(
        check,
        None,
        f"{with_interval(took.number, low, high, 'ms')}{memory}, {beside} times ours",
        value=took.number,
        low=low,
        high=high,
        unit="ms",
    )
