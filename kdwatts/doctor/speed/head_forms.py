"""The response head in four forms: ours, Liger's fused one, TRL's chunked one, dense PyTorch."""

# N positions, D width of both models, V vocabulary.

from __future__ import annotations

import contextlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.doctor.speed.timed_windows import wait
from kdwatts.losses.fused_choice import refused
from kdwatts.losses.head import Buffers, DenseTeacher, head_loss
from kdwatts.losses.response import dense_term
from kdwatts.memory.budget import GIB

Head = Callable[[], Tensor]
"""One forward pass: the loss, a scalar in nats."""
Sides = list[Tensor]
"""Hidden states [N, D] and head [V, D] of one model."""

PACKAGES = {"dense": "torch", "liger": "liger_kernel", "trl": "trl"}
"""Name of a form to the package that it needs."""


def ours(student: Sides, teacher: Sides, *, term: str, rows: int) -> Head:
    """The head of kdwatts, in chunks of so many rows."""
    settings = {"beta": 0.5} if term == "jsd" else {}
    terms, buffers = {term: dense_term(term, **settings)}, Buffers()

    def step() -> Tensor:
        total, _ = head_loss(
            student[0],
            student[1],
            terms,
            {term: 1 / len(student[0])},
            teacher=DenseTeacher(teacher[0], teacher[1]),
            chunk_rows=rows,
            buffers=buffers,
        )
        return total

    return step


def dense(student: Sides, teacher: Sides, *, term: str) -> Head:
    """All logits at once, by PyTorch's own functions."""

    def step() -> Tensor:
        log_q_NV = F.linear(*student).float().log_softmax(-1)
        with torch.no_grad():
            log_p_NV = F.linear(*teacher).float().log_softmax(-1)
        if term == "forward_kl":
            return F.kl_div(log_q_NV, log_p_NV, reduction="batchmean", log_target=True)
        log_m_NV = torch.logaddexp(log_q_NV, log_p_NV) - torch.log(torch.tensor(2.0))
        halves = [
            F.kl_div(log_m_NV, log_NV, reduction="batchmean", log_target=True)
            for log_NV in (log_p_NV, log_q_NV)
        ]
        return (halves[0] + halves[1]) / 2

    return step


def liger(student: Sides, teacher: Sides, *, term: str) -> Head:
    """Liger's fused head. Raises ImportError where it is not installed."""
    from liger_kernel.chunked_loss import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearJSDLoss,
    )

    beta = 0.5 if term == "jsd" else 0.0  # Its beta of 0 is forward KL.
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta)
    labels_N = torch.zeros(len(student[0]), dtype=torch.long, device=student[0].device)
    return lambda: loss(*student, *teacher, labels_N)


def trl(student: Sides, teacher: Sides, *, term: str) -> Head:
    """TRL's kernel without its trainer, whose module imports pandas and datasets.

    Raises ImportError where it is not installed.
    """
    with _without_trainer():
        from trl.kernels.chunked_divergence import (  # pyright: ignore[reportMissingImports]
            ChunkedDivergenceFunction,
        )

    beta = 0.5 if term == "jsd" else 0.0  # Its beta of 0 is forward KL.

    def step() -> Tensor:
        found = ChunkedDivergenceFunction.apply(*student, None, *teacher, None, beta, 1.0)
        assert isinstance(found, tuple)
        return found[0].mean()

    return step


@contextlib.contextmanager
def _without_trainer() -> Iterator[None]:
    """While it lasts, stand-ins for TRL's trainer.

    The kernel takes one function from there. It gathers weights that DeepSpeed has split, and does
    nothing for others.
    """
    name = "trl.trainer"
    if name in sys.modules:
        yield
        return
    package, module = types.ModuleType(name), types.ModuleType(f"{name}.utils")
    package.__path__ = []
    vars(module)["maybe_gather_lm_head_ctx"] = lambda weight, bias: contextlib.nullcontext()
    sys.modules |= {name: package, module.__name__: module}
    try:
        yield
    finally:
        del sys.modules[name], sys.modules[module.__name__]


OTHERS = {"dense": dense, "liger": liger, "trl": trl}
"""Name of another form to what makes it."""


@contextlib.contextmanager
def form(device: torch.device, *, plain: bool) -> Iterator[None]:
    """Our head as a run takes it, or without its kernel."""
    if not plain or device in refused:
        yield
        return
    refused[device] = "the plain form is measured"
    try:
        yield
    finally:
        del refused[device]


def is_fused(device: torch.device) -> bool:
    """Whether our head runs its kernel on the device."""
    return device.type == "cuda" and device not in refused


def random_sides(
    sizes: tuple[int, int, int], device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> tuple[Sides, Sides]:
    """Student and teacher of random numbers, of N positions, width D and vocabulary V."""
    positions, width, vocabulary = sizes
    torch.manual_seed(0)
    hidden = [torch.randn(positions, width, device=device) for _ in range(2)]
    weight = [0.02 * torch.randn(vocabulary, width, device=device) for _ in range(2)]
    student, teacher = ([h.to(dtype), w.to(dtype)] for h, w in zip(hidden, weight, strict=True))
    return [tensor.requires_grad_() for tensor in student], teacher


@dataclass
class HeadTimes:
    """What a form of the head took, round by round. The first rounds build what is built once."""

    step: Head
    times_ms: list[float]
    """Milliseconds of a forward and backward pass in each round."""
    loss: float | None = None
    """The last loss in nats."""
    peak_gib: float | None = None
    """Most GiB beyond what was there before; None on a CPU."""

    def take(self, student: Sides) -> None:
        """Take one round: loss, and gradients of the student's states and head."""
        device = student[0].device
        for tensor in student:
            tensor.grad = None
        wait(device)
        base = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            base = torch.cuda.memory_allocated(device)
        started_s = time.perf_counter()
        loss = self.step()
        loss.backward()
        wait(device)
        self.times_ms.append(1e3 * (time.perf_counter() - started_s))
        if device.type == "cuda":
            peak = (torch.cuda.max_memory_allocated(device) - base) / GIB
            self.peak_gib = max(peak, self.peak_gib or 0.0)
        self.loss = loss.item()
