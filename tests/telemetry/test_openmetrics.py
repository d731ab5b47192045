"""The file for Prometheus, read back by the parsers of its own client library."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from kdwatts.records.schema import TelemetryRow
from kdwatts.telemetry.energy import Tally, advance, span
from kdwatts.telemetry.openmetrics import Exposition, Live, live, place_of_node, run_labels
from kdwatts.telemetry.parts import QUALITY
from kdwatts.telemetry.readings import Reading, Sensor
from tests.telemetry.conftest import REPOSITORY

LABELS = {"run": "/runs/1", "host": "node7", "slurm_job_id": "42", "attempt": "3"}

GPU = Live(
    kind="gpu",
    index=0,
    uuid="GPU-5f0c",
    method="nvml_counter",
    quality="measured",
    power_w=612.5,
    energy_j=1_234_567.25,
    util_pct=93.0,
    memory_used_gib=4.0,
    temperature_c=45.0,
)
CPU = Live("cpu", None, None, "tdp_model", "estimated", power_w=70.0, energy_j=700.0)
HOST = Live("host", None, None, None, None, None, None, util_pct=12.5, memory_used_gib=2.0)

NODE = {"run": "/runs/1", "host": "node7"}
GPU_LABELS = {**NODE, "kind": "gpu", "index": "0", "uuid": "GPU-5f0c"}
GPU_SOURCE = {**GPU_LABELS, "method": "nvml_counter", "quality": "measured"}

Parse = Callable[[str], Iterable[Metric]]
FORMATS = [
    ("live.prom", parser.text_string_to_metric_families),
    ("live.om", openmetrics_parser.text_string_to_metric_families),
]


def read(path: Path, parse: Parse = FORMATS[0][1]) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Per name of a series its labels and values; empty labels are absent ones to Prometheus."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in parse(path.read_text()):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if value}
            found.setdefault(sample.name, []).append((labels, sample.value))
    return found


@pytest.mark.parametrize(("name", "parse"), FORMATS, ids=["text", "openmetrics"])
def test_the_file_holds_base_units_and_says_how_they_were_obtained(
    tmp_path: Path, name: str, parse: Parse
):
    exposition = Exposition(tmp_path / name, LABELS)
    before_s = time.time()
    exposition.write([GPU, CPU, HOST], window="run/distill")
    cpu = {**NODE, "kind": "cpu", "method": "tdp_model", "quality": "estimated"}
    host = {**NODE, "kind": "host"}
    found = read(tmp_path / name, parse)
    ((labels, last_s),) = found.pop("kdwatts_last_sample_timestamp_seconds")
    assert labels == NODE
    assert before_s <= last_s <= time.time()
    assert found == {
        "kdwatts_power_watts": [(GPU_SOURCE, 612.5), (cpu, 70.0)],
        "kdwatts_energy_joules_total": [(GPU_SOURCE, 1_234_567.25), (cpu, 700.0)],
        "kdwatts_utilization_ratio": [(GPU_LABELS, 0.93), (host, 0.125)],
        "kdwatts_memory_used_bytes": [(GPU_LABELS, 4 * 2**30), (host, 2 * 2**30)],
        "kdwatts_temperature_celsius": [(GPU_LABELS, 45.0)],
        "kdwatts_run_info": [({**LABELS, "window": "run/distill"}, 1.0)],
    }


def test_types_are_what_the_names_promise(tmp_path: Path):
    path = tmp_path / "live.om"
    Exposition(path, LABELS).write([GPU])
    families = openmetrics_parser.text_string_to_metric_families(path.read_text())
    types = {family.name: family.type for family in families}
    assert types.pop("kdwatts_energy_joules") == "counter"
    assert types.pop("kdwatts_run") == "info"
    assert set(types.values()) == {"gauge"}
    assert path.read_text().endswith("# EOF\n")


def test_what_is_missing_is_absent_and_never_0(tmp_path: Path):
    path = tmp_path / "live.prom"
    silent = replace(
        GPU, power_w=None, energy_j=None, util_pct=None, memory_used_gib=None, temperature_c=None
    )
    Exposition(path, LABELS).write([silent])
    assert set(read(path)) == {"kdwatts_last_sample_timestamp_seconds", "kdwatts_run_info"}
    Exposition(path, LABELS).write([replace(silent, power_w=0.0)])
    assert read(path)["kdwatts_power_watts"] == [(GPU_SOURCE, 0.0)]


def test_labels_survive_quotes_newlines_and_bytes_that_are_no_utf8(tmp_path: Path):
    path = tmp_path / "live.prom"
    run = os.fsdecode(b'/runs/"a"\\b\nc\xff')
    Exposition(path, {**LABELS, "run": run}).write([GPU])
    ((labels, _),) = read(path)["kdwatts_power_watts"]
    assert labels["run"] == '/runs/"a"\\b\nc?'


def test_a_row_of_the_trace_and_the_tally_become_a_live_figure():
    sensor = Sensor("gpu", "GPU-5f0c", "nvml_counter", limit_w=700, delta_s=0.02, max_gap_s=0.3)
    row = TelemetryRow(
        "", 1.0, 1, window="run", device_kind="gpu", device_index=0, uuid="GPU-5f0c",
        method="nvml_counter", power_w=100.0, util_pct=93.0, memory_used_gib=4.0, temperature_c=45,
    )  # fmt: skip
    tally = advance(Tally(), Reading(1.0, 5000.0, 100.0), sensor)
    assert live(vars(row), span(sensor, Tally(), tally)).energy_j is None, "nothing is known yet"
    tally = advance(tally, Reading(3.0, 5200.0, 100.0), sensor)
    expected = replace(GPU, power_w=100.0, energy_j=200.0)
    assert live(vars(row), span(sensor, Tally(), tally)) == expected
    host = TelemetryRow("", 1.0, 1, "run", "host", None, util_pct=12.5, memory_used_gib=2.0)
    assert live(vars(host)) == HOST


def test_every_method_has_a_quality_that_keeps_estimates_apart():
    row: dict[str, Any] = vars(TelemetryRow("", 1.0, 1, "run", "cpu", None))
    for method, quality in QUALITY.items():
        assert live({**row, "method": method}).quality == quality


def test_a_reader_sees_whole_files_only(tmp_path: Path):
    path = tmp_path / "live.prom"
    exposition = Exposition(path, LABELS)
    exposition.write([GPU])
    with path.open() as file:
        exposition.write([replace(GPU, power_w=1.0)])
        old = file.read()
    assert "612.5" in old and old.endswith("\n")
    assert [one.name for one in tmp_path.iterdir()] == ["live.prom"]


def test_the_file_is_gone_after_a_clean_end(tmp_path: Path):
    exposition = Exposition(tmp_path / "live.prom", LABELS)
    exposition.write([GPU])
    exposition.close()
    exposition.close()
    assert list(tmp_path.iterdir()) == []


def test_in_a_folder_every_process_has_its_file_and_those_of_the_dead_go(tmp_path: Path):
    write = (
        "import sys; from kdwatts.telemetry.openmetrics import Exposition\n"
        "Exposition(sys.argv[1], {'run': '/runs/0'}).write([])"
    )
    command = [sys.executable, "-c", write, str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    (stale,) = tmp_path.iterdir()
    others = [tmp_path / "smartmon.prom", tmp_path / "kdwatts_otherhost_1.prom"]
    for path in others:
        path.write_text("")
    exposition = Exposition(tmp_path, LABELS)
    exposition.write([GPU])
    assert not stale.exists()
    assert stale.name.startswith("kdwatts_") and stale.suffix == ".prom"
    assert exposition.path.name == stale.name.replace(stale.stem.split("_")[-1], str(os.getpid()))
    assert set(tmp_path.iterdir()) == {*others, exposition.path}


@pytest.mark.parametrize("missing", ["nowhere/live.prom", "nowhere"], ids=["file", "folder"])
def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: str
):
    exposition = Exposition(tmp_path / missing, LABELS)
    for _ in range(3):
        exposition.write([GPU])
    exposition.close()
    (message,) = caplog.messages
    assert os.strerror(errno.ENOENT) in message
    assert "the run goes on without this file" in message
    assert f"; make the folder {tmp_path / 'nowhere'}, or make it writable, and" in message
    (tmp_path / "nowhere").mkdir()
    exposition.write([GPU])
    assert exposition.path.is_file(), "it is tried again"


def test_run_labels_name_the_slurm_job_only_inside_one(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    labels = run_labels(tmp_path, 3)
    assert (labels["run"], labels["attempt"]) == (str(tmp_path), "3")
    assert labels["slurm_job_id"] == "42"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert run_labels(tmp_path, 3)["slurm_job_id"] == ""


def test_the_client_library_is_imported_only_when_a_file_is_asked_for():
    code = (
        "import sys, kdwatts.telemetry.openmetrics as o\n"
        "print('prometheus_client' in sys.modules)\n"
        "o.Exposition('x.prom', {})\n"
        "print('prometheus_client' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_values_that_are_no_number_are_absent_and_cost_no_other(tmp_path):
    row = vars(TelemetryRow("", 1.0, 1, "run", "gpu", 0, uuid="GPU-0", method="nvml_counter"))
    row |= {"power_w": float("nan"), "util_pct": float("inf"), "temperature_c": 45.0}
    path = tmp_path / "live.prom"
    Exposition(path, LABELS).write([live(row)])
    found = read(path)
    assert "kdwatts_temperature_celsius" in found
    assert not {"kdwatts_power_watts", "kdwatts_utilization_ratio"} & found.keys()


def test_a_name_that_is_no_text_costs_no_file(tmp_path):
    path = tmp_path / "live.prom"
    Exposition(path, LABELS).write([replace(GPU, uuid="GPU-\udcff")], window="run/\udcff")
    ((labels, value),) = read(path)["kdwatts_power_watts"]
    assert (labels["uuid"], value) == ("GPU-?", 612.5)


def test_another_node_of_a_run_writes_beside_the_first_and_never_over_it():
    assert [place_of_node("/live/run.prom", number) for number in (1, 2)] == [
        Path("/live/run.prom"),
        Path("/live/run.n2.prom"),
    ]
    # Of a folder each process has a file of its own, with the host in its name.
    assert place_of_node("/live", 2) == Path("/live")
