"""A real Slurm of one node and two stand-in GPUs for the tests of this folder, ended after them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.starting import environment_of, running
from tests.slurm.sweeps import Sweep, start


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """The folder of a running cluster, to which SLURM_CONF points; partition main preempts low."""
    with pytest.MonkeyPatch.context() as patch, running() as directory:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
            patch.delenv(name)
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, environment_of(directory)[name])
        yield directory


@pytest.fixture(scope="session")
def sweep(slurm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sweep]]:
    """Starts a sweep of small CPU runs that ask for a stand-in GPU each."""
    started: list[Sweep] = []

    def begin(*overrides: str) -> Sweep:
        folder = tmp_path_factory.mktemp("sweep")
        small = [
            *("training=smoke", "gpu=cpu", "until=distill", f"store_dir={folder}/store"),
            *("cluster.partition=main", "cluster.gres=gpu:1", "cluster.cpus_per_task=1"),
            *("cluster.mem_gb=1", "cluster.timeout_min=60"),
        ]
        asked = [*small, *overrides]
        started.append(Sweep(folder / "sweep", asked, start(folder / "sweep", asked)))
        return started[-1]

    yield begin
    for one in started:
        if one.driver.poll() is None:
            one.driver.kill()
            one.driver.communicate()
