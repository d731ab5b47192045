"""Hours and kWh of a plan, worked by hand from the GPU's figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.store import Store
from kdwatts.memory.budget import estimate
from kdwatts.memory.generation_budget import estimate_writing
from kdwatts.planning.demands import workload_of
from kdwatts.planning.roofline import Cost, costs_left, stage_costs, sweep_line, time_lines, total
from kdwatts.stages.graph import plan

Configure = Callable[..., Any]
LLAMA = ("model=llama31_8b_to_1b", "gpu=h100")
PARAMS = 1_235_814_400


def costs(config: Any) -> dict[str, Cost]:
    return stage_costs(config, estimate(workload_of(config)))


def test_a_cache_and_a_training_worked_by_hand(configure: Configure):
    config = configure(*LLAMA, "paradigm=response")
    budget, found = estimate(workload_of(config)), costs(config)
    assert list(found) == ["teacher", "distill"]
    # 989.4 TFLOP/s, and all of 700 W.
    least_h = budget.teacher_pflop * 1e3 / 989.4 / 3600
    assert found["teacher"].hours == pytest.approx((least_h, 2 * least_h, 3 * least_h))
    assert found["teacher"].kwh == pytest.approx((0.7 * least_h, 1.4 * least_h, 2.1 * least_h))
    # 1,525.9 steps of 65,536 tokens each move 28 bytes a parameter at 3,350 GB/s.
    moved_h = 1e8 / 65_536 * 28 * PARAMS / 3.35e12 / 3600
    computed_h = budget.train_pflop * 1e3 / 989.4 / 3600
    assert found["distill"].hours[1] == pytest.approx(2 * computed_h + moved_h)


def test_float32_is_as_fast_as_the_gpu_is_outside_its_tensor_cores(configure: Configure):
    fast, slow = (
        costs(configure(*LLAMA, "paradigm=response", f"training.precision={precision}"))
        for precision in ("bf16", "fp32")
    )
    assert slow["teacher"].hours[0] / fast["teacher"].hours[0] == pytest.approx(989.4 / 66.9)


def test_nothing_switches_tf32_on():
    package = Path(__file__).parents[2] / "kdwatts"
    for path in package.rglob("*.py"):
        assert not {"allow_tf32", "set_float32_matmul_precision", "fp32_precision"} & set(
            path.read_text().replace("(", " ").replace(".", " ").split()
        ), path


def test_writing_reads_all_weights_for_every_token_of_a_batch(configure: Configure):
    config = configure(*LLAMA, "paradigm=sequence", "paradigm.generate.batch_size=1")
    writing = estimate_writing(workload_of(config))
    assert writing
    # One text at a time: 65,147 times 1,535 readings of 8.03 billion weights in two bytes, and of
    # 128 KiB for each of the 512 + 1,535 / 2 tokens there are on average.
    step = 8_030_261_248 * 2 + (512 + 1535 / 2) * 128 * 1024
    moved_h = 65_147 * 1535 * step / 3.35e12 / 3600
    read_h = writing.pflop * 512 / 2047 * 1e3 / 989.4 / 3600
    assert costs(config)["generate"].hours[0] == pytest.approx(moved_h + read_h)
    # 64 at a time share the reading: what is left is 64 times less, but for keys and values.
    many = costs(configure(*LLAMA, "paradigm=sequence"))["generate"].hours[0]
    assert 1 / 64 < many / costs(config)["generate"].hours[0] < 1 / 20


def test_a_student_that_writes_pays_for_it_in_its_training(configure: Configure):
    config = configure(*LLAMA, "paradigm=on_policy")
    assert list(costs(config)) == ["distill"]
    silent = configure(*LLAMA, "paradigm=response", "paradigm.teacher=online")
    assert costs(config)["distill"].hours[0] > costs(silent)["distill"].hours[0]


def test_ranks_share_the_hours_and_not_the_energy(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
):
    alone = costs(configure(*LLAMA, "paradigm=response"))["teacher"]
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    config = configure(*LLAMA, "paradigm=response")
    shared = costs(config)["teacher"]
    assert shared.hours == pytest.approx([hours / 4 for hours in alone.hours])
    assert shared.kwh == pytest.approx(alone.kwh)
    assert time_lines(config, {("teacher", "0"): shared})[0].startswith("expected on 4 GPUs: ")
    # What a teacher writes, the first rank writes alone.
    assert costs(configure(*LLAMA, "paradigm=sequence"))["generate"].hours[0] > 3


def test_what_the_store_holds_costs_nothing(configure: Configure, tmp_path: Path):
    config = configure("gpu=h100", "paradigm=response")
    stages, store = plan(config, []), Store(tmp_path)
    missing = costs_left(config, stages, store)
    assert {stage for stage, _ in missing} == {"teacher", "distill"}
    (key,) = [planned.key for planned in stages if planned.name == "teacher"]
    with store.claim("teacher", key) as claim:
        claim.commit()
    left = costs_left(config, stages, store)
    assert {stage for stage, _ in left} == {"distill"}
    assert total(left.values()).hours[0] < total(missing.values()).hours[0]
    assert time_lines(config, {}) == ["expected: no time, the student is in the store already"]


def test_a_sweep_pays_for_a_shared_cache_once(configure: Configure, tmp_path: Path):
    left: dict[tuple[str, str], Cost] = {}
    for seed in range(3):
        config = configure(*LLAMA, "paradigm=response", f"training.seed={seed}", "eval=none")
        left |= costs_left(config, plan(config, []), Store(tmp_path)) or {}
    one = costs(configure(*LLAMA, "paradigm=response"))
    assert sorted(stage for stage, _ in left) == ["distill"] * 3 + ["teacher"]
    hours = one["teacher"].hours[1] + 3 * one["distill"].hours[1]
    assert total(left.values()).hours[1] == pytest.approx(hours)
    assert sweep_line(left, 3).startswith(
        f"all 3 runs together, shared stages counted once: {hours:,.2f} to "
    )


def test_without_the_gpu_s_figures_nothing_is_expected(configure: Configure, tmp_path: Path):
    config = configure("gpu=cpu")
    assert costs(config) == {}
    left = costs_left(config, plan(config, []), Store(tmp_path))
    assert left is None
    assert time_lines(config, left) == []


def test_hours_are_told_to_two_decimals_and_small_ones_to_two_digits():
    told = Cost((0.0123456, 1.5, 1234.567), (0.00099, 0.1, 2.0)).in_words()
    assert told == "1.50 to 1,234.57 h, 0.10 to 2.00 kWh; at least 0.012 h, 0.00099 kWh"
