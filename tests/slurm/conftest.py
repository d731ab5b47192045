"""A real Slurm of one node and two stand-in GPUs for the tests of this folder, ended after them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.sweeps import Sweep, start

HERE = Path(__file__).resolve().parent
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd", "mariadb")
NOT_INSTALLED = 3
"""Exit status of up.sh where packages are missing and cannot be installed."""

REQUIRED = "KDWATTS_TEST_SLURM"
"""With this variable set to 1, as .ci/run does, a machine without Slurm fails the tests."""


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """The folder of a running cluster, to which SLURM_CONF points; partition main preempts low."""
    if reason := _why_not():
        _refuse(reason)
    directory = Path(tempfile.mkdtemp(prefix="kdwatts-slurm-"))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
            patch.delenv(name)
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
        patch.setenv("SLURM_TEST_PORT", str(_free_ports(4)))
        try:
            up = subprocess.run(["bash", HERE / "up.sh", directory], capture_output=True, text=True)
            if up.returncode == NOT_INSTALLED:
                _refuse(f"apt-get cannot install Slurm: {up.stderr.strip().splitlines()[-1]}")
            assert up.returncode == 0, up.stdout + up.stderr
            patch.setenv("SLURM_CONF", str(directory / "slurm.conf"))
            yield directory
        finally:
            subprocess.run(["bash", HERE / "down.sh", directory], check=True, capture_output=True)
            left = _processes_of(directory)
            shutil.rmtree(directory)
        assert left == [], "the cluster left processes behind"


def _refuse(reason: str) -> None:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {reason}")
    pytest.skip(reason)


def _why_not() -> str | None:
    """Why no Slurm can be started here."""
    if os.geteuid() != 0:
        return "a Slurm of our own is started by root alone"
    missing = [name for name in NEEDED if not shutil.which(name, path="/usr/bin:/usr/sbin:/sbin")]
    if missing and not shutil.which("apt-get"):
        return f"{', '.join(missing)} are not installed, and there is no apt-get to install them"
    return None


def _free_ports(count: int) -> int:
    """The first of so many TCP ports in a row that nobody listens on."""
    for first in range(16_817, 30_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for number, one in enumerate(sockets):
                one.bind(("", first + number))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise RuntimeError(f"no {count} free ports in a row")


def _processes_of(directory: Path) -> list[str]:
    """What still runs of a cluster, its jobs and drivers, by the variable that names it."""
    mark, found = f"SLURM_CONF={directory}/slurm.conf".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0") and path.parent.name != str(os.getpid()):
                found.append(path.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # It ended meanwhile.
    return [command for command in found if command]


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
