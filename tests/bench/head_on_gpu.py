"""The Jensen-Shannon head alone on a GPU: ours, Liger's fused one and dense PyTorch.

`python tests/bench/response_step.py --gpu`. Hidden states and heads in bfloat16 go in, the loss and
the gradients of the student's come out.
"""

# N positions, D width of both models, V vocabulary.

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.head import Buffers, DenseTeacher, head_loss
from kdwatts.losses.response import dense_term

NUM_POSITIONS, WIDTH, VOCABULARY = 8_192, 4_096, 128_256
GIB = 1 << 30


def ours(student: list[Tensor], teacher: list[Tensor]) -> Callable[[], Tensor]:
    terms, buffers = {"jsd": dense_term("jsd", beta=0.5)}, Buffers()

    def step() -> Tensor:
        total, _ = head_loss(
            student[0],
            student[1],
            terms,
            {"jsd": 1 / NUM_POSITIONS},
            teacher=DenseTeacher(teacher[0], teacher[1]),
            chunk_rows=1024,  # as Liger
            buffers=buffers,
        )
        return total

    return step


def dense(student: list[Tensor], teacher: list[Tensor]) -> Callable[[], Tensor]:
    def step() -> Tensor:
        log_q_NV = F.linear(*student).float().log_softmax(-1)
        with torch.no_grad():
            log_p_NV = F.linear(*teacher).float().log_softmax(-1)
        log_m_NV = torch.logaddexp(log_q_NV, log_p_NV) - torch.log(torch.tensor(2.0))
        halves = [
            F.kl_div(log_m_NV, log_NV, reduction="batchmean", log_target=True)
            for log_NV in (log_p_NV, log_q_NV)
        ]
        return (halves[0] + halves[1]) / 2

    return step


def liger(student: list[Tensor], teacher: list[Tensor]) -> Callable[[], Tensor]:
    from liger_kernel.chunked_loss import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearJSDLoss,
    )

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5)
    labels_N = torch.zeros(NUM_POSITIONS, dtype=torch.long, device="cuda")
    return lambda: loss(*student, *teacher, labels_N)


def measure(step: Callable[[], Tensor], student: list[Tensor], rounds: int = 10) -> str:
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    milliseconds = []
    for _ in range(rounds + 2):
        for tensor in student:
            tensor.grad = None
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        loss = step()
        loss.backward()
        end.record()
        torch.cuda.synchronize()
        milliseconds.append(start.elapsed_time(end))
    peak_gib = (torch.cuda.max_memory_allocated() - base) / GIB
    return (
        f"{peak_gib:7.2f} GiB over base   {statistics.median(milliseconds[2:]):7.1f} ms   "
        f"loss {loss.item():.6f}"
    )


def main() -> None:
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so the head on a GPU is left out.")
        return
    torch.manual_seed(0)
    variants = {"ours": ours, "dense": dense}
    if importlib.util.find_spec("liger_kernel"):
        variants["liger"] = liger
    else:
        print("Liger is not installed and left out.")
    print(f"{torch.cuda.get_device_name()}: {NUM_POSITIONS} positions, H={WIDTH}, V={VOCABULARY}")
    for name, make in variants.items():
        hidden = [torch.randn(NUM_POSITIONS, WIDTH, device="cuda") for _ in range(2)]
        weight = [0.02 * torch.randn(VOCABULARY, WIDTH, device="cuda") for _ in range(2)]
        sides = [[h.bfloat16(), w.bfloat16()] for h, w in zip(hidden, weight, strict=True)]
        del hidden, weight
        student = [tensor.requires_grad_() for tensor in sides[0]]
        try:
            print(f"{name:<6} {measure(make(student, sides[1]), student)}")
        except torch.OutOfMemoryError:
            print(f"{name:<6} does not fit")
        del sides, student
        torch.cuda.empty_cache()
