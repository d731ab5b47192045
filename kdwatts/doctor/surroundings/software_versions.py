"""Versions, whether torch finds the GPU that NVML lists, and whether it is the one asked for."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

import pynvml
import torch
from packaging.requirements import Requirement

from kdwatts import __version__
from kdwatts.artifacts.hardware import check_gpus
from kdwatts.artifacts.manifest import package_versions
from kdwatts.doctor.patient import Patient
from kdwatts.doctor.surroundings.refusal_parts import finding_and_remedy
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry import nvml
from kdwatts.telemetry.node_facts import facts_of_this_node

OWN_FIGURES = "the GPU's own driver"
"""The source of an option that was made for a GPU without one (`artifacts.hardware`)."""
FITTING_TORCH = "install the torch for this driver: https://pytorch.org/get-started/locally"


def software_versions(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """The verdicts on packages, on torch and CUDA, and on the option of the group gpu."""
    del seconds
    yield _packages(patient)
    yield _cuda(patient)
    yield _option(patient)


def same_gpu(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """Whether torch computes on the GPU whose energy NVML counts. It starts CUDA."""
    del seconds
    name = "same_gpu"
    if not patient.has_cuda or patient.gpu is None:
        yield Verdict(name, None, "not looked at: torch computes on the CPU here")
        return
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    if uuid is None or patient.gpu.is_sliced:
        yield Verdict(name, None, "not looked at: torch does not name a slice, or any GPU, by UUID")
        return
    theirs, ours = f"GPU-{str(uuid).removeprefix('GPU-')}", patient.gpu.uuid
    against = f"{ours} {patient.gpu.name}, which is measured (NVML)"
    if theirs == ours:
        yield Verdict(name, "right", f"torch computes on {theirs}", against)
        return
    found = f"torch computes on {theirs} {torch.cuda.get_device_name(0)}"
    remedy = "export CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the GPU by UUID in CUDA_VISIBLE_DEVICES"
    yield Verdict(name, "wrong", found, against, remedy)


def _packages(patient: Patient) -> Verdict:
    versions, built_for = package_versions(), torch.version.cuda
    parts = [f"Python {platform.python_version()}", f"kdwatts {__version__}"]
    parts.append(f"torch {torch.__version__} for {f'CUDA {built_for}' if built_for else 'CPUs'}")
    parts.append(f"transformers {versions['transformers']}")
    if patient.gpu:
        parts.append(f"driver {patient.gpu.driver}")
    found = ", ".join(parts)
    try:
        needed = [Requirement(text) for text in metadata.requires("kdwatts") or []]
    except metadata.PackageNotFoundError:
        return Verdict("versions", None, f"{found}; kdwatts is not installed, so it needs nothing")
    unmet = [said for each in needed if (said := _unmet(each))]
    against = "what kdwatts requires (its package metadata)"
    if not unmet:
        return Verdict("versions", "right", found, against)
    wanted = " ".join(f"'{each.partition(' is ')[0]}'" for each in unmet)
    found = f"{found}; {', '.join(unmet)}"
    return Verdict("versions", "wrong", found, against, f"pip install {wanted}")


def _unmet(needed: Requirement) -> str | None:
    """`NAME>=1 is 0.9`; None where it is met, or belongs to an extra."""
    if needed.marker and not needed.marker.evaluate({"extra": ""}):
        return None
    wanted = f"{needed.name}{needed.specifier}"
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return f"{wanted} is not installed"
    is_met = needed.specifier.contains(version, prereleases=True)
    return None if is_met else f"{wanted} is {version}"


def _cuda(patient: Patient) -> Verdict:
    name = "torch_cuda"
    if patient.config.gpu.device == "cpu":
        return _without_cuda(name)
    if patient.gpu is None:
        return Verdict(name, None, "not looked at: NVML lists no GPU for this job")
    built_for, driver = torch.version.cuda, _driver_cuda()
    against = f"{patient.gpu.name}, which NVML lists"
    if driver:
        against += f"; its driver has CUDA {driver[0]}.{driver[1]} (NVML)"
    if patient.has_cuda:
        found = f"torch, built for CUDA {built_for}, can compute on the GPU"
        return Verdict(name, "right", found, against)
    if built_for is None:
        found = f"torch {torch.__version__} is built without CUDA, so it cannot use the GPU"
        return Verdict(name, "wrong", found, against, FITTING_TORCH)
    found = f"torch, built for CUDA {built_for}, finds no GPU ({_reason()})"
    if driver and driver[0] < int(built_for.partition(".")[0]):
        # CUDA Compatibility guide: within a major version any driver of it will do.
        remedy = f"update the driver to one of CUDA {built_for}, or {FITTING_TORCH}"
        return Verdict(name, "wrong", found, against, remedy)
    remedy = "check /dev/nvidia* and the driver's library in this container: nvidia-smi"
    return Verdict(name, "wrong", found, against, remedy)


def _without_cuda(name: str) -> Verdict:
    gpus, reason = nvml.open_gpus()
    if gpus:
        nvml.close()
        named = gpus[0].device.name
        return Verdict(name, None, f"not looked at: gpu=cpu was chosen, though there is {named}")
    if not torch.cuda.is_available():
        return Verdict(name, None, f"not looked at: the CPU computes here ({reason})")
    found = f"torch can compute on {torch.cuda.get_device_name(0)}, but NVML lists no GPU: {reason}"
    remedy = "make libnvidia-ml.so.1 visible here (containers: NVIDIA_DRIVER_CAPABILITIES=all)"
    return Verdict(name, "wrong", found, "every GPU that computes is measured", remedy)


def _driver_cuda() -> tuple[int, int] | None:
    """CUDA's version in the driver. None where NVML does not say."""
    gpus, _ = nvml.open_gpus()
    if not gpus:
        return None
    try:
        number = nvml.or_none(pynvml.nvmlSystemGetCudaDriverVersion)
    finally:
        nvml.close()
    return None if number is None else (number // 1000, number % 1000 // 10)


def _reason() -> str:
    """What torch says when it is asked for the GPU."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:200]
    return "it gives no reason"


def _option(patient: Patient) -> Verdict:
    name, gpu = "gpu_option", patient.config.gpu
    if gpu.device == "cpu":
        return Verdict(name, None, "gpu=cpu: nothing is expected of a GPU")
    against = f"gpu={gpu.name} (NVML names {', '.join(gpu.nvml_names) or 'none'})"
    try:
        check_gpus(patient.config, [facts_of_this_node(patient.gpus)])
    except ValueError as refusal:
        found, remedy = finding_and_remedy(refusal)
        return Verdict(name, "wrong", found, against, remedy)
    assert patient.gpu
    found = f"the GPU is {patient.gpu.name}"
    if gpu.source == OWN_FIGURES:
        found += ", for which no option has a data sheet: rates have nothing to be held against"
        remedy = f"write conf/gpu/{gpu.name}.yaml after conf/gpu/h100.yaml, with its data sheet"
        return Verdict(name, "attention", found, against, remedy)
    return Verdict(name, "right", found, against)
