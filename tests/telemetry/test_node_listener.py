"""How a node answers the first: where it listens, and what a question changes there."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.records.files import read_jsonl
from kdwatts.telemetry import remote_meter
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.node_listener import answering_node, own_address
from kdwatts.telemetry.node_meter import NodeMeter
from kdwatts.telemetry.other_nodes import OtherNode
from kdwatts.telemetry.tallies_over_http import Listener
from kdwatts.telemetry.window_edges import Edge
from tests.waits import wait_until

SETTINGS = Telemetry(
    rapl_root="/nowhere", cpu_estimate="tdp", cpu_tdp_w=100, cpu_tdp_threads=1, slow_interval_s=0.2
)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where the second node of a run on the CPU answers."""
    with answering_node(
        tmp_path,
        SETTINGS,
        attempt=3,
        number=2,
        use_gpus=False,
        peers=(),
        token="t",
        reach=("127.0.0.1", 9),
    ) as place:
        yield place


def _get(url: str, token: str = "t") -> Any:
    question = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(question, timeout=60) as answer:
        return json.load(answer)


def _windows(path: Path) -> set[str]:
    return {row["window"] for row in read_jsonl(path)} if path.is_file() else set()


def test_a_node_listens_where_it_reaches_the_first_rank(url: str):
    assert url.startswith("http://127.0.0.1:")
    assert own_address("localhost", 9) in ("127.0.0.1", "::1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # TEST-NET-1, RFC 5737: nothing is sent there.
        assert own_address("192.0.2.1", 9) == probe.getsockname()[0] != "127.0.0.1"


def test_an_edge_says_which_window_the_trace_belongs_to_from_then_on(url: str, tmp_path: Path):
    for path in ("run/distill/train", "run/evaluate_student/arc:easy|25", ""):
        _get(f"{url}/edge?{urllib.parse.urlencode({'path': path})}")
        wait_until(lambda path=path: path in _windows(tmp_path / "telemetry.n2.jsonl"))
    rows = list(read_jsonl(tmp_path / "telemetry.n2.jsonl"))
    assert {(row["attempt"], row["host"]) for row in rows} == {(3, socket.gethostname())}
    assert not (tmp_path / "stages.jsonl").exists()


@pytest.mark.parametrize("path", ["a%0Ab", 1001 * "x"])
def test_a_path_that_is_none_is_refused(url: str, path: str, tmp_path: Path):
    with pytest.raises(urllib.error.HTTPError, match="400"):
        _get(f"{url}/edge?path={path}")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _get(f"{url}/edge?path=run", token="another")
    assert _windows(tmp_path / "telemetry.n2.jsonl") <= {"run"}


def test_the_latest_tallies_grow_without_an_edge(url: str):
    def used_j() -> float:
        return sum(tally["counted_j"] for tally in _get(f"{url}/latest")["tallies"])

    first_j = used_j()
    spins = threading.Thread(target=lambda: sum(range(30_000_000)))
    spins.start()
    wait_until(lambda: used_j() > first_j)
    spins.join()


def test_a_meter_with_windows_of_its_own_keeps_them_whatever_it_is_asked(tmp_path: Path):
    listener = Listener("127.0.0.1", 0, "t")
    with Meter(tmp_path, SETTINGS, use_gpus=False) as meter, listener.answering(meter):
        _get(f"{listener.url}/edge?path=run/another")
        with meter.window("own"):
            wait_until(lambda: "run/own" in _windows(tmp_path / "telemetry.jsonl"))
    listener.close()
    assert _windows(tmp_path / "telemetry.jsonl") <= {"run", "run/own", ""}


def test_a_node_that_cannot_be_reached_is_refused_in_a_sentence():
    with pytest.raises(
        ValueError,
        match=r"^node 2=http://127\.0\.0\.1:1: the meter at \S+ does not answer \(.*\); "
        "let the nodes of a run reach each other on every TCP port$",
    ):
        OtherNode(2, "http://127.0.0.1:1", "t")


def test_an_edge_that_a_network_hid_for_a_moment_is_late_and_its_skew_says_so(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote_meter, "TIMEOUT_S", 3.0)
    edge, hides, first = NodeMeter.edge, threading.Event(), threading.get_ident()

    def late(self: NodeMeter) -> Edge:
        if hides.is_set() and threading.get_ident() != first:
            hides.clear()
            time.sleep(3.5)
        return edge(self)

    monkeypatch.setattr(NodeMeter, "edge", late)
    others = [OtherNode(2, url, "t")]
    meter = Meter(tmp_path / "first", SETTINGS, use_gpus=False, others=others)
    with meter, meter.window("train") as window:
        sum(range(3_000_000))
        hides.set()
    assert window.row
    own, other = window.row.nodes
    assert other.skew_s is not None and other.skew_s > 2.9
    assert (own.energy_j["cpu"] or 0.0) > 0 and (other.energy_j["cpu"] or 0.0) > 0
    assert (other.uncertainty_j["cpu"] or 0.0) > (own.uncertainty_j["cpu"] or 0.0)


def test_windows_over_nodes_without_gpus_are_sums_too(url: str, tmp_path: Path):
    # Two nodes in one process: each counts all of its CPU time.
    others = [OtherNode(2, url, "t")]
    with Meter(tmp_path / "first", SETTINGS, use_gpus=False, others=others) as meter:
        assert meter.hosts == dict.fromkeys((1, 2), socket.gethostname())
        with meter.window("train") as window:
            sum(range(10_000_000))
            wait_until(lambda: (window.so_far().value or 0) > 0)
    assert window.row and window.row.energy_j["cpu"]
    of_nodes = [share.energy_j["cpu"] or 0.0 for share in window.row.nodes]
    assert sum(of_nodes) == pytest.approx(window.row.energy_j["cpu"])
    assert of_nodes[1] == pytest.approx(of_nodes[0], rel=0.2)
    assert window.row.quality == {"gpu": "missing", "cpu": "estimated", "dram": "missing"}
    assert window.row.reason["gpu"] == "this run uses no GPU"
