"""Losses that are wrong on a device are found and named, and right ones are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdwatts.doctor.numbers import cases_of_terms
from kdwatts.doctor.numbers.cases_of_terms import (
    Sizes,
    divergence_case,
    divergence_makers,
    term_makers,
)
from kdwatts.doctor.numbers.terms_in_float64 import PRECISIONS, Case, compared, distance
from kdwatts.doctor.numbers.verdicts_on_terms import (
    MORE_TIME,
    examine_losses,
    look_at_divergences,
    look_at_terms,
)
from kdwatts.doctor.patient import Patient
from kdwatts.losses import head, relational, response
from kdwatts.losses.logit_rows import Block, RowTerm
from kdwatts.losses.plain import plain
from kdwatts.losses.response import DIVERGENCES, plain_forward_kl
from kdwatts.records.doctor_record import Verdict

CPU = torch.device("cpu")
TINY = Sizes(positions=12, vocabulary=400, other_vocabulary=300)
FOREVER_S = 1e6


def verdicts(
    group: str, makers_of: Callable[[Sizes], Any], seconds: float = FOREVER_S
) -> dict[str, Verdict]:
    found = examine_losses(group, makers_of(TINY), CPU, TINY, seconds)
    return {verdict.name: verdict for verdict in found}


def of_terms() -> dict[str, Verdict]:
    return verdicts("terms", term_makers)


def of_divergences() -> dict[str, Verdict]:
    return verdicts("divergences", divergence_makers)


def test_a_healthy_cpu_is_right_in_both_precisions(tmp_path: Path, configure: Callable[..., Any]):
    patient = Patient(configure("gpu=cpu"), [], False, tmp_path)
    found = [*look_at_terms(patient, FOREVER_S), *look_at_divergences(patient, FOREVER_S)]
    assert {one.name: one.verdict for one in found} == {
        "terms_fp32": "right",
        "terms_bf16": "right",
        "divergences_fp32": "right",
        "divergences_bf16": "right",
    }
    fp32, _, of_kl, _ = found
    assert fp32.found.startswith(
        "15 terms in float32 with a vocabulary of 2,000 are those of float64;"
    )
    assert of_kl.found.startswith(f"{len(DIVERGENCES)} divergences in float32")
    assert all(one.value is not None and 0 < one.value < 100 for one in found)


class OnePercentSteeper(torch.autograd.Function):
    """The value is passed on, and its slope is 1 % too large."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return 1.01 * grad_outputs[0]


def steeper_kl(student_nV: Tensor, teacher_nV: Tensor) -> Tensor:
    return OnePercentSteeper.apply(plain_forward_kl(student_nV, teacher_nV))  # pyright: ignore


