"""Attention of rows and of documents that is wrong is found, each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kdwatts.doctor.numbers.attention_in_float64 import examine_attention, small_model
from kdwatts.models import row_attention
from kdwatts.models.row_attention import attend_by_rows

CPU = torch.device("cpu")


@pytest.fixture
def wrong_for_plain_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attention over plain rows is 2 % too strong in float32."""
    right = row_attention._attend

    def wrong(module: Any, query: Any, key: Any, value: Any, mask: Any, **settings: Any) -> Any:
        output, weights = right(module, query, key, value, mask, **settings)
        is_plain = mask is not None and mask.shape[-1] == 0
        return (1.02 * output if is_plain and output.dtype == torch.float32 else output), weights

    with monkeypatch.context() as patch:
        patch.setattr(row_attention, "_attend", wrong)
        yield
    attend_by_rows(small_model())  # Registers the right one again.


def test_the_attention_of_a_cpu_is_right():
    verdicts = {one.name: one for one in examine_attention(CPU, 1e6)}
    assert list(verdicts) == ["attention_rows", "attention_documents"]
    assert all(one.verdict == "right" for one in verdicts.values()), verdicts


def test_attention_that_is_2_percent_off_is_found_where_it_is(wrong_for_plain_rows: None):
    rows, documents = examine_attention(CPU, 1e6)
    assert rows.verdict == "wrong"
    assert "are wrong: fp32 (value" in rows.found
    assert documents.verdict == "right"
