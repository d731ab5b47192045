"""A run on two nodes: two meters in two processes, whose GPUs draw by traces of their own."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kdwatts.metrics.window_energy import waiting_energy, window_energy
from kdwatts.records.files import read_jsonl
from tests.telemetry.nodes import FIRST, node

HOST = socket.gethostname()

ONE, OTHER = [(0, 300, 100), (3, 350, 50)], [(0, 90), (2.5, 210), (4, 600)]
"""Traces of two GPUs and of one: seconds, then W of each GPU from then on."""

Trace = Sequence[tuple[float, ...]]


def _text(trace: Trace) -> str:
    return "\n".join(" ".join(map(str, point)) for point in trace) + "\n"


def _until_j(trace: Trace, time_s: float) -> float:
    """Joules of a trace from its start to a moment, by hand."""
    ends_s = [*(point[0] for point in trace[1:]), float("inf")]
    return sum(
        sum(point[1:]) * max(0.0, min(time_s, end_s) - point[0])
        for point, end_s in zip(trace, ends_s, strict=True)
    )


def _random_j(row: dict[str, Any]) -> float:
    return (row["uncertainty_j"]["gpu"] ** 2 - row["shared_uncertainty_j"]["gpu"] ** 2) ** 0.5


MEASURED = (
    FIRST
    + """
with Meter(out_dir, settings, others=others) as meter:
    offset_s = others[0].clock_offset().offset_s
    with meter.window("distill"), meter.window("train") as train:
        time.sleep(5)
print_json({"row": train.row, "offset_s": offset_s})
"""
)


@pytest.mark.parametrize("ahead_s", [0.0, 1000.0])
def test_joules_of_two_nodes_are_the_sum_of_their_traces_though_clocks_differ(
    nvml_dir: Path, tmp_path: Path, start_script, ahead_s: float
):
    start_s = time.monotonic()
    with node(nvml_dir, tmp_path, _text(OTHER), ahead_s=ahead_s, start_s=start_s) as (_, url):
        script = start_script(MEASURED, ONE, environment={"OTHER_URL": url}, start_s=start_s)
        result = script.finish()
    row, nodes = result["row"], result["row"]["nodes"]
    began_s = row["start_s"] - start_s
    spans_s = began_s, began_s + row["duration_s"]
    truths_j = [_until_j(trace, spans_s[1]) - _until_j(trace, spans_s[0]) for trace in (ONE, OTHER)]
    # The random error holds the stated skew, and how late an edge may be on a busy machine.
    assert row["energy_j"]["gpu"] == pytest.approx(
        sum(truths_j), abs=1e-3 * sum(truths_j) + 2 * _random_j(row)
    )
    assert nodes[0]["energy_j"]["gpu"] + nodes[1]["energy_j"]["gpu"] == row["energy_j"]["gpu"]
    assert row["coverage"]["gpu"] == pytest.approx(1, abs=0.01)
    assert row["quality"]["gpu"] == "measured" and row["method"]["gpu"] == "nvml_counter"
    assert [(n["number"], n["host"], n["waits"]) for n in nodes] == [
        (1, HOST, False),
        (2, HOST, False),
    ]
    assert nodes[0]["skew_s"] == 0 < nodes[1]["skew_s"]
    assert result["offset_s"] == pytest.approx(ahead_s, abs=1)
    rows = [one for one in read_jsonl(tmp_path / "telemetry.n2.jsonl") if one["uuid"]]
    assert {one["host"] for one in rows} == {HOST}
    inside = [one for one in rows if one["window"] == "run/distill/train"]
    assert inside[0]["monotonic_s"] - ahead_s == pytest.approx(row["start_s"], abs=2)
    assert not (tmp_path / "stages.jsonl").exists()


ALONE = (
    FIRST
    + """
with Meter(out_dir, settings, others=others) as meter:
    with meter.window("inference", alone=True) as stage:
        with meter.window("prefill") as inner:
            time.sleep(2.5)
    print_json({"stage": stage.row, "inner": inner.row})
