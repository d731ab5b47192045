"""What ranks say to each other so that the first one's meter sees all nodes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from kdwatts.runtime.ranks import Ranks
from kdwatts.stages.node_meters import clock_offsets, meter_here, meters_of_others
from kdwatts.stages.rank_messages import Measure
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.node_facts import NodeFacts
from kdwatts.training.company import Company
from tests.whole_runs import config_of

NODES = [
    NodeFacts(1, "a", "a cpu", 8, 64.0, ranks=[0, 1], gpus=[]),
    NodeFacts(2, "b", "a cpu", 8, 64.0, ranks=[2, 3], gpus=[]),
]


def _company(rank: int) -> Company:
    return Company(Ranks(rank, 4, rank % 2, 2), None, token="t", nodes=NODES)


def test_the_first_rank_reaches_the_meter_of_another_node_by_what_it_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    config = config_of("gpu=cpu", "telemetry.rapl_root=/nowhere")
    with meter_here(Measure(config, tmp_path, 1), _company(2)) as url:
        # Ranks that lead no node answer nothing.
        others = meters_of_others(_company(0), {1: None, 2: {"url": url}, 3: None})
        with Meter(tmp_path, config.telemetry, use_gpus=False, others=others) as meter:
            assert meter.hosts == dict.fromkeys((1, 2), socket.gethostname())
            offset = clock_offsets(others)[2]
        assert abs(offset.offset_s) <= offset.skew_s < 60
    assert (tmp_path / "telemetry.n2.jsonl").is_file()


def test_a_node_that_did_not_answer_is_named():
    with pytest.raises(
        RuntimeError, match=r"^node 2 \(b\) was asked .* see the log of rank 2 on b"
    ):
        meters_of_others(_company(0), {1: None, 3: None})
