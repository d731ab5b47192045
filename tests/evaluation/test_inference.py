"""Energy per token served, on a real tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdwatts.evaluation.inference import _known_well, _mean_and_interval, serving_cost
from kdwatts.metrics import MISSING, Energy
from kdwatts.schema import InferenceGrid, Telemetry
from kdwatts.telemetry.meter import Meter


def joules(*values: float) -> list[Energy]:
    return [Energy(value, None, "measured") for value in values]


def test_the_interval_of_three_repeats_uses_students_t_of_two_degrees_of_freedom():
    """Rates 1, 2, 3 J/token: mean 2, sd 1, half width 4.303 / sqrt(3)."""
    mean, half_width = _mean_and_interval(joules(10, 20, 30), [10, 10, 10])
    assert mean == 2
    assert half_width == pytest.approx(4.303 / math.sqrt(3))


def test_equal_repeats_are_known_well_and_scattered_ones_are_not():
    assert _known_well(joules(10, 10, 10), [10, 10, 10])
    assert not _known_well(joules(10, 20, 30), [10, 10, 10])


def test_one_repeat_without_a_measurement_leaves_the_rate_missing():
    assert _mean_and_interval([*joules(10, 20), MISSING], [10, 10, 10]) == (None, None)


def test_decoding_leaves_the_cache_as_prefill_made_it_and_counts_every_token(
    tmp_path: Path, make_llama: Callable[..., Any]
):
    """Windows of 2 s are the shortest allowed; one of each phase is repeated three times."""
    model = make_llama(vocab_size=32, num_hidden_layers=1, max_position_embeddings=32)
    lengths: list[int] = []
    model.model.register_forward_hook(
        lambda module, inputs, output: lengths.append(output.past_key_values.get_seq_length())
    )
    grid = InferenceGrid(batch_size=2, prompt_tokens=8, new_tokens=4, max_repeats=3)
    settings = Telemetry(cpu_estimate="tdp", interval_s=0.1)
    with Meter(tmp_path, settings, use_gpus=False) as meter:
        cost = serving_cost(
            model,
            torch.randint(0, 32, (2, 8)),
            grid,
            meter=meter,
            synchronize=lambda: None,
        )
    assert set(lengths) == {8, 9, 10, 11, 12}
    assert cost.decode.tokens % 8 == 0 and cost.prefill.tokens % 16 == 0
    assert cost.decode.repeats == cost.prefill.repeats == 3
    assert cost.quality == "estimated"
    assert cost.prefill.j_per_token and cost.decode.j_per_token
    assert cost.decode.j_per_token > cost.prefill.j_per_token
    assert cost.total_j_per_token == pytest.approx(
        (8 * cost.prefill.j_per_token + 4 * cost.decode.j_per_token) / 12
    )
