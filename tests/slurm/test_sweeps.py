"""Sweeps on a real Slurm: one array, and what becomes of it when jobs, nodes and drivers end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdwatts.records.files import read_json, read_jsonl
from kdwatts.runtime.paths import conf_dir
from kdwatts.runtime.slurm_jobs import alive, endings, queue
from tests.slurm.sweeps import ROOT, Sweep, until

pytestmark = pytest.mark.slow

PARADIGMS = sorted(path.stem for path in (conf_dir() / "paradigm").glob("*.yaml"))
LONG = (
    "paradigm=sft",
    "training.target_tokens=180_000",
    "training.log_every=1",
    "training.checkpoint_every_s=1",
)
"""A training that lasts some seconds, its every step in train.jsonl."""
NUM_STEPS = 176
"""180,000 targets over 16 rows of 64, rounded up."""


def command(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def outcomes(sweep: Sweep, run: str, window: str) -> list[str]:
    """How each attempt's window of that name ended; a killed one has none."""
    rows = read_jsonl(sweep.sweep_dir / run / "stages.jsonl")
    return [row["outcome"] for row in rows if row["window"] == window]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the LONG run that nothing interrupts, `run`, and its store."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    settings = ["training=smoke", "gpu=cpu", "until=distill", *LONG]
    folders = [f"store_dir={folder}/store", f"hydra.run.dir={folder}/run"]
    subprocess.run(
        [sys.executable, "-m", "kdwatts", *settings, *folders],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return folder


@pytest.fixture(scope="module")
def whole(uninterrupted: Path) -> bytes:
    """The weights of that run."""
    return (uninterrupted / "run" / "student" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def limited(sweep: Callable[..., Sweep], uninterrupted: Path) -> Sweep:
    """A run of two turns of a minute, which has work for more; begun before other tests."""
    return sweep(
        *LONG,
        "training.target_tokens=40_000_000",  # a quarter of an hour where a turn is a minute
        f"store_dir={uninterrupted}/store",
        "cluster.gres=null",
        "cluster.timeout_min=1",
        # Slurm looks every 30 s and warns up to 30 s too early: 22 to 52 s after the job began.
        "cluster.signal_delay_s=8",
        "cluster.max_requeues=1",
    )


@pytest.fixture(scope="module")
def untaught(sweep: Callable[..., Sweep], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two runs whose teacher cannot be loaded; begun before other tests."""
    broken = tmp_path_factory.mktemp("broken") / "teacher"
    shutil.copytree(ROOT / "kdwatts" / "tiny" / "teacher", broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:1000])
    return sweep(
        "paradigm=response",
        "training.seed=0,1",
        "cluster.gres=null",
        f"model.teacher.path={broken}",
    )


def test_a_sweep_of_every_paradigm_is_one_array_that_follows_its_teachers(
    sweep: Callable[..., Sweep], limited: Sweep, untaught: Sweep
):
    one = sweep(f"paradigm={','.join(PARADIGMS)}")
    code, output = one.end()
    assert code == 0, output
    runs = [f"{number}-{name}-tiny" for number, name in enumerate(PARADIGMS)]
    jobs = [one.job(run) for run in runs]
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_{number}" for number in range(len(PARADIGMS))]
    assert [one.status(run)["job"] for run in runs] == jobs
    builds = {
        path.name: one.job(path.name)
        for path in [*one.sweep_dir.glob("teacher-*"), *one.sweep_dir.glob("generate-*")]
    }
    assert {name.partition("-")[0] for name in builds} == {"teacher", "generate"}
    for run in runs:
        for window in ("run/teacher", "run/generate"):
            assert outcomes(one, run, window) in ([], ["reused"]), f"{run} made {window} itself"
    times = ("sacct", "--noheader", "--parsable2", "--allocations", "--format=Start,End")
    began = min(line.split("|")[0] for line in command(*times, f"--jobs={array}").splitlines())
    for job in builds.values():
        assert command(*times, f"--jobs={job}").strip().split("|")[1] <= began
    assert f"{len(runs) + len(builds)} runs: {len(runs) + len(builds)} done" in output


def test_a_run_goes_on_after_its_time_limit_and_is_preempted_when_its_turns_are_over(
    limited: Sweep,
):
    one = limited
    code, output = one.end()
    assert code == os.EX_TEMPFAIL, output
    run = "0-sft-tiny"
    assert "preempted  " in output and "timed-out too many times" in output
    assert outcomes(one, run, "run/distill") == ["preempted", "preempted"]
    steps = one.steps(run)
    assert {row["attempt"] for row in steps} == {1, 2}
    # The step in progress was ended and saved each time: none is lost, none done twice.
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    assert (one.status(run)["state"], one.status(run)["attempt"]) == ("preempted", 2)


def test_an_array_whose_teacher_fails_is_cancelled_and_the_reason_is_told(untaught: Sweep):
    one = untaught
    code, output = one.end()
    assert code == 1, output
    (teacher,) = one.sweep_dir.glob("teacher-*")
    ended = endings([one.job(run) for run in (teacher.name, "0-response-tiny", "1-response-tiny")])
    assert ended[one.job(teacher.name)].startswith("FAILED")
    assert ended[one.job("0-response-tiny")].startswith("CANCELLED")
    table = output.splitlines()[-4:]
    assert [line.split()[0] for line in table[:3]] == ["failed"] * 3
    job, logs = one.job(teacher.name), list((one.sweep_dir / ".submitit").glob("*/*.err"))
    for line in table[:2]:
        needs = f"never began the run: it needs job {job} ({teacher.name}), of which Slurm says"
        assert needs in line, output
        assert Path(line.rpartition("its log is ")[2]) in logs, output
    assert "SafetensorError" not in table[2], output


def test_a_preempted_and_a_requeued_run_go_on_in_their_folders_bit_for_bit(
    sweep: Callable[..., Sweep], whole: bytes
):
    one = sweep(*LONG, "training.seed=0,1", "cluster.partition=low")
    requeued, displaced = "0-sft-tiny", "1-sft-tiny"
    until(lambda: len(one.steps(requeued)) > 5 and len(one.steps(displaced)) > 5, "two trainings")
    command("scontrol", "requeue", one.job(requeued))
    script = ("--partition=main", "--gres=gpu:2", "--output=/dev/null", "--wrap=sleep 1")
    command("sbatch", "--parsable", *script)
    code, output = one.end()
    assert code == 0, output
    for run in (requeued, displaced):
        assert outcomes(one, run, "run/distill") == ["preempted", "done"]
        assert [row["step"] for row in one.steps(run)] == list(range(1, NUM_STEPS + 1))
        assert one.status(run)["attempt"] == 2
        assert read_json(one.sweep_dir / run / "metrics.json")["num_attempts"] == 2
    assert one.weights(requeued) == whole


def test_ctrl_c_after_a_requeue_calls_the_run_waiting_since_slurm_brings_it_back(
    sweep: Callable[..., Sweep],
):
    one, run = sweep(*LONG), "0-sft-tiny"
    until(lambda: len(one.steps(run)) > 5, "the training")
    job = one.job(run)
    command("scontrol", "requeue", job)
    until(lambda: (queue([job]) or {}).get(job) == "PENDING", "the requeue")
    one.driver.send_signal(signal.SIGINT)
    code, output = one.end()
    command("scancel", job)
    assert code == 130, output
    (line,) = [line for line in output.splitlines() if line.startswith("waiting ")]
    assert f"{run}  as job {job}, which Slurm starts again; stopped by SIGTERM" in line, output
    assert f"scancel {job} ends them" in output and "preempted" not in output.splitlines()[-1]


def test_killed_and_cancelled_runs_are_told_and_the_same_command_goes_on_with_them_alone(
    sweep: Callable[..., Sweep], whole: bytes
):
    one = sweep(*LONG, "training.seed=0,1,2,3", "cluster.concurrent=2")
    killed, finished, stopped, waiting = (f"{number}-sft-tiny" for number in range(4))
    until(lambda: len(one.steps(killed)) > 30, "the first training")
    command("scancel", one.job(waiting))
    os.kill(one.status(killed)["pid"], signal.SIGKILL)
    until(lambda: len(one.steps(stopped)) > 5, "the third training")
    command("scancel", one.job(stopped))
    code, output = one.end()
    assert code == 1, output
    table = {line.split()[1].rpartition("/")[2]: line for line in output.splitlines()[-5:-1]}
    assert table[killed].startswith("failed ")
    # srun and the shell around it tell a signal in different ways.
    assert re.search(
        r"ended at distill and did not say why: Slurm says FAILED, .* (9|137),", table[killed]
    )
    assert table[finished].startswith("done ")
    assert table[stopped].startswith("preempted ")
    assert "stopped by SIGTERM; saved after step" in table[stopped]
    assert table[waiting].startswith("failed ")
    assert "never began the run: Slurm has no record of it" in table[waiting]
    assert "4 runs: 2 failed, 1 done, 1 preempted; to go on, run the same command with" in output
    assert one.status(killed)["state"] == "failed"

    before = one.status(finished)
    code, output = one.again().end()
    assert code == 0, output
    assert output.count("done before, not sent again") == 1
    assert one.status(finished) == before
    assert [one.status(run)["attempt"] for run in (killed, stopped, waiting)] == [2, 2, 1]
    metrics = read_json(one.sweep_dir / killed / "metrics.json")
    assert metrics["num_attempts"] == 2
    assert metrics["own_energy_j"] > 0 and metrics["own_energy_quality"] == "estimated"
    assert one.weights(killed) == whole


def test_a_job_outlives_its_driver_and_its_node_and_another_driver_waits_for_it(
    sweep: Callable[..., Sweep], slurm: Path, whole: bytes
):
    one, run = sweep(*LONG), "0-sft-tiny"
    until(lambda: len(one.steps(run)) > 5, "the training")
    one.driver.kill()
    one.driver.communicate()
    sent = one.job(run)
    assert alive([sent]) == {sent}
    one.again()
    lose(slurm, command("sinfo", "--noheader", "--format=%n").strip())
    command("slurmd")
    code, output = one.end()
    assert code == 0, output
    assert f"#0: already job {sent}, not sent again" in output
    assert one.job(run) == sent
    assert (one.status(run)["attempt"], one.status(run)["job"]) == (2, sent)
    assert one.weights(run) == whole


def lose(slurm: Path, node: str) -> None:
    """Let the node die, its daemon and all of its jobs at once, and tell Slurm that it is down."""
    daemon = int((slurm / "run" / "slurmd.pid").read_text())
    mark = f"SLURM_CONF={slurm}/slurm.conf".encode()
    doomed = [daemon]
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            names = path.read_bytes().split(b"\0")
            is_step = path.with_name("comm").read_text().strip() == "slurmstepd"
        except OSError:
            continue
        if mark in names and (is_step or any(name.startswith(b"SLURM_JOB_ID=") for name in names)):
            doomed.append(int(path.parent.name))
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    command("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
