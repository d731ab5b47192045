"""GPUs that a run holds, though it has not begun to compute on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdwatts.telemetry.holds import sole_user
from kdwatts.telemetry.nvml import Device

REPOSITORY = Path(__file__).parents[2]


def gpu(uuid: str) -> Device:
    return Device(0, uuid, "NVIDIA H100 80GB HBM3", 79.6, 700.0, "570", True, False)


HOLD = """
import sys
from types import SimpleNamespace
from kdwatts.telemetry.holds import sole_user
with sole_user([SimpleNamespace(uuid=uuid) for uuid in sys.argv[1:]], allowed=False):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder() -> Iterator[Any]:
    """Starts processes that hold GPUs as a run does."""
    started: list[subprocess.Popen[str]] = []

    def hold(*uuids: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, *uuids],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout and process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_gpu_that_another_run_holds_is_refused_until_that_is_killed(holder: Any):
    # Neither has begun to compute: NVML would name no process.
    uuid = f"GPU-{os.getpid()}"
    process = holder("GPU-other", uuid)
    with (
        pytest.raises(RuntimeError) as refusal,
        sole_user([gpu(f"{uuid}-mine"), gpu(uuid)], allowed=False),
    ):
        pass
    assert str(refusal.value) == (
        f"{uuid} is held by another run of kdwatts, pid {process.pid} (python); energy would be "
        "misattributed; ask Slurm for a GPU of its own (cluster.gres) or set "
        "telemetry.allow_shared=true"
    )
    with sole_user([gpu(uuid)], allowed=True):
        pass
    process.kill()
    process.wait()
    with sole_user([gpu(uuid), gpu(f"{uuid}-mine")], allowed=False):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_run_that_has_ended_lets_go_of_its_gpus_and_one_of_other_gpus_is_let_be(holder: Any):
    uuid = f"GPU-{os.getpid()}"
    with sole_user([gpu(uuid)], allowed=False):
        holder(f"{uuid}-else")
    with sole_user([gpu(uuid)], allowed=False):
        pass
    with sole_user([], allowed=False):
        pass
