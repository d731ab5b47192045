"""Ten steps in one go against some steps, a kill and the rest: the same student, bit for bit.

They are runs of `python -m kdwatts` with the tiny pair on the device that is examined, each in a
process of its own. Both begin at once, since most of their time goes into starting. So each is
another's stranger on a GPU, which is allowed here: their joules are not used.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from safetensors.torch import load_file
from torch import equal

from kdwatts.doctor.patient import Patient
from kdwatts.records.doctor_record import Verdict
from kdwatts.records.files import read_jsonl
from kdwatts.runtime.child_environment import child_environment

NAME = "resume"
NUM_STEPS = 10
KILLED_AFTER = 4
"""Rows in train.jsonl at which the run is killed. It is a few steps farther by then."""
POLL_S = 0.002
NOT_OF_THE_STEP = ("attempt", "seconds")
"""Fields of a row of train.jsonl that say when, and not what."""
AGAINST = "the same ten steps in one go, bit for bit: student and train.jsonl"

WORDS = (
    *("model=tiny", "data=tiny", "paradigm=feature", "until=distill", "eval=none"),
    *("training=smoke", f"training.target_tokens={NUM_STEPS * 1024}", "training.log_every=1"),
    *("training.checkpoint_every_s=1e-6", "data.num_documents=30"),
    *("telemetry.idle_s=0", "telemetry.allow_shared=true"),
)
"""A step of `training=smoke` has 16 rows of 64 tokens."""


@dataclass(frozen=True)
class TenSteps:
    """A run with a store of its own."""

    folder: Path
    device: str
    """cuda or cpu."""

    @property
    def run_dir(self) -> Path:
        """Where the run writes."""
        return self.folder / "run"

    @property
    def store(self) -> Path:
        """Where its student is kept, and its checkpoints until then."""
        return self.folder / "store"

    def start(self) -> subprocess.Popen[bytes]:
        """The run as a process, the first of a group of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        is_cpu = self.device == "cpu"
        environment = child_environment(None if is_cpu else [0], cpu=is_cpu, same_python=True)
        words = (f"hydra.run.dir={self.run_dir}", f"store_dir={self.store}", *WORDS)
        with (self.folder / "stderr").open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", "kdwatts", *words, f"gpu={'cpu' if is_cpu else 'auto'}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment | {"OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"},
                start_new_session=True,
            )

    def last_words(self) -> str:
        """The end of what the run said on stderr."""
        said = (self.folder / "stderr").read_text("utf-8", errors="replace")
        return " ".join(said.strip().rpartition("\n")[2].split())[:300]

    def num_rows(self) -> int:
        """Rows of train.jsonl so far."""
        log = self.run_dir / "train.jsonl"
        return log.read_bytes().count(b"\n") if log.is_file() else 0

    def student(self) -> dict[str, Any]:
        """Name of each of the student's tensors to the tensor."""
        return load_file(self.run_dir / "student" / "model.safetensors")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of train.jsonl. A step that was made twice stands there twice."""
        return list(read_jsonl(self.run_dir / "train.jsonl"))


def look_at_resume(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """`resume`: whether a run that was killed ends as one that was not."""
    folder = patient.work_dir / "resume"
    try:
        yield examine_resume(folder, patient.device, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def examine_resume(
    folder: Path,
    device: str,
    seconds: float,
    *,
    after_kill: Callable[[TenSteps], None] | None = None,
) -> Verdict:
    """The verdict on a resume, within about so many seconds. No process is left.

    `after_kill` is called between the kill and the resume; a test damages the checkpoint there.
    """
    until_s = time.monotonic() + seconds
    whole, killed = (TenSteps(folder / name, device) for name in ("whole", "killed"))
    with ExitStack() as stack:

        def start(run: TenSteps) -> subprocess.Popen[bytes]:
            process = run.start()
            stack.callback(_end, process)
            return process

        try:
            in_one_go, first = start(whole), start(killed)
            if not _kill_in_between(first, killed, until_s):
                if trouble := _trouble(first, killed, until_s):
                    return trouble
                return Verdict(NAME, None, "not looked at: the run ended before it was killed")
            num_rows = killed.num_rows()
            if trouble := _trouble(in_one_go, whole, until_s):
                return trouble
            if after_kill:
                after_kill(killed)
            if trouble := _trouble(start(killed), killed, until_s):
                return trouble
        except TimeoutError:
            found = f"not looked at: the runs of ten steps did not end within {seconds:.0f} s"
            return Verdict(NAME, None, found, remedy="give more --minutes")
    return compared_runs(whole, killed, num_rows)


def _kill_in_between(process: subprocess.Popen[bytes], run: TenSteps, until_s: float) -> bool:
    """Kill the run after some of its steps. False where it ended before."""
    while process.poll() is None:
        if run.num_rows() >= KILLED_AFTER:
            _end(process)
            return process.returncode == -signal.SIGKILL
        if time.monotonic() > until_s:
            raise TimeoutError
        time.sleep(POLL_S)
    return False


def _trouble(process: subprocess.Popen[bytes], run: TenSteps, until_s: float) -> Verdict | None:
    """The verdict on a run that fails; None where it succeeds. Waits for its end."""
    try:
        status = process.wait(timeout=max(0.0, until_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    if status == 0:
        return None
    how = f"ended with {status}" if status > 0 else f"was ended by signal {-status}"
    found = f"a run of ten steps of the tiny pair {how}: {run.last_words() or 'it said nothing'}"
    remedy = (
        f"mend what it names (it wrote to {gettempdir()}, the folder that TMPDIR names); python -m "
        "kdwatts training=smoke shows all of it"
    )
    if status == -signal.SIGKILL:
        remedy = "look in dmesg whether memory was lacking: the kernel ends what takes too much"
    return Verdict(NAME, "wrong", found, remedy=remedy)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all of its group, and wait for it."""
    with suppress(ProcessLookupError):  # All have ended.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def compared_runs(whole: TenSteps, killed: TenSteps, num_rows: int) -> Verdict:
    """The verdict on two runs that ended, of which one was killed after so many rows."""
    expected, found = whole.student(), killed.student()
    different = [
        name for name in expected if name not in found or not equal(found[name], expected[name])
    ]
    steps, rows = {row["step"]: row for row in whole.rows()}, killed.rows()
    apart = {row["step"]: names for row in rows if (names := _unequal(row, steps[row["step"]]))}
    missing = sorted(set(steps) - {row["step"] for row in rows})
    resumed_at = min((row["step"] for row in rows if row["attempt"] > 1), default=None)
    if not different and not apart and not missing:
        if resumed_at is None or resumed_at == 1:
            found = f"a run that was killed after {num_rows} of ten steps began anew"
            remedy = "look whether the store keeps checkpoints (see the verdicts on the store)"
            return Verdict(NAME, "wrong", found, AGAINST, remedy)
        found = (
            f"ten steps, a kill after {num_rows} of them and a resume at step {resumed_at} gave "
            f"the same student, {len(expected)} tensors, and the same losses"
        )
        return Verdict(NAME, "right", found, AGAINST)
    said = f"{len(different)} of {len(expected)} tensors of the student differ"
    if missing:
        said += f"; rows of steps {', '.join(map(str, missing))} are missing"
    remedy = (
        "look whether the store's disk keeps what is written (see the verdicts on the store); "
        "where it does, report it"
    )
    if apart:
        first = min(apart)
        said += f"; rows differ from step {first} on, in {', '.join(apart[first])}"
        if resumed_at is None or first < resumed_at:
            said += "; no resume was before it, so the steps themselves do not repeat"
            remedy = (
                "two runs of one seed differ on this device: look for a library or a setting that "
                "makes its kernels not deterministic, or for faulty memory"
            )
    return Verdict(NAME, "wrong", said, AGAINST, remedy)


def _unequal(row: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Fields of a row that are not those of the other run, but for those of the clock."""
    return [
        name for name in expected if name not in NOT_OF_THE_STEP and row.get(name) != expected[name]
    ]
