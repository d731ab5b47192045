"""The response head alone on a GPU: ours, Liger's fused one and dense PyTorch.

`python tests/bench/head_on_gpu.py [--out DIR]`, or `response_step.py --gpu`. Hidden states and
heads in bfloat16 go in, the loss and the gradients of the student's come out: Jensen-Shannon, and
forward KL of ours beside dense. `--small` is a rehearsal, on the CPU where there is no GPU.
"""

# N positions, D width of both models, V vocabulary.

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdwatts.losses.head import Buffers, DenseTeacher, head_loss
from kdwatts.losses.response import dense_term

NUM_POSITIONS, WIDTH, VOCABULARY = 8_192, 4_096, 128_256
SMALL = (64, 32, 512)
GIB = 1 << 30
Head = Callable[[], Tensor]


def ours(student: list[Tensor], teacher: list[Tensor], *, term: str, chunk_rows: int) -> Head:
    settings = {"beta": 0.5} if term == "jsd" else {}
    terms, buffers = {term: dense_term(term, **settings)}, Buffers()

    def step() -> Tensor:
        total, _ = head_loss(
            student[0],
            student[1],
            terms,
            {term: 1 / len(student[0])},
            teacher=DenseTeacher(teacher[0], teacher[1]),
            chunk_rows=chunk_rows,
            buffers=buffers,
        )
        return total

    return step


def dense(student: list[Tensor], teacher: list[Tensor], *, term: str) -> Head:
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


def liger(student: list[Tensor], teacher: list[Tensor]) -> Head:
    from liger_kernel.chunked_loss import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearJSDLoss,
    )

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5)
    labels_N = torch.zeros(len(student[0]), dtype=torch.long, device=student[0].device)
    return lambda: loss(*student, *teacher, labels_N)


def measure(step: Head, student: list[Tensor], *, rounds: int = 10) -> dict[str, float | None]:
    on_gpu = student[0].device.type == "cuda"
    base = 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
    milliseconds, loss = [], None
    for _ in range(rounds + 2):
        for tensor in student:
            tensor.grad = None
        started_s = time.perf_counter()
        loss = step()
        loss.backward()
        if on_gpu:
            torch.cuda.synchronize()
        milliseconds.append(1e3 * (time.perf_counter() - started_s))
    assert loss is not None
    peak_gib = (torch.cuda.max_memory_allocated() - base) / GIB if on_gpu else None
    return {
        "peak_over_base_gib": peak_gib,
        "median_ms": statistics.median(milliseconds[2:]),
        "least_ms": min(milliseconds[2:]),
        "most_ms": max(milliseconds[2:]),
        "first_ms": milliseconds[0],
        "loss": loss.item(),
    }


def variants() -> dict[str, Callable[..., Head]]:
    """The chunks are Liger's, those of a run's default, and larger ones."""
    found: dict[str, Callable[..., Head]] = {
        f"ours jsd, chunks of {rows}": lambda *sides, rows=rows: ours(
            *sides, term="jsd", chunk_rows=rows
        )
        for rows in (1024, 256, 2048)
    }
    found["ours forward_kl, chunks of 1024"] = lambda *sides: ours(
        *sides, term="forward_kl", chunk_rows=1024
    )
    found["dense jsd"] = lambda *sides: dense(*sides, term="jsd")
    found["dense forward_kl"] = lambda *sides: dense(*sides, term="forward_kl")
    # The last: it compiles first.
    if importlib.util.find_spec("liger_kernel"):
        found["liger jsd"] = liger
    else:
        print("Liger is not installed and left out.")
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for head.json")
    parser.add_argument("--small", action="store_true", help="a rehearsal, also without a GPU")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not given.small:
        print("There is no CUDA device here, so the head on a GPU is left out.")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    positions, width, vocabulary = SMALL if given.small else (NUM_POSITIONS, WIDTH, VOCABULARY)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    record: dict[str, Any] = {
        **{"gpu": name, "positions": positions, "width": width, "vocabulary": vocabulary},
        "heads": {},
    }
    print(f"{name}: {positions} positions, H={width}, V={vocabulary}")
    for variant, make in variants().items():
        torch.manual_seed(0)
        hidden = [torch.randn(positions, width, device=device) for _ in range(2)]
        weight = [0.02 * torch.randn(vocabulary, width, device=device) for _ in range(2)]
        sides = [[h.bfloat16(), w.bfloat16()] for h, w in zip(hidden, weight, strict=True)]
        del hidden, weight
        student = [tensor.requires_grad_() for tensor in sides[0]]
        try:
            record["heads"][variant] = measure(make(student, sides[1]), student)
        except Exception as error:  # What one of them cannot do is no reason to lose the others.
            record["heads"][variant] = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(f"{variant:<34} {record['heads'][variant]}", flush=True)
        del sides, student
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if given.out:
            (given.out / "head.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
