"""The joule budget: what share of it is gone, and what cannot be kept to."""

from __future__ import annotations

import logging

import pytest

from kdwatts.metrics.quantity import MISSING_J, Quantity
from kdwatts.training.energy_budget import JouleBudget


class Drawn:
    """An energy that a test moves."""

    def __init__(self, energy_j: float | None) -> None:
        self.energy_j = energy_j

    def __call__(self) -> Quantity:
        return MISSING_J if self.energy_j is None else Quantity(self.energy_j, unit="J")


def test_the_share_is_of_what_loading_left():
    drawn = Drawn(200.0)
    budget = JouleBudget(1.0, drawn)
    assert (budget.start_j, budget.used()) == (200, 0)
    drawn.energy_j = 600.0
    # 400 of the 800 J that were left; of the whole 1,000 J it would be 0.6.
    assert budget.used() == 0.5
    drawn.energy_j = 1000.0
    assert budget.used() == 1


def test_a_resumed_run_counts_from_where_it_first_began():
    drawn = Drawn(700.0)
    assert JouleBudget(1.0, drawn, start_j=200.0).used() == 0.625
    assert JouleBudget(1.0, drawn).used() == 0


def test_an_attempt_that_drew_everything_leaves_nothing():
    assert JouleBudget(1.0, Drawn(1300.0), start_j=200.0).used() > 1


def test_a_device_that_falls_silent_leaves_the_share_where_it_was_and_says_so(
    caplog: pytest.LogCaptureFixture,
):
    drawn = Drawn(200.0)
    budget = JouleBudget(1.0, drawn)
    drawn.energy_j = 600.0
    budget.used()
    drawn.energy_j = None
    with caplog.at_level(logging.WARNING):
        assert [budget.used(), budget.used()] == [0.5, 0.5]
    assert [r.message for r in caplog.records] == [
        "distill: the energy is not known now; until it is again, training ends by "
        "training.target_tokens"
    ]
    # It answers again, and what it drew in between counts.
    drawn.energy_j = 1000.0
    assert budget.used() == 1.0


def test_a_budget_without_any_energy_is_refused_at_the_start():
    message = (
        r"training.budget_kj=2 needs .* nothing here measures or estimates it.*cpu_estimate=tdp, or"
    )
    with pytest.raises(RuntimeError, match=message):
        JouleBudget(2, Drawn(None))


def test_a_budget_that_loading_spent_is_refused():
    message = (
        r"training.budget_kj=0.5 is used up before the first step, since loading and "
        r"compiling drew 0.7 kJ; raise"
    )
    with pytest.raises(ValueError, match=message):
        JouleBudget(0.5, Drawn(700.0))
