from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from kdwatts.artifacts.hardware import check_gpus, joule_settings, resolve_gpu
from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.telemetry.host import cpu_name
from kdwatts.telemetry.nvml import Device

H100 = Device(0, "GPU-5f0c", "NVIDIA H100 80GB HBM3", 79.65, 700.0, "570.86", True, False)
A100 = replace(H100, index=1, name="NVIDIA A100-SXM4-80GB", memory_gib=80.0, power_limit_w=400.0)
UNKNOWN = replace(H100, name="NVIDIA GeForce GTX 1080 Ti", memory_gib=11.0, power_limit_w=250.0)


def _resolved(*overrides: str, gpus: list[Device]) -> Config:
    return to_config(resolve_gpu(compose(overrides), gpus))


def test_auto_is_the_option_that_names_the_gpu():
    config = _resolved(gpus=[H100])
    assert (config.gpu.name, config.gpu.device, config.gpu.tdp_w) == ("h100", "cuda", 700)
    assert config.telemetry.cpu_estimate == "off"


def test_auto_without_a_gpu_is_the_cpu_whose_energy_is_estimated_unless_that_is_turned_off():
    assert _resolved(gpus=[]).gpu.name == "cpu"
    assert _resolved(gpus=[]).telemetry.cpu_estimate == "tdp"
    assert _resolved("telemetry.cpu_estimate=off", gpus=[]).telemetry.cpu_estimate == "off"


def test_auto_on_a_gpu_that_no_option_names_makes_one_of_what_its_driver_reports():
    gpu = _resolved(gpus=[UNKNOWN]).gpu
    assert gpu.name == "nvidia_geforce_gtx_1080_ti"
    assert (gpu.nvml_names, gpu.memory_gib, gpu.tdp_w) == ([UNKNOWN.name], 11, 250)
    assert gpu.bf16_dense_tflops is None
    assert gpu.source == "the GPU's own driver"


def test_an_option_that_was_asked_for_stays_whatever_the_machine_has():
    assert _resolved("gpu=h100", gpus=[]).gpu.name == "h100"
    assert _resolved("gpu=cpu", gpus=[H100]).gpu.name == "cpu"


@pytest.fixture(scope="module")
def on_h100(configure: Callable[..., Any]) -> Config:
    return configure("gpu=h100")


def test_a_job_on_another_gpu_than_the_option_s_is_refused_with_both_names(on_h100: Config):
    check_gpus(on_h100, [H100, replace(H100, index=1)])
    message = (
        "^gpu=h100 expects a GPU that NVML calls 'NVIDIA H100 80GB HBM3', but device 1 is "
        "'NVIDIA A100-SXM4-80GB'; choose the gpu= option that matches$"
    )
    with pytest.raises(ValueError, match=message):
        check_gpus(on_h100, [H100, A100])
    with pytest.raises(ValueError, match="this job has no GPU; choose gpu=cpu, or run where"):
        check_gpus(on_h100, [])


def test_a_cpu_run_does_not_mind_the_gpus_of_its_machine(configure: Callable[..., Any]):
    check_gpus(configure("gpu=cpu"), [H100])


def test_another_gpu_count_limit_or_estimate_makes_another_key(on_h100: Config):
    base = joule_settings(on_h100, [H100])
    assert base == joule_settings(on_h100, [replace(H100, uuid="GPU-77aa", index=3)])
    assert base["cards"] == [["NVIDIA H100 80GB HBM3", 700.0]]
    assert base["cpu"] == cpu_name() != ""
    others = ([H100, H100], [replace(H100, power_limit_w=500.0)], [A100])
    assert all(joule_settings(on_h100, gpus) != base for gpus in others)
    estimated = replace(on_h100, telemetry=replace(on_h100.telemetry, cpu_estimate="tdp"))
    assert base["cpu_estimate"] is None
    assert joule_settings(estimated, [H100])["cpu_estimate"] == [280.0, 128]
