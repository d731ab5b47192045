"""Energy of known traces, measured by the meter on the replaying NVML library, all at once.

`measure(nvml_dir, out_dir)` runs every case in a process of its own, forked from one that has
imported everything: about half a minute for all of them, most of it spent asleep.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from kdwatts.config.machine import Telemetry
from kdwatts.telemetry.integration import integrate_power_j
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.parts import CALIBRATION

REPOSITORY = Path(__file__).parents[2]
REPLAY_SOURCE = REPOSITORY / "tests" / "nvml_replay" / "nvml_replay.c"
UUID = "GPU-5f0c{:04x}-aaaa-bbbb-cccc-dddddddddddd"

Trace = list[tuple[float, float]]
"""From each time in seconds on, the power in watts."""

WINDOW_S = 20.0
FIRST_WINDOW_S = 3.0
"""Trace time; each case begins a little later than the one before, at another phase."""
LENGTH_S = 40

# nvmlReturn_t
TIMEOUT, GPU_IS_LOST, UNKNOWN = 10, 15, 999


def _constant() -> Trace:
    return [(0.0, 350.0)]


def _square_1_hz() -> Trace:
    return [(half / 2, 600.0 if half % 2 else 80.0) for half in range(2 * LENGTH_S)]


def _bursts_6_s() -> Trace:
    return [(float(t), 80.0 if t % 6 else 650.0) for t in range(LENGTH_S)]


def _bursts_random() -> Trace:
    dice = random.Random(0)
    points, time_s = [], 0.0
    while time_s < LENGTH_S:
        points.append((time_s, dice.uniform(60, 700)))
        time_s += dice.expovariate(2)
    return points


TRACES = {
    "constant": _constant(),
    "square 1 Hz": _square_1_hz(),
    "bursts 6 s": _bursts_6_s(),
    "bursts random": _bursts_random(),
    "another's": [(t / 4, 100.0 + 550.0 * (t % 3)) for t in range(4 * LENGTH_S)],
}


@dataclass(frozen=True)
class Case:
    """One way in which a GPU is read, and what the meter must make of it."""

    condition: str
    traces: tuple[str, ...]
    """One for each GPU of the node."""
    expects: str
    """exact: within 0.1 %; stated: within the stated uncertainty; refused: no figure."""
    counter_period_ms: int = 20
    ours: tuple[int, ...] = (0,)
    """GPUs of the job."""
    settings: dict[str, object] = field(default_factory=dict)
    """NVML_REPLAY_ ones, in lower case."""
    environment: dict[str, str] = field(default_factory=dict)
    says: str = ""
    """Pattern that the reason of the figure must match; empty where no gap may be claimed."""
    inner_s: tuple[tuple[float, float], ...] = ()
    """Windows inside the window: start and length, from its start on."""

    @property
    def name(self) -> str:
        return f"{self.condition}, {self.traces[self.ours[0]]}, {self.counter_period_ms} ms"


@dataclass(frozen=True)
class Result:
    """What the meter made of a case."""

    case: Case
    row: dict[str, Any]
    inner: list[dict[str, Any]]
    start_s: float
    """Monotonic seconds of the trace's begin."""
    share_pct: float
    """CPU time of the process while the window was open, of one core."""
    log: str

    def true_j(self, from_s: float, to_s: float) -> float:
        """Analytic energy between two monotonic times."""
        return sum(
            truth_j(TRACES[self.case.traces[gpu]], from_s - self.start_s, to_s - self.start_s)
            for gpu in self.case.ours
        )

    @property
    def window_j(self) -> float:
        return self.true_j(self.row["start_s"], end_s(self.row))

    @property
    def energy_j(self) -> float | None:
        return self.row["energy_j"]["gpu"]

    @property
    def error_pct(self) -> float:
        return math.nan if self.energy_j is None else 100 * (self.energy_j / self.window_j - 1)

    @property
    def sampled_error_pct(self) -> float:
        """Of the power samples alone, as a tool without the counter would integrate them."""
        sampled_j = self.row["sampled_energy_j"]["gpu"]
        return math.nan if sampled_j is None else 100 * (sampled_j / self.window_j - 1)

    @property
    def stated_j(self) -> float:
        """One standard deviation, less the calibration of the GPU's sensor: ours has no error."""
        return stated_j(self.row)

    @property
    def reason(self) -> str:
        return self.row["reason"].get("gpu", "")


