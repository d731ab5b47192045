"""One real Slurm of three nodes for the tests of this folder, ended after them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.nodes.cluster import Cluster, cluster_of


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three nodes n1, n2 and n3 of four CPUs each, all of them this machine's."""
    with cluster_of(3) as running:
        yield running