def test_a_new_divergence_is_examined_and_found_where_its_slope_is_1_percent_off(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(DIVERGENCES, "twin", plain(plain_forward_kl))
    assert of_divergences()["divergences_fp32"].found.startswith("7 divergences")
    monkeypatch.setitem(DIVERGENCES, "steeper", plain(steeper_kl))
    found = of_divergences()["divergences_fp32"]
    assert found.verdict == "wrong" and found.remedy
    # Its float64 has the same mistake: only differences of values show it.
    assert found.found.startswith(
        "1 of 8 divergences in float32 with a vocabulary of 400 are wrong: steeper (slopes "
        "against differences of values in float64 0.9"
    )
    assert found.value == pytest.approx(1.0, abs=0.05)


def test_a_closed_form_with_a_slope_1_percent_off_is_found_by_its_definition(
    monkeypatch: pytest.MonkeyPatch,
):
    def steeper(block: Block, weight: float, *, temperature: float) -> Tensor:
        return response.reverse_kl(block, 1.01 * weight, temperature=temperature)

    monkeypatch.setitem(DIVERGENCES, "reverse_kl", steeper)
    found = of_divergences()["divergences_fp32"]
    assert found.verdict == "wrong"
    assert "are wrong: reverse_kl (slopes 1.0 % off, 0.10 % allowed)" in found.found
    assert found.value == pytest.approx(1.0, abs=0.01)


def test_an_operation_that_returns_nan_in_float32_is_found_and_no_other_term_is_blamed(
    monkeypatch: pytest.MonkeyPatch,
):
    right = torch.nn.functional.smooth_l1_loss

    def broken(one: Tensor, other: Tensor, **options: Any) -> Tensor:
        loss = right(one, other, **options)
        return loss if loss.dtype == torch.float64 else loss * math.nan

    monkeypatch.setattr(relational.F, "smooth_l1_loss", broken)
    found = of_terms()["terms_fp32"]
    assert found.verdict == "wrong" and found.value is None
    assert found.found.startswith("3 of 15 terms in float32")
    said = "relational_angles (value NaN or infinite, 0.10 % allowed; slopes NaN or infinite,"
    assert said in found.found
    assert "cosine" not in found.found and "top_k" not in found.found


def test_products_that_are_rounded_to_bfloat16_unasked_are_found(
    monkeypatch: pytest.MonkeyPatch,
):
    right = head._logits

    def rounded(*tensors: Any) -> Tensor:
        logits_nV = right(*tensors)
        return logits_nV.bfloat16().float() if logits_nV.dtype == torch.float32 else logits_nV

    monkeypatch.setattr(head, "_logits", rounded)
    found = of_terms()
    assert found["terms_fp32"].verdict == "wrong"
    assert "cross_entropy (slopes" in found["terms_fp32"].found
    assert "normalized_mse" not in found["terms_fp32"].found
    assert found["terms_bf16"].verdict == "right"


def test_an_error_of_a_tenth_in_the_slopes_of_ranks_is_seen_in_bf16(
    monkeypatch: pytest.MonkeyPatch,
):
    right = cases_of_terms.universal_term

    def steeper(**options: Any) -> RowTerm:
        term = right(**options)

        def ten_percent(block: Block, weight: float) -> Tensor:
            return term(block, weight * (1.1 if torch.is_autocast_enabled("cpu") else 1.0))

        return ten_percent

    monkeypatch.setattr(cases_of_terms, "universal_term", steeper)
    found = of_terms()
    assert found["terms_fp32"].verdict == "right"
    assert found["terms_bf16"].verdict == "wrong"
    assert "universal_apart (slopes 10 % off, 2.0 % allowed)" in found["terms_bf16"].found


def test_sums_of_products_that_are_kept_in_bfloat16_are_found(monkeypatch: pytest.MonkeyPatch):
    def adds_in_few_bits(left: Tensor, right: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return linear(left, right)
        parts = zip(left.split(4, -1), right.split(4, -1), strict=True)
        whole = linear(left[:, :0], right[:, :0])
        for one, other in parts:
            whole = (whole + linear(one, other)).bfloat16()
        return whole

    linear = torch.nn.functional.linear
    monkeypatch.setattr(cases_of_terms, "linear", adds_in_few_bits)
    found = of_terms()
    assert found["terms_fp32"].verdict == "right"
    assert "1 of 15 terms" in found["terms_bf16"].found
    assert "long_products (slopes" in found["terms_bf16"].found


def test_what_raises_is_named_and_what_lacks_memory_is_left_out(monkeypatch: pytest.MonkeyPatch):
    def fails(block: Block, weight: float, *, temperature: float) -> Tensor:
        raise RuntimeError("CUDA error:\n an illegal memory access was encountered")

    def is_too_large(block: Block, weight: float, *, temperature: float) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(DIVERGENCES, "large", is_too_large)
    found = of_divergences()["divergences_fp32"]
    assert found.verdict == "right"
    assert found.found.startswith("6 of 7 divergences in float32")
    assert found.found.endswith("; not looked at for lack of GPU memory: large")
    monkeypatch.setitem(DIVERGENCES, "failing", fails)
    found = of_divergences()["divergences_fp32"]
    assert found.verdict == "wrong"
    assert (
        "failing raised RuntimeError: CUDA error: an illegal memory access was encountered"
        in found.found
    )


def test_without_time_there_is_no_verdict():
    found = verdicts("terms", term_makers, seconds=-1.0)
    assert [one.verdict for one in found.values()] == [None, None]
    assert (
        "not looked at for lack of time: long_products, normalized_mse" in found["terms_fp32"].found
    )
    assert found["terms_fp32"].remedy == MORE_TIME


def test_a_divergence_of_an_installed_package_is_examined(monkeypatch: pytest.MonkeyPatch):
    def names(group: str) -> list[str]:
        return ["theirs"] if group.endswith("divergences") else []

    monkeypatch.setattr(cases_of_terms.plugins, "names", names)
    monkeypatch.setattr(response.plugins, "load", lambda group, name: plain_forward_kl)
    assert "theirs" in divergence_makers(TINY)
    agreement = compared(divergence_case("theirs", TINY), PRECISIONS["fp32"], CPU)
    assert agreement.excess <= 1 and agreement.difference_error is not None


def test_distance_and_errors_are_those_worked_by_hand():
    found, expected = [torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 0.0], dtype=torch.double)]
    assert distance(found, expected) == pytest.approx(4 / 3)
    # 2 x is taken for x where it is not float64: value and slope are 100 % off.
    case = Case(
        "line",
        [torch.tensor([1.0])],
        [],
        lambda student, _: student[0].sum() * (1 if student[0].dtype == torch.double else 2),
    )
    agreement = compared(case, PRECISIONS["fp32"], CPU)
    assert (agreement.value_error, agreement.slope_error) == (1.0, 1.0)
    assert agreement.excess == pytest.approx(1000)
