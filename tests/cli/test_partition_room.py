"""What is refused of a job that no nodes of its partition can be, as sinfo prints them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.cli.partition_room import check_room, launch_of
from kdwatts.runtime.ranks import Launch

TWO_KINDS = """main*|n1|8|64000
main*|n2|8|64000
main*|n3|32|256000
low|n1|8|64000
big|n4|64|1024000
big|n5|64|1024000"""


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts an sinfo first in the path that prints these lines, or those of --partition."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def put(lines: str, end: str = "exit 0") -> None:
        script = tmp_path / "sinfo"
        script.write_text(
            "#!/bin/sh\nnames='.*'\n"
            "for word; do case $word in --partition=*) names=${word#*=};; esac; done\n"
            f"cat <<'END' | grep -E \"^($(echo \"$names\" | tr , '|'))[*|]\"\n{lines}\nEND\n{end}\n"
        )
        script.chmod(0o755)

    return put


def params(**changes: Any) -> dict[str, Any]:
    asked = {"partition": "main", "nodes": 1, "mem_gb": 8, "cpus_per_task": 2, "tasks_per_node": 2}
    return {**asked, **changes}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"nodes": 4},
            "cluster.nodes=4 is more than partition main has, which is 3 nodes; ask for fewer, or "
            "choose another cluster.partition",
        ),
        (
            {"mem_gb": 251},
            "cluster.mem_gb=251 is more than the nodes of partition main have: none of 3 nodes has "
            "so much, and the largest has 250; ask for less, or choose another cluster.partition",
        ),
        (
            {"mem_gb": 100, "nodes": 2},
            "cluster.mem_gb=100 is more than the nodes of partition main have: 1 of 3 nodes has so "
            "much, and the largest has 250; ask for less, or choose another cluster.partition",
        ),
        (
            {"cpus_per_task": 8, "tasks_per_node": 5},
            "cluster.cpus_per_task=8 for each of hydra.launcher.tasks_per_node=5 is 40 CPUs a "
            "node, and none of 3 nodes has so many in partition main, where the largest has 32; "
            "ask for fewer, or choose another cluster.partition",
        ),
    ],
    ids=["nodes", "memory", "memory of several", "CPUs"],
)
def test_what_no_nodes_of_the_partition_have_is_refused_with_what_they_have(
    asked: dict[str, Any], said: str, sinfo: Callable[..., None]
):
    sinfo(TWO_KINDS)
    with pytest.raises(ValueError) as refusal:
        check_room(params(**asked))
    assert str(refusal.value) == said


@pytest.mark.parametrize(
    "asked",
    [
        {"nodes": 3},
        {"mem_gb": 250},
        {"mem_gb": 62, "nodes": 3},
        {"mem_gb": None},
        {"cpus_per_task": 8, "tasks_per_node": 4},
        {"partition": "main,big", "mem_gb": 900, "nodes": 2},
        {"partition": "unknown", "nodes": 9},
    ],
    ids=str,
)
def test_what_the_partition_has_passes_and_an_unknown_one_is_left_to_sbatch(
    asked: dict[str, Any], sinfo: Callable[..., None]
):
    sinfo(TWO_KINDS)
    check_room(params(**asked))


def test_without_a_partition_it_is_the_default_one(sinfo: Callable[..., None]):
    sinfo(TWO_KINDS)
    check_room(params(partition=None, nodes=3))
    with pytest.raises(ValueError, match=r"^cluster.nodes=4 is more than partition main has"):
        check_room(params(partition=None, nodes=4))


@pytest.mark.parametrize(
    ("lines", "end"),
    [(TWO_KINDS, "exit 1"), ("", "exit 0"), ("main*|n1|8+|64000", "exit 0")],
    ids=["failed", "silent", "other words"],
)
def test_nothing_is_refused_where_sinfo_does_not_say_what_there_is(
    lines: str, end: str, sinfo: Callable[..., None]
):
    sinfo(lines, end)
    check_room(params(nodes=9, mem_gb=9000, cpus_per_task=900))


def test_memory_that_the_cluster_does_not_state_is_no_memory_that_it_lacks(
    sinfo: Callable[..., None],
):
    sinfo("main*|n1|8|1\nmain*|n2|8|1")
    check_room(params(mem_gb=900, nodes=2))


def test_a_launch_has_the_ranks_of_all_its_nodes():
    assert launch_of(params(nodes=2, tasks_per_node=4)) == Launch(2, 8)
    assert launch_of(params(nodes=None, tasks_per_node=None)) == Launch(1, 1)
