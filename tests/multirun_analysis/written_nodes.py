"""Folders of runs on several nodes, as a run leaves them: clocks lie a thousand seconds apart."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import NodeShare, StageRow, TelemetryRow
from kdwatts.records.traces import trace_name
from tests.multirun_analysis.written_runs import append_all, stage_row, write_run

HOSTS = ("n1", "n2")
BEGIN_S = 5000.0
"""The first node's clock as the run begins."""
APART_S = 1000.0
"""How far each node's clock is ahead of that of the node before it."""
BEGAN = datetime(2025, 11, 14, 1, 21, tzinfo=UTC)
GPUS_OF_A_NODE = 2
BUSY_W, IDLE_W = 400.0, 80.0

PLAN = (("shards", 20.0, True), ("distill", 100.0, False), ("evaluate_student", 30.0, True))
"""Stage, seconds, and whether one rank builds it alone."""


def node_share(number: int, *, gpu_j: float | None, waits: bool, **changes: Any) -> NodeShare:
    """What a node drew, with an error of 5 % of which all is calibration; its memory is missing."""
    error_j = None if gpu_j is None else 0.05 * gpu_j
    share = NodeShare(
        host=HOSTS[number - 1],
        number=number,
        waits=waits,
        duration_s=10.0,
        skew_s=0.002 * (number - 1),
        energy_j={"gpu": gpu_j, "cpu": None, "dram": None},
        quality={"gpu": "missing" if gpu_j is None else "measured", "cpu": "missing",
                 "dram": "missing"},
        uncertainty_j={"gpu": error_j, "cpu": None, "dram": None},
        shared_uncertainty_j={"gpu": error_j, "cpu": None, "dram": None},
        coverage={"gpu": 1.0, "cpu": None, "dram": None},
    )  # fmt: skip
    return replace(share, **changes)


def nodes_row(stage: str, shares: list[NodeShare], **changes: Any) -> StageRow:
    """A window that is the sum of its shares, whose errors add in squares."""
    values_j = [share.energy_j["gpu"] for share in shares]
    known_j = [value_j for value_j in values_j if value_j is not None]
    whole_j = sum(known_j) if len(known_j) == len(shares) else None
    error_j = sum((0.05 * value_j) ** 2 for value_j in known_j) ** 0.5
    of = {"cpu": None, "dram": None}
    row = stage_row(
        stage,
        host=HOSTS[0],
        nodes=shares,
        energy_j={"gpu": whole_j, **of},
        quality={"gpu": "missing" if whole_j is None else "measured", "cpu": "missing",
                 "dram": "missing"},
        uncertainty_j={"gpu": None if whole_j is None else error_j, **of},
        shared_uncertainty_j={"gpu": None if whole_j is None else error_j, **of},
    )  # fmt: skip
    return replace(row, **changes)


def _nodes_manifest(folder: Path, *, num_nodes: int) -> None:
    """What the manifest of a run on several nodes says beside that of a run on one."""
    manifest = read_json(folder / "manifest.json")
    (gpu,) = manifest["gpus"]
    ranks = [list(range(2 * i, 2 * i + 2)) for i in range(num_nodes)]
    nodes = [
        {
            "number": i + 1,
            "host": HOSTS[i],
            "cpu": manifest["cpu"],
            "cpu_threads": 128,
            "memory_gib": 503.5,
            "ranks": ranks[i],
            "trace": trace_name(i + 1),
            "clock_offset_s": i * APART_S,
            "clock_skew_s": 0.001 * i,
        }
        for i in range(num_nodes)
    ]
    gpus = [
        gpu | {"index": index, "uuid": f"GPU-{i}{index}", "host": HOSTS[i]}
        for i in range(num_nodes)
        for index in range(GPUS_OF_A_NODE)
    ]
    facts = {"host": HOSTS[0], "launch": {"nodes": num_nodes, "ranks": 2 * num_nodes}}
    write_json(folder / "manifest.json", manifest | facts | {"nodes": nodes, "gpus": gpus})


def node_ticks(number: int, *, attempt: int = 1, begin_s: float = BEGIN_S) -> list[TelemetryRow]:
    """The trace of one node over PLAN: its GPUs and its host each second, by its own clock.

    All nodes are busy in a stage that is not built alone, and the first one in all stages.
    """
    host, ahead_s = HOSTS[number - 1], (number - 1) * APART_S
    rows, second, joules = [], 0, [1e6 * (index + 1) for index in range(GPUS_OF_A_NODE)]
    for stage, duration_s, alone in PLAN:
        power_w = IDLE_W if alone and number > 1 else BUSY_W
        for _ in range(int(duration_s)):
            common: dict[str, Any] = {
                "time_utc": (BEGAN + timedelta(seconds=second)).isoformat(timespec="milliseconds"),
                "monotonic_s": begin_s + ahead_s + second,
                "attempt": attempt,
                "window": f"run/{stage}",
                "host": host,
            }
            for index in range(GPUS_OF_A_NODE):
                joules[index] += power_w
                rows.append(
                    TelemetryRow(
                        **common, device_kind="gpu", device_index=index, method="nvml_counter",
                        uuid=f"GPU-{number - 1}{index}", power_w=power_w,
                        energy_counter_j=joules[index], util_pct=100.0 * (power_w > IDLE_W),
                        temperature_c=60.0,
                    )
                )  # fmt: skip
            host_row = TelemetryRow(
                **common, device_kind="host", device_index=None, util_pct=10.0 * number
            )
            rows.append(host_row)
            second += 1
    return rows


def write_nodes_run(folder: Path, *, num_nodes: int = 2, **changes: Any) -> Path:
    """The folder of a finished run on several nodes: manifest, stages, and a trace for each."""
    write_run(folder, num_gpus=GPUS_OF_A_NODE * num_nodes, **changes)
    _nodes_manifest(folder, num_nodes=num_nodes)
    clock_s, rows = BEGIN_S, []
    for stage, duration_s, alone in PLAN:
        shares = []
        for number in range(1, num_nodes + 1):
            waits = alone and number > 1
            gpu_j = GPUS_OF_A_NODE * duration_s * (IDLE_W if waits else BUSY_W)
            shares.append(
                node_share(number, gpu_j=gpu_j, waits=waits, duration_s=duration_s, skew_s=0.002)
            )
        rows.append(nodes_row(stage, shares, start_s=clock_s, duration_s=duration_s, key=stage))
        clock_s += duration_s
    append_all(folder / "stages.jsonl", rows)
    for number in range(1, num_nodes + 1):
        append_all(folder / trace_name(number), node_ticks(number))
    return folder
