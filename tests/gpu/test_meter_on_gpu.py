"""The meter on a GPU: its counter is used, every second is covered, idling is measured first.

This process uses the GPU itself, so no other test of runs stands here: it would be their stranger.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kdwatts.config.evaluation import InferenceGrid
from kdwatts.config.machine import Telemetry
from kdwatts.doctor.instruments.known_load import Products
from kdwatts.doctor.instruments.load_windows import SETTLE_S
from kdwatts.serving.eager_loop import ServingCost, serving_costs
from kdwatts.stages.inference import synchronizer
from kdwatts.telemetry.meter import Meter
from tests.gpu.gpu import DEVICE, ON_GPU
from tests.training.pair import llama

pytestmark = [pytest.mark.gpu, ON_GPU]

IS_GPU = DEVICE.type == "cuda"
WINDOW_S = 4.0 if IS_GPU else 2.2
IDLE_S = 3.0 if IS_GPU else 1.0


@pytest.fixture(scope="module")
def meter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Meter]:
    """Entered before the GPU is used. A CPU's joules are estimated where they cannot be read."""
    settings = Telemetry(idle_s=IDLE_S, cpu_estimate="tdp")
    with Meter(tmp_path_factory.mktemp("meter"), settings) as entered:
        yield entered


@pytest.fixture(scope="module")
def rows(meter: Meter) -> dict[str, Any]:
    """Two windows: products without a pause, and none."""
    products = Products(DEVICE, size=4096 if IS_GPU else 256)
    products.begin()
    time.sleep(SETTLE_S)
    found = {}
    for name in ("busy", "quiet"):
        with meter.window(name) as window:
            time.sleep(WINDOW_S)
        assert window.row
        found[name] = window.row
        if name == "busy":
            products.end()
    products.close()
    return found


def test_the_joules_of_a_window_are_its_counter_s_and_agree_with_the_samples(rows: dict[str, Any]):
    if not IS_GPU:
        assert {row.quality["cpu"] for row in rows.values()} == {"estimated"}
        return
    for row in rows.values():
        assert (row.method["gpu"], row.quality["gpu"]) == ("nvml_counter", "measured")
        assert row.energy_j["gpu"] > 0
    busy = rows["busy"]
    # Flagged above 2 % in windows of 10 s, above 5 % in shorter ones.
    assert busy.energy_j["gpu"] == pytest.approx(busy.sampled_energy_j["gpu"], rel=0.05)


def test_the_samples_cover_a_window(rows: dict[str, Any]):
    for row in rows.values():
        part = "gpu" if IS_GPU else "cpu"
        assert 0.95 <= row.coverage[part] <= 1.0, row.reason


def test_a_busy_device_draws_more_than_a_quiet_one(rows: dict[str, Any]):
    part = "gpu" if IS_GPU else "cpu"
    busy, quiet = (rows[name].energy_j[part] / rows[name].duration_s for name in ("busy", "quiet"))
    assert busy > quiet if IS_GPU else busy >= quiet


def test_idle_power_is_known_before_the_device_is_used(meter: Meter, rows: dict[str, Any]):
    idle_w = meter.idle_power_w["gpu" if IS_GPU else "cpu"]
    busy = rows["busy"]
    if IS_GPU:
        assert idle_w is not None and 0 < idle_w < busy.energy_j["gpu"] / busy.duration_s
    else:
        assert idle_w is None or idle_w > 0


@pytest.fixture(scope="module")
def cost(meter: Meter) -> ServingCost:
    """Of one point of a grid, by the loop of the stage `inference`."""
    model = llama(0, vocabulary=1024, width=64, num_layers=2, tied=True).eval().to(DEVICE)
    grid = InferenceGrid(batch_sizes=[4], prompt_lengths=[32], new_lengths=[16], max_repeats=3)
    (found,) = serving_costs(
        model,
        lambda batch, length: torch.full((batch, length), 3, device=DEVICE),
        grid,
        meter=meter,
        synchronize=synchronizer(DEVICE),
    )
    return found


def test_serving_is_measured_in_joules_of_the_device(cost: ServingCost):
    assert cost.quality == ("measured" if IS_GPU else "estimated")
    for phase in (cost.prefill, cost.decode):
        assert phase.j_per_token and phase.j_per_token > 0
        assert phase.repeats >= 3 and phase.tokens_per_s > 0
    assert cost.prefill.j_per_token and cost.decode.j_per_token
    assert cost.decode.j_per_token > cost.prefill.j_per_token
