"""The checks of this chapter, in order."""

from __future__ import annotations

from kdwatts.doctor.instruments.cpu_meters import LEAST_CPU_S, look_at_cpu, needs_no_cpu_meter
from kdwatts.doctor.instruments.gpu_meters import LEAST_GPU_S, look_at_gpu
from kdwatts.doctor.patient import Check

INSTRUMENTS: list[Check] = [
    Check(
        "meters of the GPU",
        wants_s=86.0,
        least_s=LEAST_GPU_S,
        look=look_at_gpu,
        takes_no_time=lambda patient: patient.gpu is None,
    ),
    Check(
        "meters of the CPU",
        wants_s=25.0,
        least_s=LEAST_CPU_S,
        look=look_at_cpu,
        takes_no_time=needs_no_cpu_meter,
    ),
]
"""The GPU's come first: its idle power is that before anything used it."""
