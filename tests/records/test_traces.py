"""The names of the traces that the nodes of a run leave in its folder."""

from __future__ import annotations

from pathlib import Path

from kdwatts.records.traces import trace_name, traces_in


def test_traces_of_nodes_are_found_in_the_order_of_their_numbers_and_nothing_else(tmp_path: Path):
    for number in (10, 2, 1):
        (tmp_path / trace_name(number)).touch()
    for other in ("telemetry.n2.jsonl.gz", "telemetry.nx.jsonl", "telemetry.n3.json"):
        (tmp_path / other).touch()
    names = {number: path.name for number, path in traces_in(tmp_path).items()}
    assert names == {1: "telemetry.jsonl", 2: "telemetry.n2.jsonl", 10: "telemetry.n10.jsonl"}
    assert list(names) == [1, 2, 10]


def test_a_folder_without_a_trace_has_none(tmp_path: Path):
    assert traces_in(tmp_path) == {}
