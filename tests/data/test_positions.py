import numpy as np
import pytest

from kdwatts.data.positions import sampled_positions


def test_positions_are_distinct_ascending_and_never_the_first():
    found = sampled_positions(np.arange(50), sequence_length=16, count=15)
    assert found.tolist() == [list(range(1, 16))] * 50
    few = sampled_positions(np.arange(50), sequence_length=16, count=4)
    assert few.shape == (50, 4)
    assert (np.diff(few, axis=1) > 0).all() and few.min() >= 1 and few.max() <= 15


def test_a_row_has_the_same_positions_in_every_batch():
    together = sampled_positions(np.array([3, 7, 11]), sequence_length=64, count=8)
    alone = sampled_positions(np.array([7]), sequence_length=64, count=8)
    assert together[1].tolist() == alone[0].tolist()
    assert together[0].tolist() != together[1].tolist()


def test_more_positions_than_a_row_has_are_refused():
    with pytest.raises(ValueError, match="give 1 to 15"):
        sampled_positions(np.arange(2), sequence_length=16, count=16)
