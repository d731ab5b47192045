"""Nodes that are one machine are told apart by all that tells machines apart."""

from __future__ import annotations

import pytest

from tests.slurm.nodes.cluster import PYTHON, Cluster

pytestmark = pytest.mark.slow

WHO = (
    "import os, socket, time; from pathlib import Path; print(socket.gethostname(), "
    "Path('/proc/sys/kernel/random/boot_id').read_text().strip(), os.readlink('/proc/self/ns/pid'),"
    "time.monotonic())"
)


def facts(said: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in said.split("\n") if line}


def test_tasks_of_two_nodes_differ_in_name_boot_id_process_ids_and_clock(cluster: Cluster):
    found = facts(cluster.run(["srun", "-N2", "-n2", PYTHON, "-c", WHO]))
    assert set(found) == {"n1", "n2"}
    (boot_1, pids_1, now_1), (boot_2, pids_2, now_2) = found["n1"], found["n2"]
    assert boot_1 != boot_2 and pids_1 != pids_2
    assert float(now_2) - float(now_1) == pytest.approx(1000, abs=60)


def test_a_lost_node_comes_back_as_a_machine_that_has_booted(cluster: Cluster):
    before = facts(cluster.run(cluster.on("n3", PYTHON, "-c", WHO)))["n3"]
    cluster.lose("n3")
    cluster.boot("n3")
    after = facts(cluster.run(["srun", "-wn3", PYTHON, "-c", WHO]))["n3"]
    assert before[0] != after[0]
    assert float(after[2]) < float(before[2])


def test_a_node_without_its_cable_reaches_nobody_until_it_is_back(cluster: Cluster):
    asked = cluster.run(["scontrol", "show", "config"]).split("\n")
    (port,) = [line.split()[-1] for line in asked if line.startswith("SlurmdPort")]
    reach = f"import socket; socket.create_connection(('n1', {port}), timeout=2)"
    command = cluster.on("n2", PYTHON, "-c", reach)
    cluster.run(command)
    with cluster.cut_off("n2"):
        code, said = cluster.end(cluster.start(command))
    assert code != 0 and "Error" in said.split("\n")[-2]
    cluster.run(command)
