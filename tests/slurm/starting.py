"""A real Slurm for tests, from its start to its end: of this machine alone, or of several nodes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
NEEDED_FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb")
NEEDED_FOR_NODES = ("ip", "pgrep")
IMPOSSIBLE = 3
"""Exit status of up.sh where packages cannot be installed, or nodes not be kept apart."""

REQUIRED = "KDWATTS_TEST_SLURM"
"""With this variable set to 1, as .ci/run does, a machine without Slurm fails the tests."""


def environment_of(directory: Path) -> dict[str, str]:
    """This process's environment, in which SLURM_CONF alone speaks of Slurm."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SUBMITIT_"))}
    path = f"{plain['PATH']}:/usr/sbin:/sbin"
    return {**plain, "PATH": path, "SLURM_CONF": str(directory / "slurm.conf")}


@contextmanager
def running(*, nodes: int = 0, accounting: bool = True, **settings: int) -> Iterator[Path]:
    """The folder of a cluster that runs meanwhile. `nodes=0` is this machine as the only node.

    `settings` are those of up.sh, such as `timeout_s=20`. Skips the test where no cluster can be
    started, and fails it where one must be. Raises AssertionError for processes that are left.
    """
    needed = [*NEEDED, *NEEDED_FOR_ACCOUNTING * accounting, *NEEDED_FOR_NODES * bool(nodes)]
    if reason := _why_not(needed):
        _refuse(reason)
    directory = Path(tempfile.mkdtemp(prefix="kdwatts-slurm-"))
    asked = {"port": _free_ports(4), "nodes": nodes, "dbd": int(accounting), **settings}
    told = {f"SLURM_TEST_{name.upper()}": str(value) for name, value in asked.items()}
    environment = {**environment_of(directory), **told}
    try:
        up = subprocess.run(
            ["bash", HERE / "up.sh", directory], capture_output=True, text=True, env=environment
        )
        if up.returncode == IMPOSSIBLE:
            _refuse(f"no Slurm can be started: {up.stderr.strip().splitlines()[-1]}")
        assert up.returncode == 0, up.stdout + up.stderr
        yield directory
    finally:
        subprocess.run(
            ["bash", HERE / "down.sh", directory], check=True, capture_output=True, env=environment
        )
        left = _processes_of(directory)
        shutil.rmtree(directory)
    assert left == [], "the cluster left processes behind"


def _refuse(reason: str) -> None:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {reason}")
    pytest.skip(reason)


def _why_not(needed: list[str]) -> str | None:
    """Why no Slurm can be started here."""
    if os.geteuid() != 0:
        return "a Slurm of our own is started by root alone"
    missing = [name for name in needed if not shutil.which(name, path="/usr/bin:/usr/sbin:/sbin")]
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
