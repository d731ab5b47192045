"""Whole runs of two ranks, under torchrun and as srun starts them, against one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdwatts.cli.sweep import EXIT_FAILED, EXIT_PREEMPTED
from kdwatts.records.files import read_jsonl

SETTINGS = (
    "until=distill",
    "training=smoke",
    "training.micro_batch=8",
    "training.accumulation=2",
    "training.log_every=1",
)
CACHED = ("paradigm=combined", "paradigm.teacher=cached")
ONLINE = ("paradigm=combined", "paradigm.teacher=online", "paradigm.response.support=dense")
SHARDED = ("training.parallel=fsdp", "training.teacher_parallel=fsdp")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}


def command(run_dir: Path, store: Path, *overrides: str, gpu: str = "cpu") -> list[str]:
    folders = (f"hydra.run.dir={run_dir}", f"store_dir={store}")
    return ["-m", "kdwatts", f"gpu={gpu}", *SETTINGS, *overrides, *folders]


IN_ANOTHER_CONTAINER = """
import runpy, sys
import kdwatts.runtime.ranks
kdwatts.runtime.ranks.process_space = lambda: "pid:[1]"
sys.argv[0] = "kdwatts"
runpy.run_module("kdwatts", run_name="__main__", alter_sys=True)
"""


SHORT_LIMITS = """
import runpy, sys
from kdwatts.cli import rank_failure
from kdwatts.training import sign_of_life
sign_of_life.LOST_AFTER_S, rank_failure.GRACE_S = 10.0, 10.0
sys.argv[0] = "kdwatts"
runpy.run_module("kdwatts", run_name="__main__", alter_sys=True)
"""

FAULTY = """
import runpy, sys
from kdwatts.training import parallel

def sum_gradients(parameters):
    raise KeyError("rows")

parallel.sum_gradients = sum_gradients
sys.argv[0] = "kdwatts"
runpy.run_module("kdwatts", run_name="__main__", alter_sys=True)
"""


WARNS = """
import logging, runpy, sys, warnings
import kdwatts.stages.ready

def get_ready(config, stages):
    # As in a job of Slurm, where Hydra gives every rank the handlers of the first.
    logging.basicConfig(level=logging.INFO)
    from kdwatts.runtime.screen import log_errors_only
    log_errors_only()
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("library").log(level, logging.getLevelName(level))
    warnings.warn("of a library")

