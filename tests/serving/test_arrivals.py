"""When requests of an open loop come."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from kdwatts.serving.load.arrivals import arrival_times
from kdwatts.serving.load.requests import Load


def gaps(load: Load, count: int = 40_000, seed: int = 7) -> np.ndarray:
    return np.diff([0.0, *islice(arrival_times(load, seed=seed), count)])


@pytest.mark.parametrize(
    ("kind", "burstiness", "squared_variation"),
    [("poisson", 1.0, 1.0), ("gamma", 0.25, 4.0), ("gamma", 4.0, 0.25)],
)
def test_gaps_have_the_mean_of_the_rate_and_the_spread_of_their_shape(
    kind: str, burstiness: float, squared_variation: float
):
    """Variance over squared mean: 1 of exponential gaps, 1/k of gamma gaps of shape k."""
    found = gaps(Load(kind, 5.0, burstiness))
    error = np.sqrt(squared_variation / len(found))
    assert found.mean() == pytest.approx(0.2, rel=4 * error)
    assert found.var() / found.mean() ** 2 == pytest.approx(squared_variation, rel=0.1)
    assert (found >= 0).all()


def test_constant_gaps_are_equal_and_their_errors_do_not_add_up():
    times = list(islice(arrival_times(Load("constant", 3.0), seed=0), 30_000))
    assert times[:3] == [1 / 3, 2 / 3, 1.0]
    assert times[-1] == 10_000.0


def test_a_gamma_of_shape_1_has_the_share_of_long_gaps_that_exponential_ones_have():
    found = gaps(Load("gamma", 1.0, 1.0))
    assert (found > 1).mean() == pytest.approx(np.exp(-1), abs=0.01)


def test_equal_seeds_give_equal_times_and_others_give_others():
    load = Load("poisson", 2.0)
    assert (gaps(load, 3000, seed=1) == gaps(load, 3000, seed=1)).all()
    assert (gaps(load, 3000, seed=1) != gaps(load, 3000, seed=2)).all()


def test_twice_the_rate_is_the_same_order_of_gaps_at_half_the_length():
    slow, fast = gaps(Load("poisson", 1.0), 2000), gaps(Load("poisson", 2.0), 2000)
    assert slow == pytest.approx(2 * fast)


def test_a_closed_loop_has_no_arrival_times():
    with pytest.raises(ValueError, match=r"a closed load has no arrival times; ask for one of"):
        arrival_times(Load("closed", 4), seed=0)