def end_s(row: dict[str, Any]) -> float:
    return row["start_s"] + row["duration_s"]


def stated_j(row: dict[str, Any]) -> float:
    """Uncertainty of a row's GPU energy without its calibration."""
    method, energy_j = row["method"]["gpu"], row["energy_j"]["gpu"]
    if energy_j is None:
        return math.nan
    calibration_j = CALIBRATION[method] * energy_j
    return math.sqrt(max(0.0, row["uncertainty_j"]["gpu"] ** 2 - calibration_j**2))


def truth_j(trace: Trace, from_s: float, to_s: float) -> float:
    """Integral of a step-wise constant power, piece by piece."""
    energy_j = 0.0
    for (time_s, power_w), (next_s, _) in pairwise([*trace, (math.inf, 0.0)]):
        low_s, high_s = max(time_s, from_s), min(next_s, to_s)
        if high_s > low_s:
            energy_j += integrate_power_j([low_s, high_s], [power_w, power_w])
    return energy_j


def cases() -> Iterator[Case]:
    """All that issue asks of a GPU's figure, and some that a node adds."""
    four = [name for name in TRACES if name != "another's"]
    lost_for_good = {"faults": f"15:999:0:{GPU_IS_LOST}"}
    for name in four:
        for period_ms in (20, 100):
            plain = Case("plain", (name,), "exact", period_ms)
            yield plain
            yield _with(plain, "200 ms of failing queries", faults=f"10:10.2:0:{TIMEOUT}")
            yield _with(plain, "3 s of failing queries", faults=f"10:13:0:{UNKNOWN}")
            yield _with(plain, "5 ms a query", latency_us=5000)
            yield replace(
                plain,
                condition="ours by UUID",
                traces=("another's", name),
                ours=(1,),
                environment={"CUDA_VISIBLE_DEVICES": UUID.format(1)},
            )
            stated = replace(plain, expects="stated")
            yield _with(stated, "counter reset", says="reset: 1", reset_s=12.34)
        plain = Case("plain", (name,), "exact")
        yield _with(plain, "no field values", unsupported="fields")
        stated = replace(plain, expects="stated")
        yield _with(stated, "samples only", unsupported="energy,fields")
        yield _with(stated, "lost for good", says="not covered: GPU-5f0c0000", **lost_for_good)
        away = {"reload": f"10:12:{(1, 9, 15, 999)[four.index(name)]}"}
        yield _with(stated, "driver reload", says="not covered.*reset: 1", **away)
    random_pair = Case("both ours", ("bursts random", "square 1 Hz"), "exact", ours=(0, 1))
    yield random_pair
    yield replace(
        random_pair, condition="ours by index", ours=(1,), environment={"CUDA_VISIBLE_DEVICES": "1"}
    )
    yield replace(
        random_pair, condition="ours by Slurm", ours=(1,), environment={"SLURM_JOB_GPUS": "1"}
    )
    out_of_step = {"counter_phase_ms": 37}
    yield _with(Case("", ("constant",) * 2, "exact", 100, (0, 1)), "out of step", **out_of_step)
    random_pair = replace(random_pair, expects="stated")
    yield _with(replace(random_pair, counter_period_ms=100), "out of step", **out_of_step)
    yield _with(
        random_pair,
        "one of two lost",
        says="not covered: GPU-5f0c0000",
        **lost_for_good,
    )
    for period_ms in (20, 100):
        bursts = Case("", ("bursts random",), "stated", period_ms)
        for seconds in (0.15, 0.3, 1.2):
            # The window begins or ends inside the silence, or waits until it is over.
            says = "not covered" if seconds > 1 else ""
            for edge, time_s in (("start", FIRST_WINDOW_S), ("end", FIRST_WINDOW_S + WINDOW_S)):
                yield _with(
                    bursts,
                    f"silent {seconds} s at the {edge}",
                    says=says,
                    faults=f"{time_s - 0.1}:{time_s - 0.1 + seconds}:0:{TIMEOUT}",
                    window_s=FIRST_WINDOW_S,
                )
        yield _with(
            bursts,
            "reset while silent",
            says="not covered.*reset: 1",
            faults=f"10:13:0:{TIMEOUT}",
            reset_s=11,
        )
        yield replace(
            bursts,
            condition="inner windows",
            expects="exact",
            inner_s=((0.3, 5.0), (5.9, 3.0), (9.5, 4.0), (13.52, 5.5)),
        )
    yield _with(
        Case("", ("constant",), "refused"), "milliwatts for watts", says="units", mw_per_w=1
    )


