"""Plans that reckon with what the doctor measured, and with the data sheet where it did not."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.store import Store
from kdwatts.config.device_choices import SAVED_SHARE
from kdwatts.memory.budget import estimate
from kdwatts.planning import measured_rates
from kdwatts.planning.demands import workload_of
from kdwatts.planning.describe import describe
from kdwatts.planning.measured_rates import BESIDE_STEPS, REACHED, rates_of, sheet_rates
from kdwatts.planning.roofline import Cost, serving_lines, stage_costs, time_lines, total
from kdwatts.planning.serving_words import estimate_lines
from kdwatts.records.doctor_record import DoctorRecord, Verdict, record_path
from kdwatts.records.files import write_json
from kdwatts.stages.graph import plan
from kdwatts.telemetry.nvml import Device

Configure = Callable[..., Any]
LLAMA = ("model=llama31_8b_to_1b", "gpu=h100", "training.compile=false")
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"
HERE = socket.gethostname()

FIGURES = {
    "products_bf16": (612.0, 600.0, 624.0, "TFLOP/s"),
    "products_fp32": (51.0, 50.0, 52.0, "TFLOP/s"),
    "memory_bandwidth": (2950.0, 2940.0, 2960.0, "GB/s"),
    # The step came when the machine was slower.
    "step_products": (500.0, 490.0, 510.0, "TFLOP/s"),
    "step_share_of_products": (0.41, 0.4, 0.42, "1"),
}
STEP = {
    "model": "llama31_8b_to_1b",
    "student_blocks": 16,
    "quantization": None,
    "precision": "bf16",
    "micro_batch": 8,
    "sequence_length": 2048,
    "gradient_checkpointing": True,
    "lora": False,
    "parallel": "ddp",
    "teacher_parallel": "ddp",
    "ranks": 1,
    "paradigm": "response",
    "teacher": "cached",
    "accumulation": 2,
    "compile": False,
}
TINY_STEP = STEP | {
    "model": "tiny",
    "student_blocks": 2,
    "precision": "fp32",
    "micro_batch": 16,
    "sequence_length": 128,
    "gradient_checkpointing": False,
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
    step: dict[str, Any] | None = STEP,
    **figures: Any,
) -> Path:
    """The file of a doctor's record in a store, with these figures in place of the usual ones."""
    verdicts = [
        Verdict(name, "wrong" if name == wrong else "right", "found", value=value, low=low,
                high=high, unit=unit, conditions=step if "share" in name else None)
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


def costs_by_stage(config: Any, store: Path) -> dict[tuple[str, str], Cost]:
    return {(stage, ""): cost for stage, cost in costs(config, store).items()}


def plan_text(config: Any, store: Path) -> str:
    """The plan as `until=plan` prints it, where nothing is in the store but the doctor's record."""
    return describe(config, plan(config, []), Store(store), [])


def test_hours_are_those_of_the_measured_rate_and_of_the_step_that_reached_a_share(
    configure: Configure, tmp_path: Path
):
    keep(tmp_path)
    config = configure(*LLAMA, "paradigm=response")
    budget, found = estimate(workload_of(config)), costs(config, tmp_path)
    # Products reached 612 TFLOP/s once, and 500 beside the step: both are of that time.
    least_h = budget.teacher_pflop * 1e3 / 500 / 3600
    # The step reached 0.40 to 0.42; 15 % of the slower end come on top.
    slow = 0.40 / (1 + BESIDE_STEPS)
    assert found["teacher"].hours == pytest.approx((least_h, least_h / 0.42, least_h / slow))
    assert found["teacher"].kwh == pytest.approx([0.7 * hours for hours in found["teacher"].hours])
    # The least of a training moves the optimizer's 28 bytes a parameter at the measured bandwidth.
    moved_h = 1e8 / 65_536 * 28 * 1_235_814_400 / 2.95e12 / 3600
    computed_h = budget.train_pflop * 1e3 / 500 / 3600
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
        "  (at 500 TFLOP/s in bf16 and 2,950 GB/s, measured on node7 2026-12-01; the step reached "
        "0.41 of that; at 700 W)\n"
    ) in text
    assert "(memory read at 2,950 GB/s, measured on node7 2026-12-01)" in text
    # Nothing but times and their reasons is another.
    lines = [line for line in text.split("\n") if "measured" not in line and " h, " not in line]
    assert set(lines) <= set(of_sheet.split("\n"))


