"""Energy per token served, on a real tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdwatts.config.evaluation import InferenceGrid
from kdwatts.config.machine import Telemetry
from kdwatts.metrics.quantity import MISSING_J, Quantity
from kdwatts.records.files import read_jsonl
from kdwatts.serving.eager_loop import is_known_well, per_token, serving_costs
from kdwatts.telemetry.meter import Meter


def joules(*values: float) -> list[Quantity]:
    return [Quantity(value, unit="J") for value in values]


def test_equal_repeats_are_known_well_and_scattered_ones_are_not():
    assert is_known_well(joules(10, 10, 10), [10, 10, 10])
    assert not is_known_well(joules(10, 20, 30), [10, 10, 10])


def test_one_repeat_without_a_measurement_leaves_the_rate_missing():
    assert per_token([10.0, 20.0, None], [10, 10, 10]) == (None, None)
    assert is_known_well([*joules(10, 20), MISSING_J], [10, 10, 10])


def test_a_model_that_is_partly_elsewhere_is_refused(
    make_llama: Callable[..., Any], tmp_path: Path
):
    model = make_llama(vocab_size=32, num_hidden_layers=1)
    model.model.layers[0].to("meta")
    with (
        Meter(tmp_path, Telemetry(interval_s=0.1), use_gpus=False) as meter,
        pytest.raises(
            ValueError, match=r"weights lie on cpu and meta, .* a GPU that holds the whole model"
        ),
    ):
        serving_costs(
            model,
            lambda batch, length: torch.zeros(batch, length, dtype=torch.int64),
            InferenceGrid(),
            meter=meter,
            synchronize=lambda: None,
        )


@pytest.mark.parametrize("layer", ["lm_head", "model.embed_tokens"])
def test_a_model_that_serves_nan_is_refused_before_a_joule_is_counted(
    layer: str, make_llama: Callable[..., Any], tmp_path: Path
):
    """Of the embedding one token alone is damaged, which the prompt holds."""
    model = make_llama(vocab_size=32, num_hidden_layers=1)
    with torch.no_grad():
        model.get_submodule(layer).weight[3, 0] = torch.nan
    with (
        Meter(tmp_path, Telemetry(interval_s=0.1), use_gpus=False) as meter,
        pytest.raises(RuntimeError, match=r"inference: the teacher's logits are not finite"),
    ):
        serving_costs(
            model,
            lambda batch, length: torch.full((batch, length), 3),
            InferenceGrid(batch_sizes=[2], prompt_lengths=[8], new_lengths=[4]),
            meter=meter,
            synchronize=lambda: None,
            subject="teacher",
        )
    assert [row["window"] for row in read_jsonl(tmp_path / "stages.jsonl")] == ["run"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any]):
    """A grid of two new lengths: lengths of the cache in every call, and what each point cost."""
    model = make_llama(vocab_size=32, num_hidden_layers=1, max_position_embeddings=32)
    lengths: list[int] = []
    model.model.register_forward_hook(
        lambda module, inputs, output: lengths.append(output.past_key_values.get_seq_length())
    )
    grid = InferenceGrid(batch_sizes=[2], prompt_lengths=[8], new_lengths=[4, 2], max_repeats=3)
    grid.min_window_s = 0.5  # The settings refuse less than 2 s, which real serving needs.
    settings = Telemetry(cpu_estimate="tdp", interval_s=0.1)
    directory = tmp_path_factory.mktemp("serving")
    with Meter(directory, settings, use_gpus=False) as meter:
        costs = serving_costs(
            model,
            lambda batch, length: torch.randint(0, 32, (batch, length)),
            grid,
            meter=meter,
            synchronize=lambda: None,
        )
    return lengths, costs, [row["window"] for row in read_jsonl(directory / "stages.jsonl")]


def test_decoding_leaves_the_cache_as_prefill_made_it_and_counts_every_token(measured: Any):
    lengths, (cost, _), _ = measured
    assert set(lengths) == {8, 9, 10, 11, 12}
    assert cost.decode.tokens % 8 == 0 and cost.prefill.tokens % 16 == 0
    assert cost.decode.repeats == cost.prefill.repeats == 3
    assert cost.quality == "estimated"
    assert cost.prefill.j_per_token and cost.decode.j_per_token
    assert cost.decode.j_per_token > cost.prefill.j_per_token
    assert cost.total_j_per_token == pytest.approx(
        (8 * cost.prefill.j_per_token + 4 * cost.decode.j_per_token) / 12
    )
    assert cost.total_interval_95_j == pytest.approx(
        math.hypot(8 * cost.prefill.interval_95_j, 4 * cost.decode.interval_95_j) / 12
    )
    # Idle was not measured, so nothing is net.
    assert cost.net_total_j_per_token is None and cost.prefill.net_j_per_token is None


def test_a_prompt_length_is_prefilled_once_for_all_lengths_written_after_it(measured: Any):
    _, (first, second), windows = measured
    assert (first.new_tokens, second.new_tokens) == (4, 2)
    assert first.prefill == second.prefill
    assert windows.count("run/prefill_b2_p8") == 3
    assert windows.count("run/decode_b2_p8_n4") == windows.count("run/decode_b2_p8_n2") == 3


def test_latencies_are_those_of_a_step_and_of_a_first_token(measured: Any):
    _, (cost, _), _ = measured
    for phase, tokens_per_step in ((cost.prefill, 16), (cost.decode, 2)):
        assert 0 < phase.latency_p50_s <= phase.latency_p95_s
        # No half of all calls can take longer than all of them took. The others may be far longer,
        # and windows wait at their edges.
        mean_s = tokens_per_step / phase.tokens_per_s
        assert 0.1 * mean_s < phase.latency_p50_s < 2 * mean_s
