"""The fused kernel beside the plain form and float64, on the CPU, by Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdwatts.losses import fused_kinds as kinds
from kdwatts.losses.fused_plan import plan_of
from kdwatts.losses.response import dense_term
from kdwatts.losses.sparse import cross_entropy_term, top_k_of, top_k_term
from kdwatts.losses.universal import universal_term

TARGET = torch.tensor([0, 1])


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed; its wheels are for Linux",
)
def test_the_kernel_computes_what_the_plain_form_does_in_float64():
    names = "interpreted_rows.py", "interpreted_trial.py"
    tests = [str(Path(__file__).with_name(name)) for name in names]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    run = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def weights(terms: dict) -> dict[str, float]:
    return dict.fromkeys(terms, 1.0)


def test_the_kernel_takes_a_divergence_and_cross_entropy_at_two_temperatures():
    terms = {"ce": cross_entropy_term(TARGET), "kd": dense_term("jsd", temperature=2.0)}
    plan = plan_of(terms, weights(terms))
    assert plan and plan.is_dense
    assert (plan.kind, plan.temperature, plan.other_temperature) == (kinds.JSD, 2.0, 1.0)


def test_what_the_kernel_does_not_know_is_left_to_the_plain_form():
    top_k = top_k_term(top_k_of(torch.eye(2, 5), k=2), temperature=1.0)
    unknown = [
        {"kd": universal_term()},
        {"kd": lambda block, weight: block.student(1.0).log_total_n},
        {"kd": dense_term("forward_kl"), "more": top_k},
        {
            "ce": cross_entropy_term(TARGET),
            "one": dense_term("forward_kl", temperature=2.0),
            "two": dense_term("forward_kl", temperature=3.0),
        },
        {},
    ]
    assert [plan_of(terms, weights(terms)) for terms in unknown] == [None] * 5


# Data sheet of the H100 SXM: bfloat16 without sparsity, and memory.
FLOP_PER_S, BYTES_PER_S = 989e12, 3.35e12


@pytest.mark.parametrize("divergence", kinds.KINDS)
@pytest.mark.parametrize("widths", [(2048, 4096), (4096, 4096)], ids=["8b_to_1b", "equal"])
def test_passes_over_logits_take_at_most_a_fifth_of_the_products_of_a_head(
    divergence: str, widths: tuple[int, int]
):
    student_width, teacher_width = widths
    passes_s = kinds.bytes_per_logit(kinds.KINDS[divergence], vocabulary=128_256) / BYTES_PER_S
    products_s = (
        kinds.product_flop_per_logit(student_width=student_width, teacher_width=teacher_width)
        / FLOP_PER_S
    )
    assert passes_s <= products_s / 5


@pytest.mark.parametrize("kind", [kinds.NONE, kinds.TOP_K])
def test_a_head_whose_teacher_names_tokens_stays_below_that_fifth_too(kind: int):
    passes_s = kinds.bytes_per_logit(kind, vocabulary=128_256) / BYTES_PER_S
    assert passes_s <= kinds.product_flop_per_logit(student_width=2048) / FLOP_PER_S / 5


def test_bytes_of_a_logit_by_hand():
    # Four blocks a row. Forward KL: both sides twice, of which a quarter once; one write.
    width = 4 * kinds.BLOCK
    assert kinds.bytes_per_logit(kinds.FORWARD_KL, vocabulary=width) == 2 * (2 * 1.75 + 1)
    # Jensen-Shannon: three times, two quarters fewer.
    assert kinds.bytes_per_logit(kinds.JSD, vocabulary=width) == 2 * (2 * 2.5 + 1)
    assert kinds.bytes_per_logit(kinds.TOP_K, vocabulary=width, value_bytes=4) == 4 * (1.75 + 1)
