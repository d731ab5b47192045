"""A sweep on the test cluster, as its tests see it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdwatts.records.files import read_json, read_jsonl

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Sweep:
    """A sweep in its folder, and the process of the driver that last was started for it."""

    sweep_dir: Path
    overrides: Sequence[str]
    driver: subprocess.Popen[str]

    def end(self, timeout_s: float = 400) -> tuple[int, str]:
        """Exit code and output of the driver, once it ends."""
        output, _ = self.driver.communicate(timeout=timeout_s)
        return self.driver.returncode, output

    def again(self, *overrides: str) -> Sweep:
        """The same command once more."""
        self.driver = start(self.sweep_dir, [*self.overrides, *overrides])
        return self

    def status(self, run: str) -> dict[str, Any]:
        path = self.sweep_dir / run / "status.json"
        return read_json(path) if path.is_file() else {}

    def steps(self, run: str) -> list[dict[str, Any]]:
        path = self.sweep_dir / run / "train.jsonl"
        return list(read_jsonl(path)) if path.is_file() else []

    def job(self, run: str) -> str:
        """The job that a run was last sent as."""
        path = self.sweep_dir / "jobs.jsonl"
        rows = list(read_jsonl(path)) if path.is_file() else []
        sent = {folder: job for row in rows for folder, job in row["jobs"].items()}
        return sent[str(self.sweep_dir / run)]

    def weights(self, run: str) -> bytes:
        return (self.sweep_dir / run / "student" / "model.safetensors").read_bytes()


def start(sweep_dir: Path, overrides: Sequence[str]) -> subprocess.Popen[str]:
    """A driver of a sweep on Slurm; it writes what it says into one pipe."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "kdwatts", "-m", "hydra/launcher=slurm"),
            *(f"hydra.sweep.dir={sweep_dir}", *overrides),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell's background jobs, such as these tests may be, ignore Ctrl-C and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(condition: Callable[[], Any], what: str, timeout_s: float = 90) -> None:
    """Wait for a condition; fails with `what` when it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not in {timeout_s} s"
        time.sleep(0.1)
