"""Plans that reckon with what the doctor measured, and with the data sheet where it did not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.store import Store
from kdwatts.config.device_choices import SAVED_SHARE
from kdwatts.memory.budget import estimate
from kdwatts.planning.demands import workload_of
from kdwatts.planning.describe import describe
from kdwatts.planning.measured_rates import BESIDE_STEPS, REACHED, rates_of, sheet_rates
from kdwatts.planning.roofline import Cost, serving_lines, stage_costs, time_lines, total
from kdwatts.planning.serving_words import estimate_lines
from kdwatts.records.doctor_record import DoctorRecord, Verdict, record_path
from kdwatts.records.files import write_json
from kdwatts.stages.graph import plan

Configure = Callable[..., Any]
LLAMA = ("model=llama31_8b_to_1b", "gpu=h100", "training.compile=false")
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"
HERE = socket.gethostname()

FIGURES = {
    "products_bf16": (612.0, 600.0, 624.0, "TFLOP/s"),
    "products_fp32": (51.0, 50.0, 52.0, "TFLOP/s"),
    "memory_bandwidth": (2950.0, 2940.0, 2960.0, "GB/s"),
    "step_share_of_products": (0.41, 0.4, 0.42, "1"),
}


def keep(
    store: Path,
    *,
    host: str = "node7",
    gpu: str | None = H100,
    uuid: str | None = "GPU-1",
    pair: str = "llama31_8b_to_1b",
    day: str = "2026-12-01",
    wrong: str = "",
    **figures: tuple[float, float, float, str],
) -> Path:
    """The file of a doctor's record in a store, with these figures in place of the usual ones."""
    verdicts = [
        Verdict(name, "wrong" if name == wrong else "right", "found", value=value, low=low,
                high=high, unit=unit)
        for name, (value, low, high, unit) in (FIGURES | figures).items()
    ]  # fmt: skip
    path = record_path(store, host, uuid)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = DoctorRecord(
        f"{day}T12:00:00+00:00", host, uuid, gpu, "EPYC", pair, 5, 290, "1", verdicts=verdicts
    )
    write_json(path, record)
    return path


def costs(config: Any, store: Path) -> dict[str, Cost]:
    return stage_costs(config, estimate(workload_of(config)), rates_of(config, store))


def plan_text(config: Any, store: Path) -> str:
    """The plan as `until=plan` prints it, where nothing is in the store but the doctor's record."""
    return describe(config, plan(config, []), Store(store), [])


def test_hours_are_those_of_the_measured_rate_and_of_the_step_that_reached_a_share(
    configure: Configure, tmp_path: Path
):
    keep(tmp_path)
    config = configure(*LLAMA, "paradigm=response")
    budget, found = estimate(workload_of(config)), costs(config, tmp_path)
    least_h = budget.teacher_pflop * 1e3 / 612 / 3600
    # The step reached 0.40 to 0.42; 15 % of the slower end come on top.
    slow = 0.40 / (1 + BESIDE_STEPS)
    assert found["teacher"].hours == pytest.approx((least_h, least_h / 0.42, least_h / slow))
    assert found["teacher"].kwh == pytest.approx([0.7 * hours for hours in found["teacher"].hours])
    # The least of a training moves the optimizer's 28 bytes a parameter at the measured bandwidth.
    moved_h = 1e8 / 65_536 * 28 * 1_235_814_400 / 2.95e12 / 3600
    computed_h = budget.train_pflop * 1e3 / 612 / 3600
    assert found["distill"].hours[0] == pytest.approx(computed_h + moved_h)
    # The share is of whole steps, the optimizer's part included, so it is not added again.
    assert found["distill"].hours[1] == pytest.approx(computed_h / 0.42)


def test_the_plan_says_where_its_rates_were_measured(configure: Configure, tmp_path: Path):
    config = configure(*LLAMA, "paradigm=response", "store_dir=" + str(tmp_path))
    of_sheet = plan_text(config, tmp_path)
    assert "  (at a third to a half of 989.4 TFLOP/s in bf16, and at 700 W)\n" in of_sheet
    assert "measured" not in of_sheet
    keep(tmp_path)
    text = plan_text(config, tmp_path)
    assert (
        "  (at 612 TFLOP/s in bf16 and 2,950 GB/s, measured on node7 2026-12-01; the step reached "
        "0.41 of that; at 700 W)\n"
    ) in text
    assert "(memory read at 2,950 GB/s, measured on node7 2026-12-01)" in text
    # Nothing but times and their reasons is another.
    lines = [line for line in text.split("\n") if "measured" not in line and " h, " not in line]
    assert set(lines) <= set(of_sheet.split("\n"))


