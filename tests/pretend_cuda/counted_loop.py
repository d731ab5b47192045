"""The training loop, counted in one of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from kdwatts.training import loop
from tests.pretend_cuda.ledger import counted

COUNTED_STEP = 1
"""From 0. The step before it warms up. The one after it logs, and keeps the weights."""


class _Bar:
    """A progress bar whose loop is counted in `COUNTED_STEP`."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __iter__(self) -> Iterator[int]:
        for step in self._bar:
            with counted() if step == COUNTED_STEP else nullcontext():
                yield step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)


@contextmanager
def counting_a_step() -> Iterator[None]:
    """Count what the loop does in `COUNTED_STEP`, the fetching of its rows included."""
    real = loop.step_bar
    loop.step_bar = lambda run, first: _Bar(real(run, first))  # pyright: ignore
    try:
        yield
    finally:
        loop.step_bar = real
