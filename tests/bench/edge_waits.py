"""How long a window of two nodes waits at its end, beside one of one node.

    python -m tests.bench.edge_waits [ROUNDS]

Two processes on the replaying NVML library: the first rank's meter, and a node that it asks. Ends
of windows of one node and of two are timed in turn, for two periods of the counter.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.telemetry.conftest import REPOSITORY
from tests.telemetry.nodes import TOKEN, node, why_no_time_namespace

SOURCE = REPOSITORY / "tests" / "nvml_replay" / "nvml_replay.c"
PERIODS_MS = (20, 100)
"""Of the counter: GPUs update it every 20 to 100 ms."""


def main(rounds: int) -> None:
    """Print the milliseconds of both, side by side."""
    folder = Path(tempfile.mkdtemp())
    try:
        command = ["gcc", "-O2", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "-o"]
        subprocess.run([*command, folder / "libnvidia-ml.so.1", SOURCE, "-lm"], check=True)
        ahead_s = 0.0 if why_no_time_namespace() else 1000.0
        print(f"{'counter':>8} {'nodes':>6} {'median':>9} {'95 %':>9} {'most':>9}   skew, median")
        for period_ms in PERIODS_MS:
            with node(folder, folder, "0 80\n", ahead_s=ahead_s, counter_period_ms=period_ms) as (
                _,
                url,
            ):
                found = _measured(folder, url, period_ms, rounds)
            for nodes, waits_s in found["waits_s"].items():
                skew = (
                    f"{1000 * statistics.median(found['skews_s']):.1f} ms" if nodes == "2" else ""
                )
                print(f"{period_ms:>5} ms {nodes:>6} {_in_words(waits_s)}   {skew}")
    finally:
        shutil.rmtree(folder)


def _in_words(waits_s: Sequence[float]) -> str:
    waits_ms = sorted(1000 * wait_s for wait_s in waits_s)
    figures = statistics.median(waits_ms), waits_ms[int(0.95 * len(waits_ms))], waits_ms[-1]
    return " ".join(f"{figure:>6.1f} ms" for figure in figures)


def _measured(folder: Path, url: str, period_ms: int, rounds: int) -> dict:
    settings = {"LD_LIBRARY_PATH": str(folder), "NVML_REPLAY_COUNTER_PERIOD_MS": str(period_ms)}
    command = [sys.executable, "-m", "tests.bench.edge_waits", str(rounds), url, str(folder)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | settings, check=True, capture_output=True
    )
    return json.loads(done.stdout)


def _measure(rounds: int, url: str, folder: Path) -> None:
    """Print the waits of a first rank, in the process that has the library."""
    from kdwatts.config.machine import Telemetry
    from kdwatts.telemetry.meter import Meter
    from kdwatts.telemetry.other_nodes import OtherNode

    waits_s: dict[int, list[float]] = {1: [], 2: []}
    skews_s = []
    settings = Telemetry(rapl_root="/nowhere", idle_s=0)
    with Meter(folder / "first", settings, others=[OtherNode(2, url, TOKEN)]) as meter:
        for _ in range(rounds):
            with meter.window("both") as both:
                time.sleep(0.037)
                closes_s = time.monotonic()
            waits_s[2].append(time.monotonic() - closes_s)
            assert both.row
            skews_s += [share.skew_s for share in both.row.nodes if share.skew_s]
            with meter.window("alone", alone=True):
                with meter.window("one"):
                    time.sleep(0.037)
                    closes_s = time.monotonic()
                waits_s[1].append(time.monotonic() - closes_s)
    print(json.dumps({"waits_s": waits_s, "skews_s": skews_s}))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _measure(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
