"""The kernel on a pretended GPU: it is compared where it runs, and why it does not is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdwatts.doctor.numbers import fused_in_float64
from kdwatts.doctor.numbers.fused_in_float64 import (
    examine_kernel,
    look_at_fused_head,
    untried_kernel,
)
from kdwatts.doctor.patient import Patient
from kdwatts.losses import fused_choice
from kdwatts.losses.fused_plan import Plan
from kdwatts.losses.logit_rows import Block, block_losses
from kdwatts.records.doctor_record import Verdict

CPU = torch.device("cpu")


def take_kernel(monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., Tensor]) -> None:
    """The head believes that this is the kernel and that the CPU is a GPU."""
    monkeypatch.setattr(fused_choice, "runs_on", lambda _device: True)
    monkeypatch.setattr(fused_choice, "_agreed", set())
    monkeypatch.setattr(fused_choice, "scale_in_place", lambda values, scale: values.mul_(scale))
    for module in (fused_choice, fused_in_float64):
        monkeypatch.setattr(module, "fused_losses", kernel)


def right_kernel(
    plan: Plan, rows: slice, student_nV: Tensor, teacher_nV: Tensor | None, *, needs_grad: bool
) -> Tensor:
    block = Block(rows, student_nV, teacher_nV, needs_grad=needs_grad)
    return block_losses(block, plan.terms, plan.weights)


def examine() -> Verdict:
    with untried_kernel():
        return examine_kernel(CPU, positions=8, vocabulary=300, seconds=1e6)


def test_a_cpu_has_no_verdict_on_the_kernel(tmp_path: Path, configure: Callable[..., Any]):
    (verdict,) = look_at_fused_head(Patient(configure("gpu=cpu"), [], False, tmp_path), 1.0)
    assert (verdict.name, verdict.verdict) == ("fused_head", None)
    assert "the plain form runs on a CPU" in verdict.found


def test_a_kernel_that_agrees_is_right(monkeypatch: pytest.MonkeyPatch):
    take_kernel(monkeypatch, right_kernel)
    verdict = examine()
    assert verdict.verdict == "right"
    assert verdict.found.startswith("16 losses of the fused kernel with a vocabulary of 300")


def test_a_kernel_that_fails_is_said_with_its_reason_and_the_process_forgets_the_trial(
    monkeypatch: pytest.MonkeyPatch,
):
    def failing(*_args: object, **_options: object) -> Tensor:
        raise RuntimeError("Failed to find C compiler.")

    take_kernel(monkeypatch, failing)
    known = {torch.device("cuda", 7): "a benchmark wants it"}
    monkeypatch.setattr(fused_choice, "refused", dict(known))
    verdict = examine()
    assert verdict.verdict == "attention" and verdict.remedy
    assert "it fails (RuntimeError: Failed to find C compiler.)" in verdict.found
    assert fused_choice.refused == known


def test_a_kernel_that_is_wrong_beyond_the_trial_s_four_rows_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch,
):
    def wrong(plan: Plan, rows: slice, student_nV: Tensor, *others: Any, **options: Any) -> Tensor:
        losses = right_kernel(plan, rows, student_nV, *others, **options)
        student_nV[4:] *= 1.02
        return losses

    take_kernel(monkeypatch, wrong)
    verdict = examine()
    assert verdict.verdict == "wrong"
    assert "forward_kl of bfloat16 (slopes" in verdict.found
