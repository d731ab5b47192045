"""The harness's results as our records."""

from __future__ import annotations

import math

import pytest

from kdwatts.config.evaluation import EvalTask
from kdwatts.evaluation.lm_eval import bits_per_byte_stderr


def sample(bits: float, size: int) -> dict:
    return {"bits_per_byte": (-bits * math.log(2), size)}


def test_documents_that_cost_the_same_per_byte_leave_no_doubt():
    assert bits_per_byte_stderr([sample(20, 10), sample(40, 20)]) == pytest.approx(0, abs=1e-9)


def test_the_standard_error_of_a_ratio_matches_a_sum_by_hand():
    """Bits 10 and 30 over 10 bytes each: R = 2, residuals -10 and 10, sqrt(200 / 2) / 10 = 1."""
    assert bits_per_byte_stderr([sample(10, 10), sample(30, 10)]) == pytest.approx(1.0)


def test_one_document_has_no_standard_error():
    assert bits_per_byte_stderr([sample(10, 10)]) is None


def test_a_shipped_task_has_a_name_that_may_stand_in_a_window():
    assert EvalTask("tiny:word_order", "acc").display_name == "tiny_word_order"
