"""Power and energy of the devices of this job: devices -> samples -> windows -> joules.

`meter.Meter` is the way in. NVML reads the GPUs, powercap (RAPL) the CPUs and their memory, and a
model of CPU time and TDP may stand in where RAPL is closed. Nothing here imports torch.
"""
