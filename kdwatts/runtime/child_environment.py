"""The environment of a program that we start, in this interpreter or in another."""

from __future__ import annotations

import os
from collections.abc import Sequence

_OF_A_LAUNCH = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Variables of torchrun that would make the child wait for other ranks."""
_OF_THIS_PYTHON = ("PYTHONPATH", "PYTHONHOME")


def child_environment(
    device_indices: Sequence[int] | None, *, cpu: bool = False, same_python: bool = False
) -> dict[str, str]:
    """Our environment with some of our GPUs or none, and without what concerns this process alone.

    `device_indices` count from 0 among the GPUs that we see; None lets the child see all of them.
    What concerns this process alone is its launch and, where the child is of another interpreter,
    its own interpreter.
    """
    left_out = _OF_A_LAUNCH if same_python else (*_OF_A_LAUNCH, *_OF_THIS_PYTHON)
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif device_indices is not None:
        gpus = visible.split(",") if visible else []
        chosen = [gpus[index] if index < len(gpus) else str(index) for index in device_indices]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    return environment
