"""What the meter takes from a training that runs beside it: `python -m tests.bench.slowdown`.

The demo's student trains in blocks of steps, in turn with and without a meter that reads a GPU of
the replaying NVML library, RAPL and the host. The ratio of neighbouring blocks is told with its
95 % interval; a machine that does nothing else gives a narrow one.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdwatts.metrics.student_t import to_half_width
from tests.bench.sampler import REPOSITORY, add_zone, build_replay

STEPS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40, help="of blocks (40, about two minutes)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        _compare(options.folder, options.pairs)
        return
    with tempfile.TemporaryDirectory() as folder:
        build_replay(Path(folder))
        add_zone(Path(folder) / "powercap" / "intel-rapl:0", "package-0")
        add_zone(Path(folder) / "powercap" / "intel-rapl:0:0", "dram")
        # The library must be there before the process begins.
        command = [sys.executable, "-m", "tests.bench.slowdown", f"--pairs={options.pairs}"]
        subprocess.run(
            [*command, f"--folder={folder}"],
            cwd=REPOSITORY,
            env={**os.environ, "LD_LIBRARY_PATH": folder, "OMP_WAIT_POLICY": "passive"},
            check=True,
        )


def _compare(folder: Path, num_pairs: int) -> None:
    import torch

    from kdwatts.cli.preflight import compose
    from kdwatts.config.checks import to_config
    from kdwatts.config.machine import Telemetry
    from kdwatts.models.load import load_model
    from kdwatts.telemetry.meter import Meter

    torch.manual_seed(0)
    config = to_config(compose(["gpu=cpu"]))
    student = load_model(config.model.student, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(student.parameters())
    shape = (config.training.micro_batch, config.training.sequence_length)
    tokens_BT = torch.randint(config.model.student.architecture.vocab_size, shape)

    def block_s() -> float:
        started_s = time.perf_counter()
        for _ in range(STEPS):
            student(input_ids=tokens_BT, labels=tokens_BT).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - started_s

    block_s()
    settings = Telemetry(rapl_root=str(folder / "powercap"))
    ratios = []
    for pair in range(num_pairs):
        times_s = {}
        # Who comes first alternates, so that a drift of the machine falls on both.
        for metered in (True, False) if pair % 2 else (False, True):
            if metered:
                with Meter(folder / "run", settings):
                    times_s[metered] = block_s()
            else:
                times_s[metered] = block_s()
        ratios.append(times_s[True] / times_s[False])
    half = to_half_width(statistics.stdev(ratios) / math.sqrt(num_pairs))
    print(
        f"with over without the meter: {statistics.mean(ratios):.4f} +- {half:.4f} (95 %), median "
        f"{statistics.median(ratios):.4f}, {num_pairs} pairs of {times_s[False]:.2f} s"
    )


if __name__ == "__main__":
    main()
