"""Joules and seconds of a teacher's top-k signals: our own forward pass beside vLLM.

`python tests/bench/signals_engine.py --teacher DIR --vllm-python PATH`. Both ways make one cache of
the same rows, one after the other, on the CPU. Joules are estimated from processor time and rated
watts. A position is a token of a row. Starting is what happens before the first row: loading the
teacher, or starting vLLM. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kdwatts.records.files import read_json, read_jsonl
from kdwatts.teacher.cache import SignalCache

REPOSITORY = Path(__file__).parents[2]


def main() -> None:
    """Print one line for each way and each K, and how far the two caches differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", required=True, help="folder of SmolLM2 135M")
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--k", default="64", help="numbers with commas between them")
    parser.add_argument("--tdp", type=float, default=280.0, help="rated W of the processor")
    parser.add_argument("--threads", type=int, default=128, help="its hardware threads")
    options = parser.parse_args()
    print("| K | way | positions | ms/position | J/position | start s | start J |")
    print("| --- " * 7 + "|")
    with tempfile.TemporaryDirectory() as scratch:
        for k in map(int, options.k.split(",")):
            made = [_made(way, k, Path(scratch), options) for way in ("loop", "vllm")]
            print(f"largest difference of a probability: {_difference(*made):.2g}", flush=True)


def _made(way: str, k: int, scratch: Path, options: Any) -> Path:
    """The cache of one way, and its line."""
    run_dir = scratch / f"{way}-{k}"
    command = [
        *(sys.executable, "-m", "kdwatts", f"hydra.run.dir={run_dir}", f"store_dir={scratch}"),
        *("model=smollm2_135m_to_81m", f"model.teacher.path={options.teacher}"),
        *(f"model.tokenizer={options.teacher}", "paradigm=response", "gpu=cpu", "eval=none"),
        *("until=teacher", "paradigm.response.teacher_temperatures=[1]"),
        *(f"paradigm.response.k={k}", "paradigm.response.cache_precision=f16"),
        *(f"training.sequence_length={options.length}", "training.micro_batch=8"),
        *("training.accumulation=1", f"training.target_tokens={options.tokens}"),
        *("training.precision=fp32", "training.heldout_every=0"),
        f"telemetry.cpu_tdp_w={options.tdp}",
        f"telemetry.cpu_tdp_threads={options.threads}",
    ]
    if way == "vllm":
        python = options.vllm_python
        command += ["paradigm.signals_engine=vllm", f"eval.serving.vllm.python={python}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{way}: {done.stderr.strip()}")
    rows = {row["window"]: row for row in read_jsonl(run_dir / "stages.jsonl")}
    whole, load = rows["run/teacher"], rows["run/teacher/load"]
    (folder,) = [path for path in (scratch / "teacher").iterdir() if _run_of(path) == run_dir.name]
    index = read_json(folder / "signals.json")
    positions = index["num_rows"] * index["sequence_length"]
    seconds = whole["duration_s"] - load["duration_s"]
    joules = whole["energy_j"]["cpu"] - load["energy_j"]["cpu"]
    print(
        f"| {k} | {way} | {positions:,} | {1000 * seconds / positions:.2f} "
        f"| {joules / positions:.4f} | {load['duration_s']:.1f} | {load['energy_j']['cpu']:.0f} |",
        flush=True,
    )
    return folder


def _run_of(folder: Path) -> str | None:
    """Name of the run that made an artifact. None where it is not finished."""
    record = folder / "artifact.json"
    return read_json(record)["run"] if record.is_file() else None


def _difference(first: Path, second: Path) -> float:
    """Of the probabilities of those positions at which both caches hold the same tokens."""
    signals = []
    for folder in (first, second):
        cache = SignalCache(folder)
        sparse = cache.read(np.load(folder / "rows.npy")).sparse
        assert sparse
        signals.append(sparse.at(1.0, cache.plan.temperatures))
    one, other = signals
    same_N = (one.ids_NK == other.ids_NK).all(-1)
    return float((one.log_p_NK.exp() - other.log_p_NK.exp())[same_N].abs().max())


if __name__ == "__main__":
    main()