def _with(case: Case, condition: str, *, says: str = "", **settings: object) -> Case:
    return replace(case, condition=condition, says=says, settings=case.settings | settings)


def build_library(folder: Path) -> Path:
    """Folder for LD_LIBRARY_PATH that holds the replaying libnvidia-ml.so.1. Needs gcc."""
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-Wl,-soname,libnvidia-ml.so.1", "-o", str(folder / "libnvidia-ml.so.1")]
    subprocess.run([*command, str(REPLAY_SOURCE), "-lm"], check=True)
    return folder


def measure(nvml_dir: Path, out_dir: Path) -> list[Result]:
    """Every case measured. Raises RuntimeError with the log of a case that failed."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS")
    }
    command = [sys.executable, "-m", "tests.telemetry.cases", str(out_dir)]
    subprocess.run(
        command,
        cwd=REPOSITORY,
        env=environment | {"LD_LIBRARY_PATH": str(nvml_dir)},
        check=True,
        timeout=120,
    )
    results = []
    for number, case in enumerate(cases()):
        folder = out_dir / str(number)
        log = (folder / "log.txt").read_text()
        if not (folder / "result.json").exists():
            raise RuntimeError(f"{case.name}: {log}")
        found = json.loads((folder / "result.json").read_text())
        results.append(Result(case, log=log, **found))
    return results


def _measure_all(out_dir: Path) -> None:
    start_s = time.monotonic() + 0.5
    children = []
    for number, case in enumerate(cases()):
        folder = out_dir / str(number)
        folder.mkdir(parents=True)
        child = os.fork()
        if child == 0:
            try:
                _measure(case, folder, start_s, number)
            except BaseException:
                (folder / "log.txt").write_text(traceback.format_exc())
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def _measure(case: Case, folder: Path, start_s: float, number: int) -> None:
    logging.basicConfig(filename=folder / "log.txt", level=logging.INFO, force=True)
    settings = dict(case.settings)
    window_s = float(str(settings.pop("window_s", FIRST_WINDOW_S + 0.0137 * number)))
    times_s = sorted({time_s for name in case.traces for time_s, _ in TRACES[name]})
    lines = [
        " ".join(str(v) for v in (t, *(_power_w(TRACES[name], t) for name in case.traces)))
        for t in times_s
    ]
    (folder / "trace.txt").write_text("\n".join(lines) + "\n")
    settings |= {
        "trace": folder / "trace.txt",
        "start_s": start_s,
        "counter_period_ms": case.counter_period_ms,
    }
    os.environ.update({f"NVML_REPLAY_{name.upper()}": str(v) for name, v in settings.items()})
    os.environ.update(case.environment)
    _sleep_until(start_s + 0.4 + 0.02 * number)
    inner = []
    with Meter(folder, Telemetry(rapl_root="/nowhere")) as meter:
        _sleep_until(start_s + window_s)
        used_s = time.process_time()
        with meter.window("train") as window:
            for begin_s, length_s in case.inner_s:
                _sleep_until(start_s + window_s + begin_s)
                with meter.window(f"part {begin_s}") as part:
                    time.sleep(length_s)
                inner.append(part.row)
            _sleep_until(start_s + window_s + WINDOW_S)
        share_pct = 100 * (time.process_time() - used_s) / WINDOW_S
    found = {"row": window.row, "inner": inner, "start_s": start_s, "share_pct": share_pct}
    (folder / "result.json").write_text(json.dumps(found, default=asdict))


def _power_w(trace: Trace, time_s: float) -> float:
    return [power_w for from_s, power_w in trace if from_s <= time_s][-1]


def _sleep_until(time_s: float) -> None:
    time.sleep(max(0.0, time_s - time.monotonic()))


if __name__ == "__main__":
    _measure_all(Path(sys.argv[1]))
