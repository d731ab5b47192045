"""What sampling one GPU at 10 Hz costs, beside a bare thread: `python tests/bench/sampler.py`.

Each runs for 30 s on the replaying NVML library, one after the other in a process of its own, and
all of it again `--rounds` times, so that a noisy machine shows. The meter reads counter, power and
RAPL (one package and its memory) ten times a second and all slow quantities once a second. The
bare thread asks for power and energy and writes one line of JSON a tick, and does no more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SECONDS = 30

COMMON = """
import json, sys, threading, time
import psutil
import kdwatts.config.machine, kdwatts.records.schema  # Which every run has.
out, powercap, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
process = psutil.Process()
before = process.memory_info().rss
"""

METER = """
from pathlib import Path
from kdwatts.config.machine import Telemetry
from kdwatts.telemetry.meter import Meter
started = time.monotonic()
with Meter(Path(out), Telemetry(rapl_root=powercap)):
    entered = time.monotonic() - started
    time.sleep(2)
    used, threads = time.process_time(), threading.active_count()
    time.sleep(seconds)
    used = time.process_time() - used
"""

BARE = """
import pynvml
started = time.monotonic()
pynvml.nvmlInit()
GPU = pynvml.nvmlDeviceGetHandleByIndex(0)
file = open(out + "/bare.jsonl", "w", buffering=1)
def sample():
    due = time.monotonic()
    while True:
        power = pynvml.nvmlDeviceGetPowerUsage(GPU) / 1000
        energy = pynvml.nvmlDeviceGetTotalEnergyConsumption(GPU) / 1000
        file.write(json.dumps({"t": time.monotonic(), "w": power, "j": energy}) + "\\n")
        due += 0.1
        time.sleep(max(0.0, due - time.monotonic()))
threading.Thread(target=sample, daemon=True).start()
entered = time.monotonic() - started
time.sleep(2)
used, threads = time.process_time(), threading.active_count()
time.sleep(seconds)
used = time.process_time() - used
"""

REPORT = """
grown = (process.memory_info().rss - before) / 2**20
children = len(process.children())
print(f"{100 * used / seconds:.3f} % of a core, {grown:.1f} MiB with its libraries, started in "
      f"{1000 * entered:.0f} ms, {threads - 1} thread and {children} processes more")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        build_replay(Path(folder))
        powercap = Path(folder) / "powercap"
        add_zone(powercap / "intel-rapl:0", "package-0")
        add_zone(powercap / "intel-rapl:0:0", "dram")
        environment = {**os.environ, "LD_LIBRARY_PATH": folder}
        for name, body in (("kdwatts meter", METER), ("bare thread", BARE)) * rounds:
            code = COMMON + body + REPORT
            command = [sys.executable, "-c", code, folder, str(powercap), str(SECONDS)]
            done = subprocess.run(
                command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True
            )
            print(f"{name:<14} {done.stdout.strip()}", flush=True)


def build_replay(folder: Path) -> None:
    """The replaying libnvidia-ml.so.1, in a folder for LD_LIBRARY_PATH."""
    source = REPOSITORY / "tests" / "nvml_replay" / "nvml_replay.c"
    build = ["gcc", "-O2", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([*build, "-o", str(library), str(source), "-lm"], check=True)


def add_zone(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    (folder / "energy_uj").write_text("123456789\n")


if __name__ == "__main__":
    main()
