"""Text to token shards beside datasets.map: `python -m tests.bench.shards`.

Writes JSONL of the shipped plays, each document with a number in front, and tokenizes it with one
core and with two: with `until=shards`, and with `datasets.map` in as many processes, which gives
the same ids into Arrow files. Each is a process of its own that may run on so many cores alone, one
after the other. Seconds are those of the work: of the stage, and of load_dataset and map; importing
is in neither. Memory is the sum over a process and its children of what is resident, sampled five
times a second: pages that they share count twice. Joules are the project's meter's in both.
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
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil

from kdwatts.config.data import TextSource
from kdwatts.data.documents import read_documents

REPOSITORY = Path(__file__).parents[2]

OURS = """
import json, os, sys
from pathlib import Path
path, out_dir, num_cores = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
from kdwatts.cli.attempt import run_in
from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.preflight import compose
from kdwatts.records.files import read_jsonl
asked = ["until=shards", "gpu=cpu", f"data.source.path={path}", f"store_dir={out_dir}/store"]
run_in(out_dir, resolve_gpu(compose(asked), []))
(row,) = [row for row in read_jsonl(out_dir / "stages.jsonl") if row["window"] == "run/shards"]
print(json.dumps(row))
"""

MAP = """
import json, os, sys
from pathlib import Path
path, out_dir, num_cores = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
os.environ["HF_HOME"] = str(out_dir / "home")
from datasets import load_dataset
from kdwatts.config.checks import to_config
from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.models.load import pair_tokenizer
from kdwatts.cli.preflight import compose
from kdwatts.records.files import read_jsonl
from kdwatts.telemetry.meter import Meter
config = to_config(resolve_gpu(compose(["gpu=cpu"]), []))
tokenizer = pair_tokenizer(config.model)
def ids(rows):
    found = tokenizer(rows["text"], add_special_tokens=False, split_special_tokens=True)
    return {"ids": [[*ids, tokenizer.eos_token_id] for ids in found["input_ids"]]}
with Meter(out_dir, config.telemetry, use_gpus=False) as meter:
    with meter.window("map"):
        rows = load_dataset("json", data_files=path, split="train")
        mapped = rows.map(
            ids, batched=True, remove_columns=rows.column_names,
            num_proc=num_cores if num_cores > 1 else None,
        )
(row,) = [row for row in read_jsonl(out_dir / "stages.jsonl") if row["window"] == "run/map"]
row["tokens"] = sum(len(one) for batch in mapped.iter(1000) for one in batch["ids"])
print(json.dumps(row))
"""


def write_text(path: Path, num_mb: float) -> int:
    """Write JSONL of at least so many megabytes; returns its bytes."""
    source = TextSource("tiny:corpus/train.jsonl.xz")
    texts = [str(document.content) for document in read_documents(source)]
    num_bytes = 0
    with path.open("w") as file:
        for number, text in enumerate(cycle(texts)):
            num_bytes += file.write(json.dumps({"text": f"{number} {text}"}) + "\n")
            if num_bytes >= num_mb * 1e6:
                return num_bytes
    raise AssertionError


def measured(script: str, *arguments: str) -> dict[str, Any]:
    """The row that a script prints, and `mib`, the most that it and its children held at once."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        peak_bytes = 0
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _resident_bytes(process.pid))
            time.sleep(0.2)
        assert process.stdout
        printed = process.stdout.read()
        if process.returncode:
            said.seek(0)
            sys.exit(f"{said.read()}\nshards: a process ended with {process.returncode}")
    return json.loads(printed.splitlines()[-1]) | {"mib": peak_bytes / 2**20}


def _resident_bytes(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.Error:
        pass  # One that has just ended holds nothing.
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mb", type=float, default=150, help="of JSONL")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kdwatts-shards-"))
    try:
        path = folder / "text.jsonl"
        num_mb = write_text(path, options.mb) / 1e6
        print(f"{num_mb:.0f} MB, load {os.getloadavg()[0]:.1f}")
        print("cores  what           seconds    MB/s   peak MiB   J per million tokens   tokens")
        for _ in range(options.rounds):
            for num_cores in options.cores:
                for name, script in (("kdwatts", OURS), ("datasets.map", MAP)):
                    out_dir = folder / "out"
                    out_dir.mkdir()
                    row = measured(script, str(path), str(out_dir), str(num_cores))
                    shutil.rmtree(out_dir)
                    energy_j = sum(filter(None, row["energy_j"].values()))
                    joules = f"{energy_j / row['tokens'] * 1e6:.2f}" if energy_j else ""
                    print(
                        f"{num_cores:>5}  {name:<12} {row['duration_s']:>9.1f} "
                        f"{num_mb / row['duration_s']:>7.2f} {row['mib']:>10,.0f} "
                        f"{joules or 'not measured':>22}   {row['tokens']:,}",
                        flush=True,
                    )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
