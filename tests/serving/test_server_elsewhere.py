"""A server whose joules a meter on its own host counts: whole loads on GPUs of known power."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kdwatts.config.serving import RunningServers, Serving
from kdwatts.serving.engines.starting import check
from tests.serving.known_power import REPOSITORY, Case, Result, measure

SHORT = {"min_window_s": 4.0, "max_window_s": 30.0, "concurrency": [4]}
HOUR_S = 3600.0

CASES = [
    Case("elsewhere", SHORT | {"parking_s": 2.1}, elsewhere_ahead_s=HOUR_S),
    Case("lost", SHORT, elsewhere_ahead_s=0.0, event="the meter dies"),
    Case("two GPUs", SHORT, power={"gpus": 2}),
    Case("two GPUs elsewhere", SHORT, power={"gpus": 2}, elsewhere_ahead_s=-HOUR_S),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere") / "power"


@pytest.fixture(scope="module")
def measured(nvml_dir: Path, folder: Path) -> dict[str, Result]:
    return measure(nvml_dir, folder, CASES)


@pytest.mark.parametrize("name", ["elsewhere", "two GPUs", "two GPUs elsewhere"])
def test_joules_per_token_are_those_of_the_servers_own_log(measured, name: str):
    measured[name].check_joules_per_token()


def test_the_record_is_of_the_servers_host(measured):
    record = measured["two GPUs elsewhere"].record
    assert record.points[0].scope == f"all GPUs of {socket.gethostname()}"
    assert (record.host, len(record.gpus), len(record.gpu_uuids)) == (socket.gethostname(), 2, 2)
    assert record.cpu and record.power_limit_w
    assert record.num_gpus_of_server is None


def test_the_parked_server_elsewhere_draws_its_idle_power(measured):
    parking = measured["elsewhere"].record.parking_power_w
    assert parking.value == pytest.approx(60, rel=0.01)
    assert parking.low <= 60 <= parking.high


def test_windows_that_are_measured_from_afar_are_in_the_records_there(measured, folder: Path):
    there = folder / "0" / "there"
    rows = [json.loads(line) for line in (there / "stages.jsonl").read_text().splitlines()]
    names = ["run/load_closed_4", "run/parking", "run"]
    assert [row["window"] for row in rows] == names
    assert [row["outcome"] for row in rows] == ["done", "done", "done"]
    here = measured["elsewhere"].rows
    assert [row["window"] for row in here] == names
    # Joules there, none here; and the two clocks are an hour apart.
    assert 60 < rows[0]["energy_j"]["gpu"] / rows[0]["duration_s"] < 260
    assert here[0]["energy_j"]["gpu"] is None
    assert rows[0]["start_s"] - here[0]["start_s"] == pytest.approx(HOUR_S, abs=5)
    ticks = [json.loads(line) for line in (there / "telemetry.jsonl").read_text().splitlines()]
    assert "run/load_closed_4" in {row["window"] for row in ticks}


def test_a_meter_that_is_lost_costs_the_joules_and_no_latency(measured):
    point = measured["lost"].point
    assert (point.j_per_token.value, point.energy_quality) == (None, "missing")
    assert point.ttft_s.p50.value and point.requests_per_s.value
    (remark,) = [one for one in point.remarks if one.startswith("Joules were not measured")]
    assert "does not answer" in remark


def test_a_meter_that_does_not_answer_is_refused_at_the_start(tmp_path: Path):
    command = "--url http://127.0.0.1:1 --meter-url http://127.0.0.1:2 --tokenizer nowhere"
    done = subprocess.run(
        [sys.executable, "-m", "kdwatts.serving", *command.split(), "--out", str(tmp_path / "a")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("kdwatts: --meter-url=http://127.0.0.1:2: the meter at")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"student": "http://a:1", "student_meter": "node7"}, "student_meter=node7 is no address"),
        ({"student": "http://a:1", "student_meter": "http://me:hush@b:1"}, "name or password"),
        ({"teacher_meter": "http://me:hush@b:1", "student": "http://a:1"}, "name or password"),
        ({"student": "http://a:1", "teacher_meter": "http://b:1"}, r"url\.teacher has no address"),
    ],
)
def test_a_meter_without_a_server_or_an_address_is_refused(settings: dict, sentence: str):
    with pytest.raises(ValueError, match=sentence) as refused:
        check(Serving(engine="url", url=RunningServers(**settings)))
    assert "hush" not in str(refused.value)
