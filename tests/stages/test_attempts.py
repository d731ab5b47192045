"""What killed attempts drew, from the traces of all nodes that they had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdwatts.metrics.window_energy import waiting_energy, window_energy
from kdwatts.records.files import append_jsonl
from kdwatts.records.schema import SCHEMA, TelemetryRow
from kdwatts.records.traces import trace_name
from kdwatts.stages.attempts import ATTEMPTS_NAME, earlier_attempts


def _trace(run_dir: Path, number: int, power_w: float, *, starts_s: float, host: str) -> None:
    """Eleven readings, a second apart, of a GPU inside the window that a kill left open."""
    for second in range(11):
        row = TelemetryRow(
            time_utc="2026-01-01T00:00:00.000+00:00",
            monotonic_s=starts_s + second,
            attempt=2,
            window="run/distill/train",
            device_kind="gpu",
            device_index=0,
            uuid=f"GPU-{number}",
            method="nvml_counter",
            energy_counter_j=7000.0 + power_w * second,
            host=host,
        )
        append_jsonl(run_dir / trace_name(number), row)


def _tick(run_dir: Path, time_s: float, window: str, energy_j: float, number: int = 1) -> None:
    """A reading at this many seconds after midnight of a GPU that may draw 500 W."""
    row = TelemetryRow(
        time_utc=f"2026-01-01T00:00:{time_s:06.3f}+00:00",
        monotonic_s=1000.0 * number + time_s,
        attempt=2,
        window=window,
        device_kind="gpu",
        device_index=0,
        uuid=f"GPU-{number}",
        method="nvml_counter",
        energy_counter_j=energy_j,
        power_limit_w=500.0,
        host="ab"[number - 1],
    )
    append_jsonl(run_dir / trace_name(number), row)


def _note(scratch_dir: Path, run_dir: Path, **more: Any) -> None:
    attempt = {"schema": SCHEMA, "run_dir": str(run_dir), "attempt": 2, **more}
    append_jsonl(scratch_dir / ATTEMPTS_NAME, attempt)


NODES = [{"number": 1, "host": "a"}, {"number": 2, "host": "b"}]


def test_joules_of_a_killed_attempt_are_those_of_all_its_nodes(tmp_path: Path):
    _trace(tmp_path, 1, 300.0, starts_s=50.0, host="a")
    # Its clock counts from the start of its own host.
    _trace(tmp_path, 2, 100.0, starts_s=9000.0, host="b")
    _note(tmp_path, tmp_path, nodes=NODES, alone=False)
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=1.0)
    # Ten seconds between the readings, and half a step after the last.
    assert record["energy_j"]["gpu"] == pytest.approx(400.0 * 10.5)
    assert record["quality"]["gpu"] == "measured"
    assert [(n["number"], n["host"], n["waits"]) for n in record["nodes"]] == [
        (1, "a", False),
        (2, "b", False),
    ]
    assert record["host"] == "a"
    assert window_energy(record).number == record["energy_j"]["gpu"]


def test_a_node_that_waited_for_a_killed_stage_did_so_in_its_record(tmp_path: Path):
    _trace(tmp_path, 1, 300.0, starts_s=50.0, host="a")
    _trace(tmp_path, 2, 100.0, starts_s=9000.0, host="b")
    _note(tmp_path, tmp_path, nodes=NODES, alone=True)
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=1.0)
    assert waiting_energy(record).value == pytest.approx(100.0 * 10.5)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_trace_that_is_gone_makes_the_sum_missing_with_the_nodes_name(tmp_path: Path, lost: int):
    kept = 3 - lost
    _trace(tmp_path, kept, 300.0, starts_s=50.0, host="ab"[kept - 1])
    _note(tmp_path, tmp_path, nodes=NODES, alone=False)
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=1.0)
    assert record["energy_j"]["gpu"] is None
    assert record["reason"]["gpu"] == (
        f"node {lost} ({'ab'[lost - 1]}): {trace_name(lost)} has no rows of this attempt"
    )
    assert record["nodes"][kept - 1]["energy_j"]["gpu"] == pytest.approx(300.0 * 10.5)


def test_an_older_note_and_an_older_trace_are_of_one_node(tmp_path: Path):
    _trace(tmp_path, 1, 300.0, starts_s=50.0, host="a")
    path = tmp_path / trace_name(1)
    path.write_text(path.read_text().replace('"host": "a"', '"older": 1'))
    assert '"older"' in path.read_text()
    _note(tmp_path, tmp_path)
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=1.0)
    assert record["energy_j"]["gpu"] == pytest.approx(300.0 * 10.5)
    assert (record["host"], record["nodes"]) == (None, [])


def test_an_attempt_without_any_trace_has_missing_joules(tmp_path: Path):
    _note(tmp_path, tmp_path / "gone", nodes=NODES, alone=False)
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=1.0)
    assert window_energy(record).quality == "missing"


def test_a_window_that_closed_without_a_lost_node_is_read_from_the_traces(tmp_path: Path):
    _trace(tmp_path, 1, 300.0, starts_s=50.0, host="a")
    _trace(tmp_path, 2, 100.0, starts_s=9000.0, host="b")
    _note(tmp_path, tmp_path, nodes=NODES, alone=False)
    shares = [{"number": 1, "duration_s": 10.0}, {"number": 2, "duration_s": None}]
    closed = {
        "schema": SCHEMA,
        "window": "run/distill",
        "attempt": 2,
        "duration_s": 10.0,
        "energy_j": dict.fromkeys(("gpu", "cpu", "dram")),
        "nodes": shares,
    }
    append_jsonl(tmp_path / "stages.jsonl", closed)
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=1.0)
    assert record["energy_j"]["gpu"] == pytest.approx(400.0 * 10.5)

    # With an edge of every node the closed window is what counts.
    shares[1]["duration_s"] = 10.0
    append_jsonl(tmp_path / "stages.jsonl", closed)
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=1.0)
    assert record["energy_j"]["gpu"] is None


def _killed_at_once(run_dir: Path, number: int, *, ticks: int) -> None:
    """Three seconds at 200 W, ten readings a second, of which the last `ticks` are of distill."""
    for tenth in range(31):
        window = "run/distill" if tenth > 30 - ticks else "run/shards"
        _tick(run_dir, tenth / 10, window, 20.0 * tenth, number)


@pytest.mark.parametrize("ticks", [(0, 0), (1, 0), (0, 2), (2, 1)])
def test_an_attempt_that_was_killed_within_its_first_ticks_has_joules_with_a_wide_error(
    ticks: tuple[int, int], tmp_path: Path
):
    for number in (1, 2):
        _killed_at_once(tmp_path, number, ticks=ticks[number - 1])
    _note(tmp_path, tmp_path, nodes=NODES, alone=False, time_utc="2026-01-01T00:00:03.050+00:00")
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=0.1)
    seconds = [max(0.05, 0.1 * count) for count in ticks]
    assert record["energy_j"]["gpu"] == pytest.approx(200.0 * sum(seconds))
    # Each GPU may have drawn 500 W.
    least_j = 500 / 3**0.5 * max(seconds)
    assert least_j < record["uncertainty_j"]["gpu"] < 1.1 * 500 / 3**0.5 * sum(seconds)
    assert "too short for the GPU's sensor" in record["reason"]["gpu"]


@pytest.mark.parametrize("sign", ["another node's ticks", "a window inside", "the note's date"])
def test_a_trace_that_ended_long_before_a_kill_has_no_joules_of_it(sign: str, tmp_path: Path):
    _killed_at_once(tmp_path, 1, ticks=10 if sign == "another node's ticks" else 0)
    _killed_at_once(tmp_path, 2, ticks=0)
    if sign == "a window inside":
        inside = {"schema": SCHEMA, "window": "run/distill/load", "attempt": 2, "duration_s": 9.0}
        append_jsonl(tmp_path / "stages.jsonl", inside)
    second = 9 if sign == "the note's date" else 3
    noted = f"2026-01-01T00:00:0{second}.050+00:00"
    _note(tmp_path, tmp_path, nodes=NODES, alone=False, time_utc=noted)
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=0.1)
    assert record["energy_j"]["gpu"] is None


def test_gpus_in_a_window_that_closed_too_soon_for_them_are_read_from_the_trace(tmp_path: Path):
    _killed_at_once(tmp_path, 1, ticks=10)
    _note(tmp_path, tmp_path)
    closed = {"schema": SCHEMA, "window": "run/distill", "attempt": 2, "duration_s": 1.0}
    append_jsonl(tmp_path / "stages.jsonl", {**closed, "energy_j": {"gpu": None, "cpu": 70.0}})
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=0.1)
    assert record["energy_j"]["gpu"] == pytest.approx(200.0)
    (tmp_path / trace_name(1)).unlink()
    (record,) = earlier_attempts(tmp_path, window="run/distill", interval_s=0.1)
    assert record["energy_j"] == {"gpu": None, "cpu": 70.0}
