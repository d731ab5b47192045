"""The server's part of the joules: its processes' CPU time, and not the client's."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.records.serving_record import EngineRecord
from kdwatts.serving.engines.server import Server
from kdwatts.serving.server_energy import mark, scope_in_words, server_part, slice_between
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.parts import Part, missing

SERVER = Server(
    EngineRecord("transformers", "5.23.0", [], "float32", None),
    url="http://127.0.0.1:1",
    model="model",
    dialect="transformers",
    pid=None,
)
TDP_W, THREADS = 30.0, 3


@contextmanager
def burning(share: float) -> Iterator[int]:
    """A process whose child is busy for this share of each tenth of a second."""
    child = (
        "import time\n"
        "while True:\n"
        " end = time.monotonic() + 0.1\n"
        f" while time.monotonic() < end - {0.1 * (1 - share)}: pass\n"
        f" time.sleep({0.1 * (1 - share)})\n"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    try:
        yield process.pid
    finally:
        subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)
        process.wait()


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[Meter]:
    settings = Telemetry(cpu_estimate="tdp", cpu_tdp_w=TDP_W, cpu_tdp_threads=THREADS)
    with Meter(tmp_path, settings, use_gpus=False) as meter:
        yield meter


def test_the_clients_cpu_time_is_in_no_joule_of_the_server(meter: Meter):
    with burning(0.4) as server_pid, burning(0.4) as client_pid:
        time.sleep(0.5)
        server = replace(SERVER, pid=server_pid)
        marks = []
        for _ in range(3):
            marks.append(mark(meter, server, client_pid))
            time.sleep(1.0)
        slices = [slice_between(meter, a, b, server) for a, b in pairwise(marks)]
        whole = slice_between(meter, marks[0], marks[-1], server)
    assert whole.server_cpu_s and whole.client_cpu_s and whole.client_cpu_s > 0.05
    # A mark reads several clocks one after the other. A busy machine may put 10 ms between them.
    # With the client's it would be twice as much.
    assert whole.energy.value == pytest.approx(TDP_W / THREADS * whole.server_cpu_s, rel=0.2)
    assert sum(one.energy.number for one in slices) == pytest.approx(whole.energy.value, rel=0.1)
    assert whole.energy.quality == "estimated"


def test_a_server_of_another_host_has_no_joules_and_no_cpu_time(meter: Meter):
    start = mark(meter, SERVER, None)
    time.sleep(0.05)
    one = slice_between(meter, start, mark(meter, SERVER, None), SERVER)
    assert (one.energy.value, one.server_cpu_s, one.energy_j["cpu"]) == (None, None, None)
    assert "not to be seen from here" in scope_in_words({"cpu": "tdp_model"}, SERVER)


@pytest.mark.parametrize("method", ["attributed", "tdp_model"])
def test_joules_that_are_shared_out_by_cpu_time_are_shared_once_more(method: str):
    job = Part(8.0, method, "attributed", 2.0, 1.0, shared_uncertainty_j=1.0)
    part = server_part(job, job_cpu_s=4.0, server_cpu_s=3.0)
    assert (part.energy_j, part.uncertainty_j, part.shared_uncertainty_j) == (6.0, 1.5, 0.75)


def test_idle_joules_that_the_job_has_by_its_cpus_stay_whole():
    """8 J, of which 6 by CPUs held: the server has them, and 3/4 of the 2 J by CPU time."""
    job = Part(8.0, "attributed", "attributed", 2.0, 1.0, net_energy_j=2.0)
    part = server_part(job, job_cpu_s=4.0, server_cpu_s=3.0)
    assert (part.energy_j, part.uncertainty_j) == (7.5, 1.875)
    parked = replace(job, net_energy_j=0.0)
    assert server_part(parked, job_cpu_s=0.1, server_cpu_s=0.001).energy_j == 8.0


def test_a_server_outside_the_job_never_has_more_than_the_node():
    """A node of 100 W, 60 W of them idle, half of its CPUs ours: 30 W and 40 W by CPU time.

    Of 2 busy CPU seconds in 1 s, 0.1 are ours and 1.9 the server's.
    """
    job = Part(30 + 40 * 0.05, "attributed", "attributed", 1.0, 1.0, net_energy_j=40 * 0.05)
    part = server_part(job, job_cpu_s=0.1, server_cpu_s=1.9)
    assert part.energy_j == pytest.approx(30 + 40 * 0.95)


def test_a_server_whose_cpu_time_is_lost_has_no_share():
    job = Part(8.0, "tdp_model", "estimated", 4.0, 1.0)
    lost = server_part(job, job_cpu_s=4.0, server_cpu_s=None)
    assert (lost.energy_j, lost.quality) == (None, "missing")


@pytest.mark.parametrize("method", ["nvml_counter", "rapl"])
def test_joules_of_a_whole_gpu_or_node_stay_whole(method: str):
    job = Part(8.0, method, "measured", 2.0, 1.0)
    assert server_part(job, job_cpu_s=4.0, server_cpu_s=3.0) is job


def test_a_missing_component_stays_missing():
    job = missing("no counter")
    assert server_part(job, job_cpu_s=4.0, server_cpu_s=3.0) is job


def test_the_scope_says_where_the_client_is_counted():
    server = replace(SERVER, pid=1)
    told_apart = scope_in_words({"gpu": "nvml_counter", "cpu": "attributed"}, server)
    together = scope_in_words({"gpu": None, "cpu": "rapl"}, server)
    assert told_apart == (
        "all GPUs of the job; cpu by the CPU time of the server's processes, without the client's"
    )
    assert together == "cpu of the whole node, with the client's part"


def test_an_estimate_beside_a_sensor_is_not_in_the_scope():
    server = replace(SERVER, pid=1)
    beside = scope_in_words({"gpu": "nvml_counter", "cpu": "tdp_model"}, server)
    assert beside == "all GPUs of the job"
    assert scope_in_words({"gpu": None, "cpu": "tdp_model"}, server).startswith("cpu by the CPU")