@pytest.mark.parametrize(
    "step, words, why",
    [
        ({"model": "qwen25_7b_to_1b5"}, (), "model qwen25_7b_to_1b5, not llama31_8b_to_1b"),
        ({}, ("training.micro_batch=4",), "micro_batch 8, not 4"),
        ({"student_blocks": 7}, (), "student_blocks 7, not 16"),
        ({}, ("training.gradient_checkpointing=false",), "gradient_checkpointing true, not false"),
        ({}, ("training=lora",), "lora false, not true"),
        ({}, ("training.parallel=fsdp",), "parallel ddp, not fsdp"),
        (
            {},
            ("model.teacher.quantization=int4", "paradigm.teacher=online"),
            "quantization null, not int4",
        ),
        ({"ranks": [1]}, (), "ranks [1], not 1"),
    ],
)
def test_a_step_of_other_settings_says_nothing_and_the_rates_count(
    configure: Configure, tmp_path: Path, step: dict[str, Any], words: tuple[str, ...], why: str
):
    keep(tmp_path, step=STEP | step)
    config = configure(*LLAMA, "paradigm=response", *words)
    rates = rates_of(config, tmp_path)
    assert (rates.tflops, rates.reached, rates.step_share) == (612.0, REACHED, None)
    assert rates.step is not None and why in rates.step
    found = costs(config, tmp_path)
    assert found["distill"].hours[1] > found["distill"].hours[0]
    line = time_lines(config, {("distill", "0"): found["distill"]}, rates)[1]
    assert line == (
        "  (at a third to a half of 612 TFLOP/s in bf16 and 2,950 GB/s, measured on node7 "
        f"2026-12-01; {rates.step}; at 700 W)"
    )


def test_a_step_of_the_other_precision_does_not_count(configure: Configure, tmp_path: Path):
    keep(tmp_path)
    rates = rates_of(configure(*LLAMA, "training.precision=fp32"), tmp_path)
    assert (rates.tflops, rates.step_share) == (51, None)
    assert rates.step == "the step there is another one (precision bf16, not fp32)"


