"""The doctor's look at a GPU's meters, on the replaying NVML library under a load that it draws.

`examined(nvml_dir, out_dir, cases)` runs every case in a process of its own, forked from one that
has imported everything. A case takes half a minute, most of it asleep.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.doctor.examination import examine
from kdwatts.doctor.instruments.gpu_meters import LEAST_GPU_S, look_at_gpu
from kdwatts.doctor.patient import Check, Patient
from kdwatts.records.doctor_record import Verdict
from kdwatts.telemetry import nvml

REPOSITORY = Path(__file__).parents[3]

AHEAD_S = 0.03
"""A load is written so long before it begins or ends. The counter never falls for a late line."""

PIECE_S, LASTS_S = 0.03, 40.0
"""Power is constant for so long, and is written so far ahead."""

PRODUCTS_PER_S = 650.0

MOST_AT_ONCE = 13
"""Cases. More would keep each other from the processor."""


@dataclass
class Case:
    """One GPU to look at."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    """NVML_REPLAY_ ones, in lower case; `@12` is 12 s after the look has begun."""
    seed: int = 0
    idle_w: float = 80.0
    full_w: float = 600.0
    noise: float = 0.03
    """Standard deviation of a piece of power, of its mean."""
    can_load: bool = True
    is_starved: bool = False
    """A thread keeps Python's lock most of the time, as some extensions do."""
    seconds: float = LEAST_GPU_S


class DrawnLoad:
    """A load that appends its power to the trace which the library replays while it grows."""

    place = "gpu"

    def __init__(self, trace: Path, case: Case) -> None:
        self._file = trace.open("a")
        self._case, self._dice = case, random.Random(case.seed)
        self._on_s, self._drew_s, self._share = 0.0, 0.0, 0.0

    @property
    def num_done(self) -> int:
        on_s = max(0.0, time.monotonic() - self._on_s) if self._share else 0.0
        return int(PRODUCTS_PER_S * (self._drew_s + self._share * on_s))

    def begin(self, share: float = 1.0) -> float:
        self._on_s, self._share = self._draw(share), share
        return self._on_s

    def end(self) -> float:
        off_s = self._draw(0.0)
        self._drew_s += self._share * (off_s - self._on_s)
        self._share = 0.0
        return off_s

    def close(self) -> None:
        self._file.close()

    def _draw(self, share: float) -> float:
        case, at_s = self._case, time.monotonic() + AHEAD_S
        mean_w = case.idle_w + share * (case.full_w - case.idle_w)
        times_s = [at_s + PIECE_S * number for number in range(int(LASTS_S / PIECE_S))]
        self._file.write(
            "".join(
                f"{time_s:.6f} {mean_w * (1 + self._dice.gauss(0, case.noise)):.4f}\n"
                for time_s in times_s
            )
        )
        self._file.flush()
        return at_s


def examined(nvml_dir: Path, out_dir: Path, cases: Sequence[Case]) -> dict[str, list[Verdict]]:
    """The verdicts of each case by its name. Raises RuntimeError with what a case raised."""
    out_dir.mkdir(exist_ok=True)
    (out_dir / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    names = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    subprocess.run(
        [sys.executable, "-m", "tests.doctor.instruments.replayed", str(out_dir)],
        cwd=REPOSITORY,
        env=environment | {"LD_LIBRARY_PATH": str(nvml_dir)},
        check=True,
        timeout=900,
    )
    found = {}
    for number, case in enumerate(cases):
        told = json.loads((out_dir / str(number) / "verdicts.json").read_text())
        if isinstance(told, str):
            raise RuntimeError(f"{case.name}: {told}")
        found[case.name] = [Verdict(**one) for one in told]
    return found


def _examine_all(out_dir: Path) -> None:
    cases = [Case(**one) for one in json.loads((out_dir / "cases.json").read_text())]
    config = to_config(compose(["gpu=h100", "model=tiny", "telemetry.rapl_root=/nowhere"]))
    running: set[int] = set()
    for number, case in enumerate(cases):
        folder = out_dir / str(number)
        folder.mkdir()
        if len(running) == MOST_AT_ONCE:
            running.remove(os.wait()[0])
        time.sleep(0.3 * random.Random(case.seed).random())  # Another phase for each.
        child = os.fork()
        if child == 0:
            try:
                told = [asdict(verdict) for verdict in _examine(case, folder, config)]
            except BaseException:
                told = traceback.format_exc()
            (folder / "verdicts.json").write_text(json.dumps(told))
            os._exit(0)
        running.add(child)
    while running:
        running.remove(os.wait()[0])


def _examine(case: Case, folder: Path, config: Config) -> list[Verdict]:
    trace = folder / "trace.txt"
    trace.write_text(f"0 {case.idle_w}\n")
    settings = {"trace": trace, "live": 1, "start_s": 0} | case.settings
    begun_s = time.monotonic()
    for key, value in settings.items():
        said = re.sub(r"@([\d.]+)", lambda after: f"{begun_s + float(after[1]):.3f}", str(value))
        os.environ[f"NVML_REPLAY_{key.upper()}"] = said
    if case.is_starved:
        threading.Thread(target=_keep_the_lock, daemon=True).start()
    patient = Patient(config, nvml.list_gpus(), False, folder)
    make_load = (lambda: DrawnLoad(trace, case)) if case.can_load else None
    check = Check("meters", 1.0, 0.0, partial(look_at_gpu, make_load=make_load))
    chapters = {"instruments": [check]}
    return list(examine(patient, chapters, seconds=case.seconds, begin=lambda name: None))


def _keep_the_lock() -> None:
    sleep_us = ctypes.PyDLL(None).usleep  # Of PyDLL: a call does not release Python's lock.
    while True:
        sleep_us(400_000)
        time.sleep(0.02)


if __name__ == "__main__":
    _examine_all(Path(sys.argv[1]))