def test_of_another_pair_the_step_says_nothing_and_the_rates_count(
    configure: Configure, tmp_path: Path
):
    keep(tmp_path, pair="qwen25_7b_to_1b5")
    config = configure(*LLAMA, "paradigm=response")
    rates = rates_of(config, tmp_path)
    assert (rates.tflops, rates.reached, rates.step_share) == (612.0, REACHED, None)
    found = costs(config, tmp_path)
    assert found["teacher"].hours[1] == pytest.approx(2 * found["teacher"].hours[0])
    (line,) = [one for one in time_lines(config, {("teacher", "0"): found["teacher"]}, rates)[1:2]]
    assert line == (
        "  (at a third to a half of 612 TFLOP/s in bf16 and 2,950 GB/s, measured on node7 "
        "2026-12-01; at 700 W)"
    )


def test_this_host_comes_before_a_newer_record_of_another(configure: Configure, tmp_path: Path):
    config = configure(*LLAMA)
    keep(tmp_path, host="node7", day="2026-12-01")
    keep(tmp_path, host="node8", day="2026-12-03", products_bf16=(700.0, 1, 999, "TFLOP/s"))
    assert rates_of(config, tmp_path).measured == "on node8 2026-12-03"
    keep(tmp_path, host=HERE, uuid="GPU-2", day="2026-01-01")
    assert rates_of(config, tmp_path).measured == f"on {HERE} 2026-01-01"


def test_another_product_is_no_measurement_of_this_one(configure: Configure, tmp_path: Path):
    keep(tmp_path, gpu=A100)
    keep(tmp_path, gpu=None, uuid=None, host=HERE)
    for config in (configure(*LLAMA), configure("gpu=l40s")):
        assert rates_of(config, tmp_path) == sheet_rates(config)
    assert rates_of(configure(LLAMA[0], "gpu=a100_80"), tmp_path).tflops == 612


def test_training_in_float32_takes_the_rate_of_float32(configure: Configure, tmp_path: Path):
    keep(tmp_path)
    assert rates_of(configure(*LLAMA, "training.precision=fp32"), tmp_path).tflops == 51


@pytest.mark.parametrize("bytes_", [b"", b"{", b"[]", b'{"verdicts": [{"nam": 1}]}', b"\xff\xfe"])
def test_a_broken_file_is_passed_over(configure: Configure, tmp_path: Path, bytes_: bytes):
    config = configure(*LLAMA)
    keep(tmp_path, host="node8", uuid="GPU-9", day="2026-12-09").write_bytes(bytes_)
    assert rates_of(config, tmp_path) == sheet_rates(config)
    keep(tmp_path)
    assert rates_of(config, tmp_path).measured == "on node7 2026-12-01"


def test_a_figure_that_is_wrong_is_not_used(configure: Configure, tmp_path: Path):
    config = configure(*LLAMA)
    keep(tmp_path, wrong="products_bf16")
    assert rates_of(config, tmp_path) == sheet_rates(config)
    keep(tmp_path, wrong="memory_bandwidth")
    rates = rates_of(config, tmp_path)
    assert (rates.tflops, rates.bandwidth_gb_s, rates.num_measured) == (612, 3350, 1)
    text = plan_text(config, tmp_path)
    assert "(at 612 TFLOP/s in bf16, measured on node7 2026-12-01; the step reached" in text
    assert "; memory at 3,350 GB/s of the data sheet; at 700 W)" in text
    assert "(memory read at 3,350 GB/s)" in text
    keep(tmp_path, wrong="step_share_of_products")
    assert rates_of(config, tmp_path).reached == REACHED


@pytest.mark.parametrize(
    "figure", [(0.0, 0, 0, "TFLOP/s"), ("612", 0, 0, "TFLOP/s"), (612.0, 0, 0, "GFLOP/s")]
)
def test_a_figure_that_is_no_rate_is_not_used(configure: Configure, tmp_path: Path, figure: Any):
    keep(tmp_path, products_bf16=figure)
    config = configure(*LLAMA)
    assert rates_of(config, tmp_path) == sheet_rates(config)


def test_a_run_that_is_compiled_may_be_as_much_faster_as_compiling_saves(
    configure: Configure, tmp_path: Path
):
    keep(tmp_path)
    plain, compiled = (
        rates_of(configure(*LLAMA[:2], f"training.compile={value}"), tmp_path).reached
        for value in ("false", "true")
    )
    assert plain[0] == 0.42
    assert compiled[0] == pytest.approx(0.42 / (1 - SAVED_SHARE))
    assert compiled[1] == plain[1]