kdwatts.stages.ready.get_ready = get_ready
sys.argv[0] = "kdwatts"
runpy.run_module("kdwatts", run_name="__main__", alter_sys=True)
"""


def as_srun(
    run_dir: Path,
    store: Path,
    *overrides: str,
    first: tuple[str, ...] = ("-m", "kdwatts"),
    second: tuple[str, ...] = ("-m", "kdwatts"),
) -> list[subprocess.Popen[str]]:
    """Two processes with the environment that srun gives the two tasks of a job step.

    `first` and `second` are what these run in place of the module.
    """
    step = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        # Names the port: another one for each launch.
        "SLURM_JOB_ID": str(time.monotonic_ns() // 1000),
    }
    return [
        subprocess.Popen(
            [sys.executable, *program, *command(run_dir, store, *overrides)[2:]],
            env={**ENVIRONMENT, **step, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for task, program in enumerate([first, second])
    ]


def wait(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and stderr of each."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def signal_in_training(
    processes: list[subprocess.Popen[str]], run_dir: Path, number: int, *, rank: int = 1
) -> None:
    """Send one rank alone a signal once a step is done."""
    log, deadline_s = run_dir / "train.jsonl", time.monotonic() + 200
    while not (log.is_file() and log.read_bytes().count(b"\n")) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    processes[rank].send_signal(number)


def status(run_dir: Path) -> dict[str, str]:
    return json.loads((run_dir / "status.json").read_text())


def losses(run_dir: Path) -> list[dict[str, float]]:
    names = ("loss", "ce_nats", "response_nats", "feature", "relational", "tokens")
    return [{name: row[name] for name in names} for row in read_jsonl(run_dir / "train.jsonl")]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "student" / "model.safetensors")


def assert_as_alone(run_dir: Path, alone_dir: Path) -> None:
    found, alone = losses(run_dir), losses(alone_dir)
    assert len(found) == len(alone) == 8
    for one, other in zip(found, alone, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert weights(run_dir).keys() == weights(alone_dir).keys()
    for name, tensor in weights(alone_dir).items():
        torch.testing.assert_close(weights(run_dir)[name], tensor, rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_two_ranks_of_torchrun_share_cache_and_training_and_learn_what_one_process_does(
    store: Path, tmp_path: Path
):
    """The folders are named by Hydra here, by a time that each rank reads by itself."""
    named_by_time = Path(f"{tmp_path}/runs/${{now:%H-%M-%S-%f}}")
    done = subprocess.run(
        [sys.executable, *TORCHRUN, *command(named_by_time, store, *CACHED)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert status(run_dir)["state"] == "done"
    rows = list(read_jsonl(run_dir / "stages.jsonl"))
    assert [row["window"] for row in rows if row["parent"] == "run"] == [
        "run/shards",
        "run/teacher",
        "run/distill",
    ]

    # One meter a node: two samplers would write twice as many rows of the host, one a second each.
    rows = list(read_jsonl(run_dir / "telemetry.jsonl"))
    seconds = rows[-1]["monotonic_s"] - rows[0]["monotonic_s"]
    assert 0 < sum(row["device_kind"] == "host" for row in rows) <= seconds + 2

    alone_dir = tmp_path / "alone"
    subprocess.run(
        [sys.executable, *command(alone_dir, store, *CACHED)],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    outcomes = {row["window"]: row["outcome"] for row in read_jsonl(alone_dir / "stages.jsonl")}
    # Another number of ranks draws other joules: the student is another artifact.
    assert (outcomes["run/teacher"], outcomes["run/distill"]) == ("reused", "done")
    assert_as_alone(run_dir, alone_dir)


@pytest.fixture(scope="module")
def sharded(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two tasks with shards of student and teacher."""
    run_dir = tmp_path_factory.mktemp("sharded")
    ended = wait(as_srun(run_dir, store, *ONLINE, *SHARDED))
    assert [code for code, _ in ended] == [0, 0], ended
    return run_dir


@pytest.mark.slow
def test_shards_of_student_and_teacher_under_srun_learn_what_one_process_does(
    sharded: Path, store: Path, tmp_path: Path
):
    subprocess.run(
        [sys.executable, *command(tmp_path, store, *ONLINE)],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
    )
    assert_as_alone(sharded, tmp_path)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_at_one_step_and_the_same_command_goes_on(
    sharded: Path, tmp_path: Path
):
    run_dir, store = tmp_path / "run", tmp_path / "store"
    processes = as_srun(run_dir, store, *ONLINE, *SHARDED)
    signal_in_training(processes, run_dir, signal.SIGTERM)
    ended = wait(processes)
    assert [code for code, _ in ended] == [EXIT_PREEMPTED, EXIT_PREEMPTED], ended
    assert status(run_dir)["state"] == "preempted"
    steps = len(losses(run_dir))
    assert 1 <= steps < 8
    assert f"saved after step {steps} of 8" in ended[0][1]
    assert "stopped by" not in ended[1][1]

    assert [code for code, _ in wait(as_srun(run_dir, store, *ONLINE, *SHARDED))] == [0, 0]
    assert len(losses(run_dir)) == 8
    whole = weights(sharded)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(run_dir).items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "ended without a word"),
        (signal.SIGSTOP, "gave no sign of life for 10 s"),
    ],
    ids=["killed", "stopped"],
)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_rank_that_is_lost_ends_the_other_which_says_who_and_in_which_stage(
    lost: int, number: int, words: str, store: Path, tmp_path: Path
):
    limits = ("-c", SHORT_LIMITS)
    overrides = (*ONLINE, f"training.seed={3 + lost}", "training.target_tokens=200000")
    processes = as_srun(tmp_path, store, *overrides, first=limits, second=limits)
    signal_in_training(processes, tmp_path, number, rank=lost)
    (said,) = wait([processes[1 - lost]])
    processes[lost].kill()
    wait([processes[lost]])
    sentence = (
        f"rank {lost} {words} in the stage distill; look there for what ended it or cut it off, "
        "and run the same command to go on"
    )
    assert said == (EXIT_FAILED, f"kdwatts: {sentence}\n")
    found = status(tmp_path)
    assert (found["state"], found["stage"], found["error"]) == ("failed", "distill", sentence)
    assert found["node"] is None


