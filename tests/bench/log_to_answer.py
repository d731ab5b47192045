"""From a log of requests to the student that is served: a pair of shipped size behind vLLM.

`python tests/bench/log_to_answer.py OUT --vllm-python PATH`. It writes a log of one day (seeded:
Poisson arrivals whose rate follows the hours, lognormal lengths), distils `smollm2_135m_to_81m`
with few tokens, serves student and teacher at the log's lengths, each as it is and in int8, and
asks `choose --replay`. In 80 s at 4 requests/s a p99 has an upper end. Every command is printed
before it runs. Nothing else may run beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).parents[2]
HOURS = 24
SWING = 0.8
"""The rate goes from 1 - SWING to 1 + SWING times its mean, least at four in the morning."""


def main() -> None:
    """Run the commands from log to answer, each with the seconds that it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for log, store and runs")
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--rate", type=float, default=4.0, help="mean requests a second of the log")
    parser.add_argument("--rates", default="4", help="loads that are measured")
    parser.add_argument("--quantizations", default="int8")
    parser.add_argument("--min-window-s", type=float, default=80.0)
    parser.add_argument("--max-window-s", type=float, default=100.0)
    parser.add_argument("--ttft-s", type=float, default=1.0)
    parser.add_argument("--tpot-s", type=float, default=0.5)
    parser.add_argument("--limit", type=int, default=100, help="questions of the benchmark")
    parser.add_argument("--measurements", type=int, default=2, help="servers of each model")
    parser.add_argument("--until", default="serving", help="stage at which the run ends")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.jsonl"
    write_log(log, mean_rate_per_s=options.rate, seed=options.seed)
    python = sys.executable
    _run([python, "-m", "kdwatts.traffic", str(log)])
    serving = {
        "engine": "vllm",
        "vllm.python": options.vllm_python,
        "replay.log": str(log),
        "rates_per_s": f"[{options.rates}]",
        "quantizations": f"[{options.quantizations}]",
        "min_window_s": f"{options.min_window_s:g}",
        "max_window_s": f"{options.max_window_s:g}",
        "parking_settle_s": "5",
        "measurements": str(options.measurements),
    }
    task = f"name: 'tiny:word_order', primary_metric: acc, chance: 0.25, limit: {options.limit}"
    _run(
        [
            *(python, "-m", "kdwatts", "model=smollm2_135m_to_81m", "paradigm=response"),
            *("training.target_tokens=16384", f"eval.tasks=[{{{task}}}]"),
            *(f"eval.serving.{name}={value}" for name, value in serving.items()),
            f"until={options.until}",
            *(f"store_dir={out / 'store'}", f"hydra.run.dir={out / 'run'}"),
        ]
    )
    limits = ["--slo-ttft-p99-s", str(options.ttft_s), "--slo-tpot-p99-s", str(options.tpot_s)]
    choose = [python, "-m", "multirun_analysis", "choose", str(out / "run"), "--min-kept", "0.1"]
    _run([*choose, "--replay", str(log), *limits, "--site", "germany"])
    _run([*choose, "--tokens-per-day", f"{options.rate * 86_400 * (48 + 8):.0f}"])


def write_log(path: Path, *, mean_rate_per_s: float, seed: int) -> None:
    """A day of requests in kdwatts' own format: moments and lengths, no text."""
    draw = np.random.default_rng(seed)
    rows = []
    for hour in range(HOURS):
        rate = mean_rate_per_s * (1 - SWING * math.cos(2 * math.pi * (hour - 4) / HOURS))
        count = draw.poisson(rate * 3600)
        rows += np.sort(hour * 3600 + 3600 * draw.random(count)).tolist()
    prompts = _lengths(draw, len(rows), mean=48, sigma=0.5)
    answers = _lengths(draw, len(rows), mean=8, sigma=0.4)
    with path.open("w", encoding="utf-8") as file:
        for t_s, prompt, answer in zip(rows, prompts, answers, strict=True):
            row = {"t_s": round(t_s, 3), "prompt_tokens": prompt, "output_tokens": answer}
            file.write(json.dumps(row) + "\n")


def _lengths(draw: np.random.Generator, count: int, *, mean: float, sigma: float) -> list[int]:
    drawn = draw.lognormal(math.log(mean) - sigma**2 / 2, sigma, count)
    return np.maximum(1, np.rint(drawn)).astype(int).tolist()


def _run(command: list[str]) -> None:
    print(f"\n$ {shlex.join(command)}", flush=True)
    started_s = time.monotonic()
    done = subprocess.run(command, cwd=REPOSITORY)
    print(f"({time.monotonic() - started_s:.0f} s, exit code {done.returncode})", flush=True)


if __name__ == "__main__":
    main()
