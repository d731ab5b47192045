from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdwatts.artifacts.hardware import check_gpus, first_start, joule_settings, resolve_gpu
from kdwatts.artifacts.manifest import MANIFEST_NAME, write_manifest
from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.records.files import read_json, write_json
from kdwatts.runtime.ranks import Launch
from kdwatts.telemetry.host import cpu_name
from kdwatts.telemetry.node_facts import NodeFacts, facts_of_this_node
from kdwatts.telemetry.nvml import Device

H100 = Device(0, "GPU-5f0c", "NVIDIA H100 80GB HBM3", 79.65, 700.0, "570.86", True, False)
A100 = replace(H100, index=1, name="NVIDIA A100-SXM4-80GB", memory_gib=80.0, power_limit_w=400.0)
UNKNOWN = replace(H100, name="NVIDIA GeForce GTX 1080 Ti", memory_gib=11.0, power_limit_w=250.0)


def node(host: str, *gpus: Device, ranks: int = 1, number: int = 1) -> NodeFacts:
    """A node like this machine, with these GPUs."""
    return replace(facts_of_this_node(gpus, number=number, ranks=range(ranks)), host=host)


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
    check_gpus(on_h100, [node("n1", H100, replace(H100, index=1))])
    message = (
        "^gpu=h100 expects a GPU that NVML calls 'NVIDIA H100 80GB HBM3', but device 1 is "
        "'NVIDIA A100-SXM4-80GB'; choose the gpu= option that matches$"
    )
    with pytest.raises(ValueError, match=message):
        check_gpus(on_h100, [node("n1", H100, A100)])
    with pytest.raises(ValueError, match="this job has no GPU; choose gpu=cpu, or run where"):
        check_gpus(on_h100, [node("n1")])


def test_a_cpu_run_does_not_mind_the_gpus_of_its_machine(configure: Callable[..., Any]):
    check_gpus(configure("gpu=cpu"), [node("n1", H100)])


def test_another_gpu_count_limit_or_estimate_makes_another_key(on_h100: Config):
    base = joule_settings(on_h100, [H100], Launch())
    assert base == joule_settings(on_h100, [replace(H100, uuid="GPU-77aa", index=3)], Launch())
    assert base["cards"] == [["NVIDIA H100 80GB HBM3", 700.0]]
    assert base["cpu"] == cpu_name() != ""
    others = ([H100, H100], [replace(H100, power_limit_w=500.0)], [A100])
    assert all(joule_settings(on_h100, gpus, Launch()) != base for gpus in others)
    estimated = replace(on_h100, telemetry=replace(on_h100.telemetry, cpu_estimate="tdp"))
    assert base["cpu_estimate"] is None
    assert joule_settings(estimated, [H100], Launch())["cpu_estimate"] == [280.0, 128]


def test_a_node_with_other_or_too_few_gpus_is_refused_by_its_host(on_h100: Config):
    second = replace(H100, index=1)
    check_gpus(on_h100, [node("n1", H100, second, ranks=2), node("n2", H100, ranks=1)])
    wrong = node("n2", H100, A100, ranks=2)
    with pytest.raises(ValueError, match=r"but device 1 of host n2 is 'NVIDIA A100-SXM4-80GB'; ch"):
        check_gpus(on_h100, [node("n1", H100, second, ranks=2), wrong])
    message = r"^2 ranks were launched on host n2, but the meter sees 1 GPUs and would miss"
    with pytest.raises(ValueError, match=message):
        # Four GPUs for four ranks are not enough where they lie on the other node.
        three = [H100, second, replace(H100, index=2)]
        check_gpus(on_h100, [node("n1", *three, ranks=2), node("n2", H100, ranks=2)])
    with pytest.raises(ValueError, match="but this job has no GPU on host n2; choose gpu=cpu, or"):
        check_gpus(on_h100, [node("n1", H100), node("n2")])


def test_nodes_and_ranks_are_part_of_a_key_where_there_are_several(on_h100: Config):
    cards = [H100, H100, H100, H100]
    alone, together, apart = (
        joule_settings(on_h100, cards, launch) for launch in (Launch(), Launch(1, 4), Launch(2, 4))
    )
    assert {"nodes", "ranks"}.isdisjoint(alone)
    assert together == {"ranks": 4, **alone}
    assert apart == {"nodes": 2, "ranks": 4, **alone}


def attempts(run_dir: Path, config: Config, *starts: list[NodeFacts]) -> None:
    for number, nodes in enumerate(starts, start=1):
        write_manifest(run_dir, config, nodes, attempt=number, overrides=[])


def test_a_run_on_another_launch_finds_gpus_and_launch_of_its_first_start(
    on_h100: Config, tmp_path: Path
):
    spread = [node("n1", H100, ranks=1), node("n2", H100, ranks=1, number=2)]
    attempts(tmp_path, on_h100, spread, [node("n3", H100, ranks=1)])
    assert first_start(tmp_path, [H100], Launch(1, 1)) == ([H100, H100], Launch(2, 2))
    # A third start, which is no attempt of the manifest yet, finds the first one too.
    assert first_start(tmp_path, [H100] * 4, Launch(1, 4)) == ([H100, H100], Launch(2, 2))
    assert first_start(tmp_path, [H100, H100], Launch(2, 2)) is None


def test_on_other_hardware_and_without_a_launch_on_record_there_is_no_first_start(
    on_h100: Config, tmp_path: Path
):
    assert first_start(tmp_path, [H100], Launch()) is None
    attempts(tmp_path, on_h100, [node("n1", H100, replace(H100, index=1), ranks=2)])
    assert first_start(tmp_path, [H100], Launch()) is not None
    assert first_start(tmp_path, [A100], Launch()) is None
    assert first_start(tmp_path, [replace(H100, power_limit_w=500.0)], Launch()) is None
    manifest = read_json(tmp_path / MANIFEST_NAME)
    write_json(tmp_path / MANIFEST_NAME, {**manifest, "cpu": "another processor"})
    assert first_start(tmp_path, [H100], Launch()) is None
    del manifest["launch"]
    write_json(tmp_path / MANIFEST_NAME, manifest)
    assert first_start(tmp_path, [H100], Launch()) is None
    # The next attempt is the first that says how it was launched.
    attempts(tmp_path, on_h100, [node("n1", H100)])
    assert first_start(tmp_path, [H100] * 2, Launch(1, 2)) == ([H100], Launch())
