"""How long prompts and answers are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdwatts.config.serving import Workload
from kdwatts.serving.load.lengths import lengths_of, lognormal


def test_a_lognormal_has_the_mean_and_the_95th_percentile_that_are_asked():
    found = lognormal("prompt_tokens", 100, 300)
    assert math.exp(found.mu + found.sigma**2 / 2) == pytest.approx(100)
    assert math.exp(found.mu + 1.6448536269514722 * found.sigma) == pytest.approx(300)
    # The other root, 2 x 1.645 less this one, would solve both equations, too.
    assert found.sigma == pytest.approx(0.93189, abs=1e-5)
    draw = np.random.default_rng(0)
    drawn = np.array([found.draw(draw) for _ in range(40_000)])
    assert drawn.mean() == pytest.approx(100, rel=0.03)
    assert np.quantile(drawn, 0.95) == pytest.approx(300, rel=0.03)
    assert drawn.min() >= 1


def test_without_a_percentile_every_length_is_the_mean():
    lengths = lengths_of(Workload(prompt_tokens=4097, output_tokens=3), max_positions=None)
    draw = np.random.default_rng(0)
    assert {lengths.draw(draw) for _ in range(100)} == {(4097, 3, False)}
    assert lengths.clipped_share(draws=100) == 0


def test_a_percentile_beyond_every_lognormal_is_refused_with_the_most_that_one_has():
    """exp(1.645^2 / 2) = 3.868 times the mean."""
    assert lognormal("prompt_tokens", 100, 386).sigma == pytest.approx(1.6, abs=0.05)
    with pytest.raises(
        ValueError, match=r"prompt_tokens_p95=387 is more .* prompt_tokens=100 .* at most 386"
    ):
        lognormal("prompt_tokens", 100, 387)


def test_means_beyond_the_context_are_refused_and_means_that_fill_it_are_not():
    workload = Workload(prompt_tokens=96, output_tokens=32)
    with pytest.raises(
        ValueError, match=r"prompt_tokens=96 and \S+output_tokens=32 together exceed .* of 127"
    ):
        lengths_of(workload, max_positions=127)
    assert lengths_of(workload, max_positions=128).draw(np.random.default_rng(0)) == (96, 32, False)


def test_long_draws_are_cut_to_the_context_and_their_share_is_known():
    workload = Workload(
        prompt_tokens=64, prompt_tokens_p95=128, output_tokens=32, output_tokens_p95=64
    )
    lengths = lengths_of(workload, max_positions=160)
    draw = np.random.default_rng(0)
    drawn = [lengths.draw(draw) for _ in range(10_000)]
    assert max(prompt + output for prompt, output, _ in drawn) == 160
    assert max(prompt for prompt, *_ in drawn) == 128
    assert min(output for _, output, _ in drawn) >= 1
    # 5 % of the prompts are above 128, and longer answers than their prompts leave come beside.
    assert 0.05 < lengths.clipped_share() < 0.1
    assert lengths.clipped_share() == pytest.approx(np.mean([cut for *_, cut in drawn]))


def test_no_prompt_is_longer_than_the_text_that_it_is_cut_from():
    workload = Workload(prompt_tokens=64, prompt_tokens_p95=128)
    lengths = lengths_of(workload, max_positions=None, text_tokens=130)
    draw = np.random.default_rng(0)
    assert max(lengths.draw(draw)[0] for _ in range(5000)) == 130