@pytest.mark.slow
def test_a_fault_of_one_rank_is_told_in_its_words_by_both_and_its_trace_is_kept(
    store: Path, tmp_path: Path
):
    processes = as_srun(tmp_path, store, *ONLINE, "training.seed=5", second=("-c", FAULTY))
    ended = wait(processes)
    path = tmp_path / "traceback-rank1.txt"
    sentence = (
        "rank 1: the run stopped at a fault of the program (KeyError: 'rows'); its trace is in "
        f"{path}, please report it"
    )
    assert ended == [(EXIT_FAILED, f"kdwatts: {sentence}\n")] * 2
    assert (status(tmp_path)["state"], status(tmp_path)["error"]) == ("failed", sentence)
    assert "in sum_gradients" in path.read_text()


@pytest.mark.slow
def test_a_signal_to_the_others_after_a_rank_was_lost_makes_no_preemption_of_it(
    store: Path, tmp_path: Path
):
    processes = as_srun(tmp_path, store, *ONLINE, "training.seed=6")
    signal_in_training(processes, tmp_path, signal.SIGKILL)
    processes[0].send_signal(signal.SIGTERM)
    (code, text), _ = wait(processes)
    assert code == EXIT_FAILED and "rank 1 ended without a word in the stage distill" in text
    assert status(tmp_path)["state"] == "failed"


def test_a_run_that_fails_on_the_first_rank_ends_the_other_which_leaves_the_word_to_it(
    tmp_path: Path,
):
    (tmp_path / "file").touch()
    first, second = wait(as_srun(tmp_path / "run", tmp_path / "file", "paradigm=sft"))
    assert (first[0], second[0]) == (EXIT_FAILED, EXIT_FAILED)
    assert "cannot be written" in first[1]
    assert "kdwatts:" not in second[1]
    assert status(tmp_path / "run")["state"] == "failed"


def test_of_two_ranks_the_first_logs_and_the_other_says_errors_alone(tmp_path: Path):
    few = ("paradigm=sft", "until=shards", "data.num_documents=12")
    first, second = wait(as_srun(tmp_path / "run", tmp_path, *few, second=("-c", WARNS)))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "shards: built, " in (tmp_path / "run" / "kdwatts.log").read_text()
    assert second[1] == "ERROR:library:ERROR\n"


def test_ranks_in_containers_of_their_own_are_refused_in_a_sentence_that_the_run_s_folder_has_too(
    tmp_path: Path,
):
    ended = wait(
        as_srun(tmp_path / "run", tmp_path, "paradigm=sft", second=("-c", IN_ANOTHER_CONTAINER))
    )
    said = "in containers of their own, and one meter cannot see the processes of another container"
    assert [code for code, _ in ended] == [EXIT_FAILED, EXIT_FAILED], ended
    assert said in ended[0][1] and "kdwatts:" not in ended[1][1]
    found = status(tmp_path / "run")
    assert (found["state"], found["stage"]) == ("failed", "meet")
    assert said in found["error"]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("overrides", [(), SHARDED], ids=["ddp", "fsdp"])
def test_two_gpus_learn_what_one_does_and_both_are_metered(
    overrides: tuple[str, ...], tmp_path: Path
):
    runs = {
        "one": ([], {"CUDA_VISIBLE_DEVICES": "0"}, ()),
        "two": (TORCHRUN, {"CUDA_VISIBLE_DEVICES": "0,1"}, overrides),
    }
    for name, (launcher, visible, changes) in runs.items():
        arguments = command(tmp_path / name, tmp_path / "store", *ONLINE, *changes, gpu="auto")
        done = subprocess.run(
            [sys.executable, *launcher, *arguments],
            env={**ENVIRONMENT, **visible},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    devices = {row["uuid"] for row in read_jsonl(tmp_path / "two" / "telemetry.jsonl")}
    assert len(devices - {None}) == 2
