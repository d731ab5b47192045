"""The rates of the device, and what they are held against."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdwatts.config.machine import Gpu
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.speed.data_sheet import beside_sheet
from kdwatts.doctor.speed.free_memory import free_bytes
from kdwatts.doctor.speed.machine_rates import memory_bandwidth, product_windows, products
from kdwatts.doctor.speed.timed_windows import Windows, ends_of, timed_windows
from kdwatts.memory.budget import GIB
from kdwatts.records.doctor_record import Verdict

CPU = torch.device("cpu")
SHEET = Gpu(name="h100", bf16_dense_tflops=1000.0, source="its data sheet")


def beside(*rates: float, sheet: Gpu | None = SHEET) -> Verdict:
    """The verdict on windows with these rates in TFLOP/s, of a GPU with 1,000 on its sheet."""
    return beside_sheet(
        "products_bf16",
        Windows(tuple(1 / rate for rate in rates), len(rates)),
        1.0,
        what="products",
        unit="TFLOP/s",
        stated=1000.0,
        sheet=sheet,
        limit=(0.5, "a source"),
    )


def test_the_rate_is_the_mean_of_windows_with_student_s_interval():
    rate = Windows((0.1, 0.1, 0.2), 30).rate(1.0, "1/s")
    # Rates of 10, 10 and 5: mean 25/3, standard error 5/3, and t is 4.3027 for two degrees.
    assert rate.number == pytest.approx(25 / 3)
    assert ends_of(rate) == pytest.approx((25 / 3 - 4.3027 * 5 / 3, 25 / 3 + 4.3027 * 5 / 3), 1e-4)


def test_a_clock_that_falls_widens_the_interval():
    steady, falling = (ends_of(Windows(each, 4).rate(1, "")) for each in ((1.0, 1.0, 1.01, 1.0), (
        1.0, 1.0, 1.5, 1.5)))  # fmt: skip
    assert falling[1] - falling[0] > 10 * (steady[1] - steady[0])


def test_work_that_sleeps_is_never_faster_than_its_sleep():
    windows = timed_windows(lambda: time.sleep(0.004), CPU, seconds=0.2)
    assert 3 <= len(windows.each_s) <= 10
    assert windows.best(1) <= 250
    assert windows.count >= len(windows.each_s)


def test_all_work_is_counted_that_which_is_not_timed_too():
    calls = []
    windows = timed_windows(lambda: calls.append(0), CPU, seconds=0.05)
    assert windows.count == len(calls)


@pytest.mark.parametrize(
    "rates, verdict",
    [
        ((700, 702, 698), "right"),
        ((400, 402, 398), "attention"),
        ((100, 101, 99), "wrong"),
        ((1200, 1201, 1199), "wrong"),
        # The mean is above the sheet, and the interval is not.
        ((900, 1200, 1300), "right"),
        # The mean is below a quarter, and the interval reaches above it.
        ((50, 400, 200), "attention"),
    ],
)
def test_a_rate_is_wrong_only_where_its_whole_interval_is(rates: tuple[float, ...], verdict: str):
    found = beside(*rates)
    assert found.verdict == verdict
    assert (found.remedy is None) == (verdict == "right")
    assert found.value == pytest.approx(sum(rates) / len(rates))


def test_float32_above_its_sheet_names_the_variables_that_switch_tf32_on():
    assert "NVIDIA_TF32_OVERRIDE" in (beside(1200, 1201, 1199).remedy or "")


def test_without_a_data_sheet_a_rate_has_no_verdict():
    found = beside(700, 702, 698, sheet=None)
    assert (found.verdict, found.against, found.value) == (None, None, pytest.approx(700))
    assert "nothing is known to hold it against" in found.found


def test_a_cpu_has_its_rates_without_a_verdict(patient: Callable[..., Patient]):
    for look, name, unit in (
        (products("bf16"), "products_bf16", "TFLOP/s"),
        (products("fp32"), "products_fp32", "TFLOP/s"),
        (memory_bandwidth, "memory_bandwidth", "GB/s"),
    ):
        (found,) = look(patient(), 0.5)
        assert (found.name, found.verdict, found.unit) == (name, None, unit)
        assert found.value and found.low is not None and found.high
        assert found.low <= found.value <= found.high


def test_a_product_s_operations_are_two_for_each_element_and_row():
    _, flop, size = product_windows(CPU, "fp32", seconds=0.1)
    assert flop == 2 * size**3


@pytest.mark.parametrize("limit, free", [("1000", 600), ("300", 0)])
def test_a_container_s_limit_bounds_the_memory_that_is_free(
    tmp_path: Path, limit: str, free: float
):
    # What the page cache holds can be dropped, so it counts as free.
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("900")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 500\n")
    assert free_bytes(CPU, cgroup_root=tmp_path) == pytest.approx(free)


def test_ulimit_bounds_the_memory_that_is_free():
    code = (
        "import resource, torch\n"
        "from kdwatts.doctor.speed.free_memory import free_bytes\n"
        "most = 8 << 30\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "print(free_bytes(torch.device('cpu')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 7.9 * GIB


def test_products_of_one_size_are_timed_again_however_little_time_is_left():
    _, flop, size = product_windows(CPU, "fp32", seconds=0.01, size=300)
    assert (flop, size) == (2 * 300**3, 300)


def test_without_a_container_s_limit_the_machine_s_memory_is_free(tmp_path: Path):
    without = free_bytes(CPU, cgroup_root=tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("900\n")
    assert min(without, free_bytes(CPU, cgroup_root=tmp_path)) > 1e6
