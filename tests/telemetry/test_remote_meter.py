"""A meter in a second process that listens, as one on another host does, and who asks it."""

from __future__ import annotations

import http.client
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from kdwatts.telemetry.meter_token import meter_token
from kdwatts.telemetry.remote_meter import MeterLost, RemoteMeter
from kdwatts.telemetry.tallies_over_http import address_of
from tests.serving.other_host import REPOSITORY, meter_elsewhere
from tests.serving.slow_network import slow_network
from tests.waits import PATIENCE_S

Listen = Callable[..., AbstractContextManager[tuple[int, str]]]
WATTS = (150.0, 50.0)


@pytest.fixture
def listen(nvml_dir: Path, tmp_path: Path) -> Listen:
    """Starts a meter of two GPUs of known power; keywords but those of `meter_elsewhere` are
    settings of the replaying library."""

    def start(*options: str, ahead_s: float = 0.0, port: int = 0, token="", **settings: object):
        trace = tmp_path / "trace.txt"
        trace.write_text(f"0 {' '.join(map(str, WATTS))}\n")
        environment = {"LD_LIBRARY_PATH": str(nvml_dir), "NVML_REPLAY_TRACE": str(trace)}
        environment |= {f"NVML_REPLAY_{k.upper()}": str(v) for k, v in settings.items()}
        environment |= {"KDWATTS_METER_TOKEN": token} if token else {}
        return meter_elsewhere(
            tmp_path / "there", *options, ahead_s=ahead_s, port=port, environment=environment
        )

    return start


