"""What sampling one GPU at 10 Hz costs, beside a bare thread: `python tests/bench/sampler.py`.

Both run for 30 s on the replaying NVML library, one after the other in a process of their own. The
bare thread asks for power and energy and writes one line of JSON a tick, and does no more.
"""

from __future__ import annotations

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
out, seconds = sys.argv[1], float(sys.argv[2])
process = psutil.Process()
"""

METER = """
from pathlib import Path
from kdwatts.schema import Telemetry
from kdwatts.telemetry.meter import Meter
before = process.memory_info().rss
started = time.monotonic()
with Meter(Path(out), Telemetry(rapl_root="/nowhere")):
    entered = time.monotonic() - started
    time.sleep(2)
    used, threads = time.process_time(), threading.active_count()
    time.sleep(seconds)
    used = time.process_time() - used
"""

BARE = """
import pynvml
before = process.memory_info().rss
started = time.monotonic()
pynvml.nvmlInit()
card = pynvml.nvmlDeviceGetHandleByIndex(0)
file = open(out + "/bare.jsonl", "w", buffering=1)
def sample():
    due = time.monotonic()
    while True:
        power = pynvml.nvmlDeviceGetPowerUsage(card) / 1000
        energy = pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1000
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
print(f"{100 * used / seconds:.2f} % of a core, {grown:.1f} MiB more, started in "
      f"{1000 * entered:.0f} ms, {threads - 1} thread and {children} processes more")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libnvidia-ml.so.1"
        source = REPOSITORY / "tests" / "nvml_replay" / "nvml_replay.c"
        build = ["gcc", "-O2", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
        subprocess.run([*build, "-o", str(library), str(source), "-lm"], check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": folder}
        for name, body in (("kdwatts meter", METER), ("bare thread", BARE)):
            code = COMMON + body + REPORT
            command = [sys.executable, "-c", code, folder, str(SECONDS)]
            done = subprocess.run(
                command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True
            )
            print(f"{name:<14} {done.stdout.strip()}")


if __name__ == "__main__":
    main()
