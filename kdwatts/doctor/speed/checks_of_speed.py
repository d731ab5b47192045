"""The checks of this chapter, in order."""

from __future__ import annotations

from kdwatts.doctor.patient import Check
from kdwatts.doctor.speed.machine_rates import memory_bandwidth, products
from kdwatts.doctor.speed.response_head import response_head
from kdwatts.doctor.speed.step_verdicts import pair_step

SPEED: list[Check] = [
    Check("products bf16", 8.0, 1.0, products("bf16"), computes=True),
    Check("products fp32", 8.0, 1.0, products("fp32"), computes=True),
    Check("memory bandwidth", 5.0, 1.0, memory_bandwidth, computes=True),
    Check("pair step", 60.0, 5.0, pair_step, computes=True),
    Check("response head", 20.0, 2.0, response_head, computes=True),
]