def _rows(tmp_path: Path) -> list[dict]:
    lines = (tmp_path / "there" / "stages.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
def test_joules_are_those_of_the_other_host_though_its_clocks_are_an_hour_off(
    listen: Listen, ahead_s: float
):
    with listen(ahead_s=ahead_s) as (_, url), RemoteMeter(url, None) as meter:
        start = meter.edge()
        assert start.time_s == pytest.approx(time.monotonic(), abs=10)
        assert start.host.time_s - start.time_s == pytest.approx(ahead_s, abs=0.01 + start.skew_s)
        time.sleep(2.2)
        end = meter.edge()
        part = meter.used_between(start, end)["gpu"]
        # On a busy machine each edge may be late by some updates of the counter, of 20 ms each.
        assert part.energy_j == pytest.approx(sum(WATTS) * (end.time_s - start.time_s), rel=0.05)
        assert (part.method, part.quality) == ("nvml_counter", "measured")
        one = meter.used_between(start, end, gpus=[meter.gpus[0].uuid])["gpu"]
        assert one.energy_j == pytest.approx(WATTS[0] * (end.time_s - start.time_s), rel=0.05)
        assert meter.counter_period_s() == pytest.approx(0.02, abs=0.02)


def test_a_slow_network_widens_the_skew_and_the_error_and_moves_no_joule(listen: Listen):
    with (
        listen() as (_, url),
        slow_network(url, 0.1) as slow_url,
        RemoteMeter(url, None) as near,
        RemoteMeter(slow_url, None) as far,
    ):
        start, far_start = near.edge(), far.edge()
        time.sleep(2.2)
        end, far_end = near.edge(), far.edge()
        quick, slow = near.used_between(start, end)["gpu"], far.used_between(far_start, far_end)
    # Of two ways that take 0.1 s each nobody knows how much one took.
    assert 0.1 <= far_start.skew_s < 0.3 and start.skew_s < far_start.skew_s
    part, duration_s = slow["gpu"], far_end.host.time_s - far_start.host.time_s
    assert part.energy_j == pytest.approx(sum(WATTS) * duration_s, rel=0.05)
    # Each edge adds the square of 200 W times its skew.
    assert part.uncertainty_j and quick.uncertainty_j
    random_j = (part.uncertainty_j**2 - (part.shared_uncertainty_j or 0.0) ** 2) ** 0.5
    skew_s = math.hypot(far_start.skew_s, far_end.skew_s)
    assert random_j == pytest.approx(200 * skew_s, rel=0.5)
    assert part.uncertainty_j > quick.uncertainty_j


def test_a_counter_that_is_lost_on_one_gpu_there_makes_the_sum_missing(listen: Listen):
    with listen(faults="1.5:1000:1:15") as (_, url), RemoteMeter(url, None) as meter:
        time.sleep(1.5)
        start = meter.edge()
        time.sleep(2.2)
        part = meter.used_between(start, meter.edge())["gpu"]
        assert (part.energy_j, part.quality) == (None, "missing")
        assert part.reason and meter.gpus[1].uuid in part.reason


def test_a_meter_that_was_started_anew_has_no_joules_of_the_window(listen: Listen):
    with listen() as (_, url):
        meter = RemoteMeter(url, None)
        start = meter.edge()
    with pytest.raises(MeterLost, match=r"^the meter at http://127\.0\.0\.1:\d+ does not answer"):
        meter.edge()
    with listen(port=int(urlsplit(url).port or 0)), meter:
        parts = meter.used_between(start, meter.edge())
    assert {part.energy_j for part in parts.values()} == {None}
    assert "was started anew in this window" in str(parts["gpu"].reason)


def test_windows_from_afar_have_rows_there_and_one_that_is_left_open_has_failed(
    listen: Listen, tmp_path: Path
):
    with listen() as (_, url), RemoteMeter(url, None) as meter:
        meter.edge(window="load_closed_1", at="start")
        with meter.window("load_closed_4"):
            pass
        with pytest.raises(KeyError), meter.window("load_closed_8"):
            raise KeyError
        meter.edge(window="parking", at="start")
    rows = [(row["window"], row["outcome"]) for row in _rows(tmp_path)]
    assert rows == [
        ("run/load_closed_1", "failed"),
        ("run/load_closed_4", "done"),
        ("run/load_closed_8", "failed"),
        ("run/parking", "failed"),
        ("run", "done"),
    ]


def test_only_who_has_the_token_is_answered(listen: Listen, tmp_path: Path):
    with listen(token="s3cret") as (_, url):
        for wrong in (None, "another"):
            with pytest.raises(ValueError, match=r"answers 401 .*wants another token"):
                RemoteMeter(url, wrong)
        path = tmp_path / "token"
        path.write_text("s3cret\n")
        token = meter_token({"KDWATTS_METER_TOKEN_FILE": str(path)})
        with RemoteMeter(url, token) as meter:
            assert len(meter.gpus) == 2


def test_a_token_that_cannot_be_read_or_sent_is_refused(tmp_path: Path):
    assert meter_token({}) is None
    with pytest.raises(ValueError, match=r"TOKEN_FILE=\S+ cannot be read \(no such file"):
        meter_token({"KDWATTS_METER_TOKEN_FILE": str(tmp_path / "nowhere")})
    for token in ("", "  ", "a\nb", "ä"):
        with pytest.raises(ValueError, match="METER_TOKEN holds no token of printable ASCII"):
            meter_token({"KDWATTS_METER_TOKEN": token})


def test_where_no_meter_answers_the_address_is_refused_in_a_sentence(timetable_url: str):
    with pytest.raises(
        ValueError, match=r"^--meter-url=http://127\.0\.0\.1:1: the meter at .* does not answer"
    ):
        RemoteMeter("http://127.0.0.1:1", None, name="--meter-url")
    with pytest.raises(ValueError, match=r"answers 404 .*; start `python -m kdwatts\.telemetry"):
        RemoteMeter(timetable_url, None)


@pytest.fixture
def timetable_url():
    """A server that is no meter."""
    command = [sys.executable, "tests/serving/timetable_server.py", "{}"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout
        yield process.stdout.readline().split()[1]
        process.kill()


def test_the_meter_is_asked_and_cannot_be_told(listen: Listen):
    with listen() as (_, url):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        for method, path, status in (
            ("POST", "/edge", 501),
            ("DELETE", "/edge", 501),
            ("GET", "/etc/passwd", 404),
            ("GET", "/edge?window=a%20b&at=start", 400),
            ("GET", "/edge?window=a&at=middle", 400),
            ("GET", "/edge?since_s=x", 400),
        ):
            connection.request(method, path)
            answer = connection.getresponse()
            assert (answer.status, answer.read() != b"") == (status, True), path
        connection.close()


def test_the_cpu_time_of_a_server_is_told_apart_there(listen: Listen):
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        options = ("--cpu-estimate-tdp", "30", "--cpu-estimate-threads", "3")
        with (
            listen(*options, "--pid", str(busy.pid)) as (_, url),
            RemoteMeter(url, None) as meter,
        ):
            start = meter.edge()
            deadline_s, used_s = time.monotonic() + PATIENCE_S, 0.0
            while used_s <= 0.2:
                assert time.monotonic() < deadline_s
                time.sleep(0.2)
                end = meter.edge()
                used_s = (end.host.processes_cpu_s or 0.0) - (start.host.processes_cpu_s or 0.0)
            # The rest is the meter's own. The two clocks are read one after the other.
            assert end.host.job_cpu_s - start.host.job_cpu_s >= used_s - 0.1
            assert meter.used_between(start, end)["cpu"].method == "tdp_model"
    finally:
        busy.kill()
        busy.wait()


def test_without_a_host_the_meter_answers_its_own_host_alone():
    assert address_of("9400") == address_of(":9400") == ("127.0.0.1", 9400)
    assert address_of("[::1]:9400") == ("::1", 9400)
    for text in ("node7", "node7:x", "node7:99999", ""):
        with pytest.raises(ValueError, match="is no address; give HOST:PORT"):
            address_of(text)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--listen", "10.255.255.1:9400"], "cannot be listened on"),
        (["--listen", "0", "--pid", "999999999"], "--pid=999999999 is no process of this host"),
        (["--listen", "node7"], "--listen=node7 is no address"),
    ],
)
def test_what_cannot_be_listened_on_is_refused(options: list[str], sentence: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "kdwatts.telemetry", *options, "--out", str(tmp_path / "a")],
        cwd=REPOSITORY,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "a").exists()
