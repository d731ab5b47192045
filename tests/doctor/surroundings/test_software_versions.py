from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from kdwatts.doctor.patient import Patient
from kdwatts.doctor.surroundings.software_versions import same_gpu, software_versions
from kdwatts.telemetry.nvml import Device
from tests.doctor.surroundings.looking import looked, patient_of, verdicts_on

H100 = Device(0, "GPU-5f0c", "NVIDIA H100 80GB HBM3", 79.6, 700.0, "555.00", True, False)


def with_gpu(*words: str, name: str = H100.name, has_cuda: bool = False) -> Patient:
    return replace(patient_of(*words), gpus=[replace(H100, name=name)], has_cuda=has_cuda)


def test_what_is_installed_here_meets_what_kdwatts_requires():
    found = looked(software_versions, "gpu=cpu")["versions"]
    assert found.verdict == "right"
    assert f"torch {torch.__version__}" in found.found


def test_a_package_that_is_too_old_or_missing_is_wrong_and_named(monkeypatch):
    needed = ["torch>=99", "nowhere-to-be-found>=2", "numpy>=1; extra == 'bench'", "numpy"]
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    found = looked(software_versions, "gpu=cpu")["versions"]
    assert found.verdict == "wrong"
    assert f"torch>=99 is {metadata.version('torch')}" in found.found
    assert found.remedy == "pip install 'torch>=99' 'nowhere-to-be-found>=2'"


def test_a_gpu_that_was_asked_for_and_is_not_here_is_wrong():
    found = looked(software_versions, "gpu=h100")["gpu_option"]
    assert found.verdict == "wrong" and "this job has no GPU" in found.found
    assert "gpu=cpu" in (found.remedy or "")


def test_another_gpu_than_the_one_asked_for_is_wrong_and_the_right_one_is_right():
    found = verdicts_on(with_gpu("gpu=h100", name="NVIDIA L40S"), software_versions)["gpu_option"]
    assert found.verdict == "wrong" and "NVIDIA L40S" in found.found
    assert verdicts_on(with_gpu("gpu=h100"), software_versions)["gpu_option"].verdict == "right"


def test_a_gpu_that_torch_cannot_use_is_wrong_and_one_that_it_can_is_right():
    found = verdicts_on(with_gpu("gpu=h100"), software_versions)["torch_cuda"]
    assert found.verdict == "wrong" and found.remedy
    able = with_gpu("gpu=h100", has_cuda=True)
    assert verdicts_on(able, software_versions)["torch_cuda"].verdict == "right"


def test_a_gpu_whose_energy_nobody_counts_is_wrong(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA L40S")
    found = looked(software_versions, "gpu=cpu")["torch_cuda"]
    assert found.verdict == "wrong" and "NVML" in found.found


@pytest.mark.parametrize("uuid, verdict", [("5f0c", "right"), ("6a1b", "wrong")])
def test_torch_must_compute_on_the_gpu_that_is_measured(uuid, verdict, monkeypatch):
    properties = SimpleNamespace(uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA L40S")
    found = verdicts_on(with_gpu("gpu=h100", has_cuda=True), same_gpu)["same_gpu"]
    assert found.verdict == verdict
    assert looked(same_gpu, "gpu=cpu")["same_gpu"].verdict is None
