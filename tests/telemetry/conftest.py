"""Fixtures: scripts that run on the replaying NVML library, and a powercap tree."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kdwatts.telemetry import rapl

REPOSITORY = Path(__file__).parents[2]

PREAMBLE = """
import json, os, sys, time
from pathlib import Path
from kdwatts.config.machine import Telemetry
from kdwatts.telemetry.meter import Meter
out_dir = Path(sys.argv[1])
print_json = lambda value: print(json.dumps(value, default=vars), flush=True)
"""


@dataclass
class Script:
    """A Python process under the replaying library."""

    process: subprocess.Popen[str]
    out_dir: Path

    def finish(self) -> Any:
        """What the script printed as JSON; its last line when it printed several."""
        printed, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors, errors
        return json.loads(printed.splitlines()[-1])

    def rows(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.out_dir / "telemetry.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["device_kind"] == kind]


@pytest.fixture(scope="session")
def start_script(nvml_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Script]:
    """Starts code on the replaying library; settings are NVML_REPLAY_ ones, in lower case."""

    def start(
        body: str,
        trace: list[tuple[float, ...]] | None = None,
        environment: dict[str, str] | None = None,
        **settings: object,
    ) -> Script:
        out_dir = tmp_path_factory.mktemp("run")
        names = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS")
        full = {name: value for name, value in os.environ.items() if name not in names}
        full |= {"LD_LIBRARY_PATH": str(nvml_dir)} | (environment or {})
        full |= {f"NVML_REPLAY_{name.upper()}": str(value) for name, value in settings.items()}
        if trace is not None:
            path = out_dir / "trace.txt"
            path.write_text("\n".join(" ".join(map(str, point)) for point in trace) + "\n")
            full["NVML_REPLAY_TRACE"] = str(path)
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + body, str(out_dir)],
            cwd=REPOSITORY,
            env=full,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Script(process, out_dir)

    return start


UPDATE_S = 0.002
"""Between two updates of a counter of a PowercapTree."""


def _last_update_s() -> float:
    return math.floor(time.monotonic() / UPDATE_S) * UPDATE_S


class PowercapTree:
    """A writable /sys/class/powercap."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def add(
        self, zone: str, name: str, *, energy_j: float = 0.0, range_j: float = 262_143.0
    ) -> None:
        folder = self.root / zone
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{round(range_j * 1e6)}\n")
        self.set(zone, energy_j)

    def set(self, zone: str, energy_j: float) -> None:
        path = self.root / zone / "energy_uj"
        # In place and always as long: a reader never sees a file that is being written.
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(f"{round(energy_j * 1e6):018d}\n".encode())

    @contextmanager
    def drawing(self, **power_w: float) -> Iterator[dict[str, float]]:
        """The zones, named as `package_0` or `dram_0`, draw this power; it may be changed.

        The counters are updated each 2 ms. This process reads the last update, however late the
        thread is that writes them for others.
        """
        zones = {
            name: f"intel-rapl:{name[-1]}" + (":0" if "dram" in name else "") for name in power_w
        }
        energy_j = {
            name: int((self.root / zone / "energy_uj").read_text()) / 1e6
            for name, zone in zones.items()
        }
        last_s = _last_update_s()
        lock, ended = threading.Lock(), threading.Event()
        read_j = rapl.Counter.read_j

        def catch_up() -> None:
            nonlocal last_s
            with lock:
                now_s = _last_update_s()
                for name, zone in zones.items():
                    energy_j[name] += power_w[name] * (now_s - last_s)
                    if (self.root / zone / "energy_uj").exists():
                        self.set(zone, energy_j[name])
                last_s = now_s

        def draw() -> None:
            while not ended.wait(UPDATE_S):
                catch_up()

        def read_now_j(counter: rapl.Counter) -> float:
            catch_up()
            return read_j(counter)

        thread = threading.Thread(target=draw)
        thread.start()
        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(rapl.Counter, "read_j", read_now_j)
                yield power_w
        finally:
            ended.set()
            thread.join()


@pytest.fixture
def powercap(tmp_path: Path) -> PowercapTree:
    return PowercapTree(tmp_path / "powercap")
