"""What ranks that meet must have in common, and the secret that they share."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import (
    HashStore,  # pyright: ignore[reportPrivateImportUsage]
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
)

from kdwatts.runtime.ranks import Ranks
from kdwatts.telemetry.node_facts import facts_of_this_node
from kdwatts.telemetry.nvml import Device
from kdwatts.training import meeting
from kdwatts.training.meeting import EndedByAnother, nodes_of

GPU = Device(0, "GPU-1", "NVIDIA H100 80GB HBM3", 79.6, 700.0, "570.86", True, False)


def shown(
    rank: int, machine: str, *, host: str = "", space: str = "pid:1", gpus: tuple[Device, ...] = ()
) -> dict[str, Any]:
    facts = asdict(facts_of_this_node(gpus, ranks=[rank]))
    return {
        "machine": machine,
        "space": space,
        "pid": 100 + rank,
        "versions": "kdwatts 1 and torch 2",
        "node": {**facts, "host": host or machine},
    }


def test_ranks_of_a_machine_are_one_node_and_nodes_are_numbered_by_their_first_ranks():
    nodes = nodes_of([shown(0, "b"), shown(1, "a"), shown(2, "b"), shown(3, "a")])
    assert [(node.number, node.host, node.ranks) for node in nodes] == [
        (1, "b", [0, 2]),
        (2, "a", [1, 3]),
    ]


def test_the_gpus_of_a_node_are_those_that_its_first_rank_sees():
    nodes = nodes_of([shown(0, "a", gpus=(GPU,)), shown(1, "a"), shown(2, "b")])
    assert [node.gpus for node in nodes] == [[GPU], []]


def test_containers_that_a_meter_cannot_see_into_are_refused():
    with pytest.raises(RuntimeError, match="2 ranks were launched on a in containers of their own"):
        nodes_of([shown(0, "a"), shown(1, "a", space="pid:2")])
    nodes_of([shown(0, "a"), shown(1, "b", space="pid:2")])


def test_two_machines_of_one_name_and_one_gpu_on_two_are_refused():
    with pytest.raises(RuntimeError, match="2 nodes of this launch are called gpu1"):
        nodes_of([shown(0, "a", host="gpu1"), shown(1, "b", host="gpu1")])
    with pytest.raises(RuntimeError, match="GPU-1 is seen on two nodes"):
        nodes_of([shown(0, "a", gpus=(GPU,)), shown(1, "b", gpus=(GPU,))])


def test_ranks_of_two_versions_are_refused_with_both():
    other = {**shown(1, "b"), "versions": "kdwatts 2 and torch 2"}
    with pytest.raises(RuntimeError, match="kdwatts 1 and torch 2 and kdwatts 2 and torch 2"):
        nodes_of([shown(0, "a"), other])


@pytest.mark.parametrize("rank", [0, 1])
def test_what_every_rank_finds_wrong_is_said_by_the_first_alone(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(meeting, "LAST_WORD_S", 0.1)
    store = HashStore()
    store.set("device", "cpu")
    PrefixStore("facts", store).set(str(1 - rank), json.dumps(shown(1 - rank, "a")))
    with pytest.raises(RuntimeError) as refusal:
        meeting._acquainted(store, Ranks(rank, 2, 0), "cpu", tmp_path, [])
    assert isinstance(refusal.value, EndedByAnother) == (rank == 1)
    assert str(refusal.value).startswith("the ranks run") == (rank == 0)


def test_a_token_that_others_can_read_is_none(tmp_path: Path):
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(0o644)
    with pytest.raises(RuntimeError, match="is not a file of this user alone"):
        meeting._read_token(path)
    path.chmod(0o600)
    assert meeting._read_token(path) == "secret"
    if os.geteuid() == 0:
        os.chown(path, 1, -1)
        with pytest.raises(RuntimeError, match="is not a file of this user alone"):
            meeting._read_token(path)


def test_a_store_that_a_node_does_not_share_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(meeting, "TOKEN_PATIENCE_S", 0.0)
    with pytest.raises(RuntimeError, match=r"does not see .*absent.*a file system that all nodes"):
        meeting._read_token(tmp_path / "absent")
