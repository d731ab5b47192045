"""What collecting a thousand runs costs: `python -m tests.bench.collect`.

Writes the runs into a temporary folder (some 5 GB with the defaults; removed at the end), then, in
one process each and one after the other:

- json by line into a pandas frame a run, on `--sample` of the runs, and scaled to all of them;
- the first collection, the second, which finds nothing changed, and one after a run has changed;
- the page.

Memory is the sum over a process and its children of what is resident, sampled five times a second:
pages that they share count twice. Files are in the page cache, as they were just written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.bench.many_runs import write_runs

REPOSITORY = Path(__file__).parents[2]

BY_LINE = """
import json, sys, time
import pandas as pd
started_s = time.perf_counter()
for path in sys.argv[1:]:
    with open(path) as file:
        frame = pd.DataFrame([json.loads(line) for line in file if line.endswith("\\n")])
print(json.dumps({"seconds": time.perf_counter() - started_s}))
"""

COLLECT = """
import json, sys, time
from pathlib import Path
from multirun_analysis.collect.collection import collect
started_s = time.perf_counter()
collected = collect([Path(sys.argv[1])], Path(sys.argv[2]))
print(json.dumps({"seconds": time.perf_counter() - started_s, "runs": len(collected.runs)}))
"""

REPORT = """
import json, sys, time
from pathlib import Path
from multirun_analysis.collect.collection import collect
from multirun_analysis.report.page import write_report
collected = collect([Path(sys.argv[1])], Path(sys.argv[2]))
started_s = time.perf_counter()
path = write_report(collected, Path(sys.argv[2]))
seconds = time.perf_counter() - started_s
print(json.dumps({"seconds": seconds, "bytes": path.stat().st_size}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000, help="of telemetry, per run")
    parser.add_argument("--sample", type=int, default=50, help="runs that json reads")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kdwatts-collect-"))
    try:
        _measure(root, options.runs, options.rows, min(options.sample, options.runs))
    finally:
        shutil.rmtree(root)


def _measure(root: Path, num_runs: int, num_rows: int, num_sample: int) -> None:
    runs_dir, out_dir = root / "runs", root / "out"
    needed_bytes = num_runs * (num_rows * 600 + 500_000)
    if shutil.disk_usage(root).free < needed_bytes:
        sys.exit(
            f"{root}: {needed_bytes / 1e9:.1f} GB are needed there; set TMPDIR to a larger disk"
        )
    folders = write_runs(
        runs_dir, num_runs=num_runs, rows_per_run=num_rows, num_workers=os.cpu_count() or 1
    )
    print(
        f"{num_runs} runs of {num_rows} rows, {_bytes_below(runs_dir) / 1e9:.2f} GB, "
        f"{os.cpu_count()} processors"
    )
    sample = [str(folder / "telemetry.jsonl") for folder in folders[:: num_runs // num_sample]]
    by_line = _run(BY_LINE, *sample[:num_sample])
    line_s = by_line["seconds"] * num_runs / num_sample
    print(
        f"json by line, telemetry alone: {by_line['seconds']:.1f} s for {num_sample} runs, that is "
        f"{line_s:.0f} s for all; peak {by_line['mib']:.0f} MiB"
    )
    first = _run(COLLECT, str(runs_dir), str(out_dir))
    second = _run(COLLECT, str(runs_dir), str(out_dir))
    with (folders[num_runs // 2] / "train.jsonl").open("a") as file:
        file.write('{"schema": 1, "step": 401, "tokens": 2005000, "loss": 2.0}\n')
    third = _run(COLLECT, str(runs_dir), str(out_dir))
    assert first["runs"] == second["runs"] == third["runs"] == num_runs
    for name, found in (("first", first), ("second", second), ("one run changed", third)):
        print(f"{name}: {found['seconds']:.2f} s, peak {found['mib']:.0f} MiB")
    print(
        f"first {line_s / first['seconds']:.1f} times faster than json by line, second "
        f"{first['seconds'] / second['seconds']:.0f} times faster than the first"
    )
    print(f"tables: {_bytes_below(out_dir) / 1e6:.0f} MB")
    report = _run(REPORT, str(runs_dir), str(out_dir))
    print(
        f"page: {report['seconds']:.1f} s, {report['bytes'] / 1e6:.1f} MB, peak "
        f"{report['mib']:.0f} MiB"
    )


def _run(script: str, *arguments: str) -> dict[str, float]:
    """What a script prints, and `mib`, the most that it and its children held at once."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    peak_bytes = 0
    while process.poll() is None:
        peak_bytes = max(peak_bytes, _resident_bytes(process.pid))
        time.sleep(0.2)
    assert process.stdout
    printed = process.stdout.read()
    if process.returncode:
        sys.exit(f"a measured process ended with exit code {process.returncode}")
    return json.loads(printed) | {"mib": peak_bytes / 2**20}


def _resident_bytes(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        for one in (parent, *parent.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # It ended while it was looked at.
    return total


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