def test_several_ranks_wait_for_each_other_which_one_gpu_does_not(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keep(tmp_path)
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    rates = rates_of(configure(*LLAMA), tmp_path)
    assert rates.step == "the step there is another one (ranks 1, not 4)"


def test_a_record_that_names_no_step_gives_no_share(configure: Configure, tmp_path: Path):
    keep(tmp_path, step=None)
    rates = rates_of(configure(*LLAMA), tmp_path)
    assert (rates.tflops, rates.step_share) == (612.0, None)
    assert rates.step == "its record does not say of which step"


def test_the_step_of_another_paradigm_counts_and_is_named(configure: Configure, tmp_path: Path):
    keep(tmp_path)
    for paradigm in ("feature", "sft", "on_policy"):
        config = configure(*LLAMA, f"paradigm={paradigm}")
        rates = rates_of(config, tmp_path)
        assert rates.step_share == 0.41
        (_, line, *_) = time_lines(config, costs_by_stage(config, tmp_path), rates)
        assert "; the step of paradigm=response reached 0.41 of that; " in line


@pytest.mark.parametrize("low", [0.0, None])
def test_a_share_that_may_be_nought_gives_no_hours(
    configure: Configure, tmp_path: Path, low: float | None
):
    keep(tmp_path, step_share_of_products=(0.3, low, 0.9, "1"))
    rates = rates_of(configure(*LLAMA), tmp_path)
    assert (rates.tflops, rates.reached, rates.step_share) == (612.0, REACHED, None)
    assert rates.step == "the step there has no figure that is believed"


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
    assert rates_of(configure(LLAMA[0], "gpu=a100_80"), tmp_path).measured


@pytest.mark.parametrize(
    "bytes_",
    [b"", b"{", b"[]", b'{"verdicts": [{"nam": 1}]}', b"\xff\xfe", b"null", b'{"schema": NaN}'],
)
def test_a_broken_file_is_passed_over(configure: Configure, tmp_path: Path, bytes_: bytes):
    config = configure(*LLAMA)
    keep(tmp_path, host="node8", uuid="GPU-9", day="2026-12-09").write_bytes(bytes_)
    assert rates_of(config, tmp_path) == sheet_rates(config)
    keep(tmp_path)
    assert rates_of(config, tmp_path).measured == "on node7 2026-12-01"


@pytest.mark.parametrize(
    "text, instead", [('"schema": 1', '"schema": 2'), ("612.0", "NaN"), ("0.41", "Infinity")]
)
def test_a_record_of_a_later_version_or_with_nan_is_passed_over(
    configure: Configure, tmp_path: Path, text: str, instead: str
):
    path, config = keep(tmp_path), configure(*LLAMA)
    path.write_text(path.read_text().replace(text, instead))
    assert rates_of(config, tmp_path) == sheet_rates(config)


def test_of_two_gpus_of_this_host_the_one_that_is_there_counts(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keep(tmp_path, host=HERE, uuid="GPU-there", day="2025-06-01")
    keep(tmp_path, host=HERE, uuid="GPU-gone", day="2026-12-01", products_bf16=(1, 1, 1, "TFLOP/s"))
    gpu = Device(0, "GPU-there", H100, 79.6, 700.0, "580", True, False)
    monkeypatch.setattr(measured_rates, "list_gpus", lambda: [gpu])
    # Its age is said and does not matter.
    assert rates_of(configure(*LLAMA), tmp_path).measured == f"on {HERE} 2025-06-01"


def test_a_figure_that_is_wrong_is_not_used(configure: Configure, tmp_path: Path):
    config = configure(*LLAMA)
    keep(tmp_path, wrong="memory_bandwidth")
    rates = rates_of(config, tmp_path)
    assert (rates.tflops, rates.bandwidth_gb_s, rates.num_measured) == (500, 3350, 1)
    text = plan_text(config, tmp_path)
    assert "(at 500 TFLOP/s in bf16, measured on node7 2026-12-01; the step reached" in text
    assert "; memory at 3,350 GB/s of the data sheet; at 700 W)" in text
    assert "(memory read at 3,350 GB/s)" in text
    for name in ("step_share_of_products", "step_products"):
        keep(tmp_path, wrong=name)
        assert rates_of(config, tmp_path).reached == REACHED
        assert rates_of(config, tmp_path).tflops == 612


def test_a_plan_by_the_data_sheet_says_where_the_doctor_found_another_rate(
    configure: Configure, tmp_path: Path
):
    config = configure(*LLAMA, "gpu.bf16_dense_tflops=9894")
    keep(tmp_path, wrong="products_bf16", step=None)
    rates = rates_of(config, tmp_path)
    assert rates == replace(sheet_rates(config), doubt=rates.doubt)
    assert (
        "  (at a third to a half of 9,894 TFLOP/s in bf16, and at 700 W; the doctor measured 612 "
        "TFLOP/s on node7 2026-12-01 and calls it wrong)\n"
    ) in plan_text(config, tmp_path)
    # Another GPU of the product whose rate is believed comes before the sheet.
    keep(tmp_path, uuid="GPU-2", day="2026-11-01")
    assert rates_of(config, tmp_path).measured == "on node7 2026-11-01"


@pytest.mark.parametrize(
    "figure",
    [
        (0.0, 0, 0, "TFLOP/s"),
        (-612.0, -613, -611, "TFLOP/s"),
        (None, None, None, "TFLOP/s"),
        ("612", 0, 0, "TFLOP/s"),
        (10**400, 0, 0, "TFLOP/s"),
        (True, 0, 0, "TFLOP/s"),
        (612.0, 0, 0, "GFLOP/s"),
        (612.0, 0, 0, None),
    ],
)
def test_a_figure_that_is_no_rate_is_not_used(configure: Configure, tmp_path: Path, figure: Any):
    keep(tmp_path, products_bf16=figure, step=None)
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
    keep(tmp_path, host="node7", gpu=None, uuid=None, pair="tiny", step=TINY_STEP)
    assert costs(config, tmp_path) == {}
    assert "expected" not in plan_text(config, tmp_path)
    slow, memory = (0.10004, 0.09, 0.11, "TFLOP/s"), (20.0, 19.0, 21.0, "GB/s")
    its: dict[str, Any] = {
        "host": HERE,
        "gpu": None,
        "uuid": None,
        "pair": "tiny",
        "step": TINY_STEP,
    }
    keep(tmp_path, **its, step_products=slow, memory_bandwidth=memory)
    found = costs(config, tmp_path)
    assert all(cost.kwh is None for cost in found.values())
    pflop = estimate(workload_of(config)).teacher_pflop
    assert found["teacher"].hours[0] == pytest.approx(pflop * 1e3 / 0.10004 / 3600)
    lines = time_lines(config, {("x", ""): found["teacher"]}, rates_of(config, tmp_path))
    assert lines[0].startswith("expected on this CPU: ") and "kWh" not in lines[0]
    assert lines[1] == (
        f"  (at 0.1 TFLOP/s in fp32 and 20 GB/s, measured on {HERE} 2026-12-01; the step reached "
        "0.41 of that; the rated power is not known)"
    )


def test_ranks_on_one_cpu_do_not_share_the_hours(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keep(tmp_path, host=HERE, gpu=None, uuid=None, pair="tiny", step=TINY_STEP)
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
    keep(tmp_path, host=HERE, gpu=None, uuid=None, pair="tiny", step=TINY_STEP)
    assert len(estimate_lines(config, rates_of(config, tmp_path))) > 5