def test_no_hours_are_below_the_least(configure: Configure, tmp_path: Path):
    keep(tmp_path, step_share_of_products=(1.3, 1.2, 1.4, "1"))
    for cost in costs(configure(*LLAMA, "paradigm=response"), tmp_path).values():
        assert cost.hours[0] <= cost.hours[1] <= cost.hours[2]


def test_a_cpu_that_was_measured_has_hours_and_no_kwh(configure: Configure, tmp_path: Path):
    config = configure("gpu=cpu", "paradigm=response")
    keep(tmp_path, host="node7", gpu=None, uuid=None, pair="tiny")
    assert costs(config, tmp_path) == {}
    assert "expected" not in plan_text(config, tmp_path)
    keep(tmp_path, host=HERE, gpu=None, uuid=None, pair="tiny", products_fp32=(0.1, 0.09, 0.11,
         "TFLOP/s"), memory_bandwidth=(20.0, 19.0, 21.0, "GB/s"))  # fmt: skip
    found = costs(config, tmp_path)
    assert all(cost.kwh is None for cost in found.values())
    pflop = estimate(workload_of(config)).teacher_pflop
    assert found["teacher"].hours[0] == pytest.approx(pflop * 1e3 / 0.1 / 3600)
    lines = time_lines(config, {("x", ""): found["teacher"]}, rates_of(config, tmp_path))
    assert lines[0].startswith("expected on this CPU: ") and "kWh" not in lines[0]
    assert lines[1] == (
        f"  (at 0.1 TFLOP/s in fp32 and 20 GB/s, measured on {HERE} 2026-12-01; the step reached "
        "0.41 of that; the rated power is not known)"
    )


def test_ranks_on_one_cpu_do_not_share_the_hours(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keep(tmp_path, host=HERE, gpu=None, uuid=None, pair="tiny")
    config = configure("gpu=cpu", "paradigm=response")
    alone = costs(config, tmp_path)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert costs(config, tmp_path) == alone


def test_a_sum_has_kwh_only_where_every_part_has():
    with_kwh, without = Cost((1, 2, 3), (0.1, 0.2, 0.3)), Cost((1, 1, 1), None)
    assert total([with_kwh, with_kwh]).kwh == pytest.approx((0.2, 0.4, 0.6))
    assert total([with_kwh, without]) == Cost((2, 3, 4), None)
    assert total([without]).in_words() == "1.00 to 1.00 h; at least 1.00 h"


def test_a_decoding_step_reads_at_the_measured_rate(configure: Configure, tmp_path: Path):
    config = configure(*LLAMA)
    budget = estimate(workload_of(config))
    (of_sheet,) = serving_lines(config, budget)
    keep(tmp_path)
    (measured,) = serving_lines(config, budget, rates_of(config, tmp_path))
    fast, slow = (
        float(line.split("student ")[1].split(" ")[0].replace(",", ""))
        for line in (of_sheet, measured)
    )
    assert slow / fast == pytest.approx(2950 / 3350, rel=0.002)


def test_serving_on_a_measured_device_reaches_what_was_measured_and_no_more(
    configure: Configure, tmp_path: Path
):
    urls = [f"eval.serving.url.{one}=http://127.0.0.1:1/{one}" for one in ("student", "teacher")]
    asked = ("eval.serving.engine=url", *urls, "eval.serving.concurrency=[1]")
    config = configure(*LLAMA, *asked)
    keep(tmp_path)
    lines = estimate_lines(config, rates_of(config, tmp_path))
    (ends,) = [line for line in lines if "the two ends" in line]
    assert ends == (
        "  the two ends: memory at 56 to 100 % of what was measured on node7 2026-12-01 and "
        "products at 42 to 100 %, one after the other or both at once"
    )
    keep(tmp_path, wrong="memory_bandwidth")
    lines = estimate_lines(config, rates_of(config, tmp_path))
    (ends,) = [line for line in lines if "the two ends" in line]
    assert ends == (
        "  the two ends: memory at 50 to 90 % of its peak and products at 42 to 100 % of what was "
        "measured on node7 2026-12-01, one after the other or both at once"
    )


def test_a_measured_cpu_can_be_estimated_under_load(configure: Configure, tmp_path: Path):
    config = configure("gpu=cpu", "eval=tiny", "eval.serving.engine=transformers")
    (line,) = estimate_lines(config, rates_of(config, tmp_path))
    assert "does not state" in line
    keep(tmp_path, host=HERE, gpu=None, uuid=None, pair="tiny")
    assert len(estimate_lines(config, rates_of(config, tmp_path))) > 5
