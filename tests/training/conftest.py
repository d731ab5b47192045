"""The student and the teacher of `pair`, of a few thousand parameters each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.pair import llama


@pytest.fixture
def student() -> Any:
    return llama(0, vocabulary=70, width=16, num_layers=2, tied=True).train()


@pytest.fixture(scope="module")
def teacher() -> Any:
    """No test changes it."""
    return llama(1, vocabulary=64, width=24, num_layers=3, tied=False).eval()
