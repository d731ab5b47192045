"""What counts say: the interval of a share, and the ranks between which a percentile lies."""

from __future__ import annotations


def share_interval(
    successes: float, trials: float, *, confidence: float = 0.95
) -> tuple[float, float] | None:
    """The interval of a share, 0 to 1, from independent trials (Clopper and Pearson 1934).

    At most half of 1 - `confidence` lies beyond each end. So each end of an interval of 0.90 is a
    one-sided 95 % bound. None for no trials. Where trials are alike and count as fewer, the numbers
    are not whole (Korn and Graubard 1998, Survey Methodology 24:193).
    """
    if trials == 0:
        return None
    from scipy.special import betaincinv

    beyond = (1 - confidence) / 2
    failures = trials - successes
    low = float(betaincinv(successes, failures + 1, beyond)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - beyond)) if failures else 1.0
    return low, high


def percentile_ranks(
    count: int, share: float, *, confidence: float = 0.95
) -> tuple[int | None, int | None]:
    """Ranks, from 1, of the two ordered values between which a percentile lies.

    The number of `count` independent draws below the percentile is binomial, whatever they are
    drawn from (David and Nagaraja 2003, Order Statistics, section 7.1). Both ends leave out at most
    half of 1 - `confidence`. Where the largest draw leaves out more than half, but less than all of
    it, it is the upper end, and the lower end has the rest. Else there is no upper end: that takes
    299 draws for the 99th percentile, as 0.99^299 is below 0.05. None is no end.
    """
    if count == 0:
        return None, None
    from scipy.special import bdtr

    beyond = 1 - confidence
    above_all = share**count
    upper = None
    if above_all <= beyond / 2:
        upper = _least_rank(lambda rank: bdtr(rank - 1, count, share) >= 1 - beyond / 2, count)
        beyond_low = beyond / 2
    elif above_all <= beyond:
        upper, beyond_low = count, beyond - above_all
    else:
        beyond_low = beyond
    # The lower end is the greatest rank that at most `beyond_low` of all cases lie below.
    lower = _least_rank(lambda rank: bdtr(rank - 1, count, share) > beyond_low, count + 1) - 1
    return lower or None, upper


def _least_rank(is_enough, most: int) -> int:
    """The least rank from 1 to `most` for which a question that turns once is answered by yes."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low
