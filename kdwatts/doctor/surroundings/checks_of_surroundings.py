"""The checks of this chapter, in order."""

from __future__ import annotations

from kdwatts.doctor.patient import Check
from kdwatts.doctor.surroundings.cpu_counters import cpu_counters
from kdwatts.doctor.surroundings.gpu_setup import gpu_setup
from kdwatts.doctor.surroundings.host_room import host_room
from kdwatts.doctor.surroundings.hub_answer import hub_answer
from kdwatts.doctor.surroundings.plan_room import plan_room
from kdwatts.doctor.surroundings.slurm_here import slurm_here
from kdwatts.doctor.surroundings.software_versions import same_gpu, software_versions
from kdwatts.doctor.surroundings.store_promises import store_promises
from kdwatts.doctor.surroundings.store_speed import store_speed

# Other processes and free memory are looked at before this process itself is on the GPU.
SURROUNDINGS: list[Check] = [
    Check("versions", wants_s=1, least_s=0, look=software_versions),
    Check("gpu setup", wants_s=1, least_s=0, look=gpu_setup),
    Check("plan memory", wants_s=1, least_s=0, look=plan_room),
    Check("rapl", wants_s=1, least_s=0, look=cpu_counters),
    Check("host", wants_s=1, least_s=0, look=host_room),
    Check("store promises", wants_s=9, least_s=3, look=store_promises),
    Check("store speed", wants_s=9, least_s=2, look=store_speed),
    Check("hub", wants_s=4, least_s=1, look=hub_answer),
    Check("slurm", wants_s=5, least_s=1, look=slurm_here),
    Check("same gpu", wants_s=1, least_s=0, look=same_gpu),
]