"""
)


def test_nodes_that_wait_for_a_stage_are_in_its_joules_and_not_in_those_of_windows_inside(
    nvml_dir: Path, tmp_path: Path, start_script
):
    with node(nvml_dir, tmp_path, "0 80\n") as (_, url):
        rows = start_script(ALONE, [(0, 400)], environment={"OTHER_URL": url}).finish()
    stage, inner = rows["stage"], rows["inner"]
    assert [share["waits"] for share in stage["nodes"]] == [False, True]
    assert inner["nodes"] == []
    per_s = {name: row["energy_j"]["gpu"] / row["duration_s"] for name, row in rows.items()}
    assert per_s == {
        "stage": pytest.approx(480, rel=0.1),
        "inner": pytest.approx(400, rel=0.1),
    }
    assert waiting_energy(stage).number == stage["nodes"][1]["energy_j"]["gpu"]
    assert waiting_energy(inner).value == 0
    windows = {one["window"] for one in read_jsonl(tmp_path / "telemetry.n2.jsonl")}
    assert "run/inference" in windows and "run/inference/prefill" not in windows


SO_FAR = (
    FIRST
    + """
with Meter(out_dir, settings, others=others) as meter:
    with meter.window("train") as window:
        began_s = time.monotonic()
        seen = []
        while len(seen) < 40:
            time.sleep(0.1)
            asked_s = time.monotonic()
            seen.append((asked_s - began_s, window.so_far().value, time.monotonic() - began_s))
print_json({"seen": seen, "row": window.row})
"""
)


def test_joules_so_far_grow_with_what_the_other_node_used(
    nvml_dir: Path, tmp_path: Path, start_script
):
    with node(nvml_dir, tmp_path, "0 600\n") as (_, url):
        result = start_script(SO_FAR, [(0, 50)], environment={"OTHER_URL": url}).finish()
    known = [one for one in result["seen"] if one[1] is not None]
    # A GPU's sensor needs 2 s. From then on both nodes are known.
    assert known and known[-1] == result["seen"][-1]
    for asked_s, energy_j, answered_s in known:
        assert energy_j < 650 * (answered_s + 0.5)
        assert energy_j > 650 * (asked_s - 1) - 600 * 1.0
    assert known[-1][1] > 50 * 10
    assert known[-1][1] < window_energy(result["row"]).number * 1.05


SILENT = (
    FIRST
    + """
with Meter(out_dir, settings, others=others) as meter:
    with meter.window("before") as before:
        time.sleep(2.2)
    with meter.window("train") as train:
        print_json("inside")
        sys.stdin.readline()
        time.sleep(2.2)
        deadline_s = time.monotonic() + 60
        while train.so_far().value is not None:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
    with meter.window("after") as after:
        time.sleep(2.2)
rows = [one.row for one in (before, train, after)]
print_json({"rows": rows, "run": meter.row})
"""
)


@pytest.mark.parametrize(
    ("what", "why"),
    [("stopped", "does not answer"), ("killed", "does not answer"), ("anew", "was started anew")],
)
def test_a_node_that_falls_silent_or_is_started_anew_costs_its_joules_and_never_the_run(
    nvml_dir: Path, tmp_path: Path, start_script, what: str, why: str
):
    with node(nvml_dir, tmp_path, "0 80\n") as (process, url):
        script = start_script(SILENT, [(0, 400)], environment={"OTHER_URL": url})
        assert script.process.stdout.readline() == '"inside"\n'
        if what == "stopped":
            os.killpg(process.pid, signal.SIGSTOP)
            result = _go_on(script)
        else:
            process.kill()
            process.wait()
            if what == "killed":
                result = _go_on(script)
            else:
                port = int(url.rpartition(":")[2])
                with node(nvml_dir, tmp_path, "0 80\n", port=port):
                    result = _go_on(script)
    before, train, after = result["rows"]
    assert before["energy_j"]["gpu"] == pytest.approx(480 * before["duration_s"], rel=0.1)
    for row in (train, after, result["run"]):
        assert (row["energy_j"]["gpu"], row["quality"]["gpu"]) == (None, "missing")
        assert row["outcome"] == "done"
        assert row["reason"]["gpu"].startswith(f"node 2 ({HOST}): ") and why in row["reason"]["gpu"]
        # What this node used is known all the same.
        assert row["nodes"][0]["energy_j"]["gpu"] > 0
        assert row["nodes"][1]["energy_j"]["gpu"] is None


def _go_on(script) -> Any:
    script.process.stdin.write("on\n")
    script.process.stdin.flush()
    return script.finish()
