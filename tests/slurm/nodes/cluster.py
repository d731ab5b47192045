"""A cluster of several nodes on this machine: what runs on them, and how they are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.slurm.starting import HERE, environment_of, running
from tests.waits import wait_until

ROOT = HERE.parents[1]
PYTHON = sys.executable
SILENCE_S = 60
"""Slurm calls a node DOWN that says nothing for so long: ranks must find it lost by themselves."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster, whose nodes are called n1, n2 and so on."""

    directory: Path
    environment: Mapping[str, str] = field(repr=False)
    """What a command must see to find this cluster; one thread a process."""

    def on(self, node: str, *command: str) -> list[str]:
        """The command that runs another on a node, outside of Slurm."""
        return ["nsenter", "-t", str(self.pid(node)), "-a", f"--wd={ROOT}", *command]

    def start(self, command: list[str], **changes: str) -> subprocess.Popen[str]:
        """A process that knows the cluster; what it says comes through one pipe.

        `changes` are made to its environment.
        """
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, process: subprocess.Popen[str], timeout_s: float = 300) -> tuple[int, str]:
        """Exit code and words of a process, which is killed where it takes longer."""
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            said = f"{process.communicate()[0]}\nkilled after {timeout_s:g} s"
        return process.returncode, said

    def run(self, command: list[str], timeout_s: float = 300, **changes: str) -> str:
        """What a command says, which must end well in this time. Raises AssertionError."""
        code, said = self.end(self.start(command, **changes), timeout_s)
        assert code == 0, said
        return said

    def pid(self, node: str) -> int:
        """The id outside of the node's first process, with which all others of it end."""
        return int((self.directory / "run" / f"node-{node}.pid").read_text())

    def ahead_s(self, node: str) -> float:
        """How far the node's monotonic clock is ahead of that of this process."""
        return float((self.directory / "nodes" / node / "ahead_s").read_text())

    @property
    def local_dir(self) -> Path:
        """The folder of which each node has its own, like a local disk."""
        return self.directory / "local"

    def local_dir_of(self, node: str) -> Path:
        """That folder of a node, as it is seen outside."""
        return self.directory / "nodes" / node / "local"

    def processes(self, node: str, words: str) -> list[int]:
        """Ids outside of the processes of a node in whose command line are these words.

        A lost node has none.
        """
        space = _space(self.pid(node))
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # It ended meanwhile.
            pid = int(path.parent.name)
            if words in command and space is not None and _space(pid) == space:
                found.append(pid)
        return sorted(found)

    def lose(self, node: str) -> None:
        """End a node and all that runs on it, at once and without a word."""
        pid = self.pid(node)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not _runs(pid))

    def boot(self, node: str) -> None:
        """Bring a lost node back, with another boot id and a clock begun anew, and wait for it."""
        command = ["bash", str(HERE / "nodes" / "node_up.sh"), str(self.directory), node[1:]]
        subprocess.run(command, check=True, capture_output=True, env=dict(self.environment))
        wait_until(lambda: self.state(node) == "idle")

    def state(self, node: str) -> str:
        """Slurm's word for a node, such as `idle`, with a star while it does not answer."""
        return self.run(["sinfo", "--noheader", f"--nodes={node}", "--format=%T"]).split()[0]

    @contextmanager
    def cut_off(self, node: str) -> Iterator[None]:
        """A node whose cable is pulled out meanwhile."""
        self._set_link(node, "down")
        try:
            yield
        finally:
            self._set_link(node, "up")

    def _set_link(self, node: str, state: str) -> None:
        bridge = (self.directory / "run" / "bridge").read_text().strip()
        self.run(["ip", "link", "set", f"{bridge}-{node[1:]}", state])


def _space(pid: int) -> str | None:
    """Within what the ids of a process are unique; None where it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _runs(pid: int) -> bool:
    try:
        return b"\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@contextmanager
def cluster_of(nodes: int, **settings: Any) -> Iterator[Cluster]:
    """A cluster without accounting unless asked for it; see `starting.running`."""
    how = {"accounting": False, "timeout_s": SILENCE_S, "cpus": 4, **settings}
    with running(nodes=nodes, **how) as directory:
        quiet = {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        yield Cluster(directory, {**environment_of(directory), **quiet})
