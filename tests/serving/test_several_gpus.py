"""A server on several GPUs: how many it takes, and that its joules are those of all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdwatts.config.serving import Serving, Vllm
from kdwatts.serving.engines.parallel_sizes import num_gpus
from kdwatts.serving.engines.starting import device_indices

REPOSITORY = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "engines" / "stand_in"

WATTS = (100, 200, 40, 80)
"""Of four GPUs, the last two of which the server does not use."""

SCRIPT = """
import json, sys, time
from pathlib import Path
import psutil
from kdwatts.config.machine import Telemetry
from kdwatts.config.serving import Serving, Vllm
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.starting import device_indices, running
from kdwatts.serving.measure.slices import why_missing
from kdwatts.serving.server_energy import gpus_of, mark, methods_of, scope_in_words, slice_between
from kdwatts.telemetry.meter import Meter

python, folder, *flags = sys.argv[1:]
settings = Serving(engine="vllm", vllm=Vllm(python=python, flags=flags))
with Meter(Path(folder), Telemetry(rapl_root="/nowhere", idle_s=2.2)) as meter:
    indices = device_indices(settings, has_gpus=True, num_visible=len(meter.gpus))
    model = ServedModel("somebody/model", "student", "float32", indices, 512)
    with running(settings, model, log_path=Path(folder) / "server.log") as server:
        (process,) = psutil.Process(server.pid).children()
        seen = process.environ()
        start = mark(meter, server, None)
        time.sleep(2.3)
        one = slice_between(meter, start, mark(meter, server, None), server)
    gpus = gpus_of(meter, server)
    idle_w, _ = meter.idle_power_of_all_w([gpu.uuid for gpu in gpus])
    print(json.dumps({
        "seen": [seen["CUDA_VISIBLE_DEVICES"], seen["CUDA_DEVICE_ORDER"]],
        "watts": one.energy.value and one.energy.value / one.duration_s,
        "joules": one.energy_j["gpu"],
        "why": why_missing([one]),
        "idle_w": idle_w,
        "uuids": [gpu.uuid for gpu in gpus],
        "scope": scope_in_words(
            methods_of([one]), server, num_gpus=len(gpus), num_gpus_of_job=len(meter.gpus)
        ),
    }))
"""


def _served(nvml_dir: Path, folder: Path, *flags: str, **settings: object) -> dict[str, Any]:
    """What a server on the replayed GPUs drew."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{STAND_IN}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    trace = folder / "trace.txt"
    trace.write_text(f"0 {' '.join(map(str, WATTS))}\n")
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"LD_LIBRARY_PATH": str(nvml_dir), "NVML_REPLAY_TRACE": str(trace)}
    environment |= {f"NVML_REPLAY_{name.upper()}": str(value) for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(python), str(folder), *flags],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        ([], 1),
        (["--max-num-seqs=64", "-O3"], 1),
        (["--tensor-parallel-size=2"], 2),
        (["--tensor_parallel_size", "4"], 4),
        (["-tp", "2", "-pp=3", "--data-parallel-size", "2"], 12),
        (["-pcp", "2", "-dcp", "2", "-tp", "2"], 4),
        (["-tp=2", "--tensor-parallel=4"], 4),
    ],
)
def test_a_server_takes_the_product_of_its_parallel_sizes(flags: list[str], number: int):
    assert num_gpus(flags) == number


@pytest.mark.parametrize("flags", [["-tp"], ["-tp=0"], ["--pipeline-parallel-size=two"]])
def test_a_parallel_size_that_is_no_number_is_refused(flags: list[str]):
    with pytest.raises(ValueError, match=rf"flags has {flags[0]} with .*no number of GPUs; give"):
        num_gpus(flags)


@pytest.mark.parametrize("flag", ["--nnodes=2", "-dpl=1", "--data-parallel-address=10.0.0.1"])
def test_a_flag_that_spreads_a_server_over_hosts_is_refused(flag: str):
    with pytest.raises(ValueError, match=rf"flags has {flag}, which makes the server a part"):
        num_gpus([flag])


def test_a_server_for_more_gpus_than_the_job_has_is_refused():
    settings = Serving(engine="vllm", vllm=Vllm(flags=["-tp=4"]))
    with pytest.raises(ValueError, match="a server on 4 GPUs, and this job has 2; give the job"):
        device_indices(settings, has_gpus=True, num_visible=2)
    assert device_indices(settings, has_gpus=True, num_visible=8) == (0, 1, 2, 3)
    assert device_indices(settings, has_gpus=False) is None


def test_the_joules_are_those_of_both_gpus_of_the_server_and_of_no_other(nvml_dir, tmp_path):
    one = _served(nvml_dir, tmp_path, "--tensor-parallel-size=2")
    assert one["watts"] == pytest.approx(100 + 200, rel=0.05)
    assert one["idle_w"] == pytest.approx(100 + 200, rel=0.05)
    assert one["seen"] == ["0,1", "PCI_BUS_ID"]
    assert len(set(one["uuids"])) == 2
    assert one["scope"] == "2 of the 4 GPUs of the job, those of the server"


def test_a_server_on_all_gpus_has_the_joules_of_all(nvml_dir, tmp_path):
    one = _served(nvml_dir, tmp_path, "-tp=2", "-dp=2")
    assert one["watts"] == pytest.approx(sum(WATTS), rel=0.05)
    assert one["seen"][0] == "0,1,2,3"
    assert one["scope"] == "all GPUs of the job"


def test_a_counter_that_is_lost_on_one_gpu_makes_the_sum_missing(nvml_dir, tmp_path):
    # 15: the GPU has fallen off the bus. It answers while the meter starts.
    lost = _served(nvml_dir, tmp_path, "-tp=2", faults="3:1000:1:15")
    assert (lost["watts"], lost["joules"]) == (None, None)
    assert lost["why"].startswith(f"gpu: {lost['uuids'][1]} could not be read for a part of")


def test_a_counter_that_is_lost_on_a_gpu_of_others_changes_nothing(nvml_dir, tmp_path):
    one = _served(nvml_dir, tmp_path, "-tp=2", faults="3:1000:2:15")
    assert one["watts"] == pytest.approx(100 + 200, rel=0.05)
