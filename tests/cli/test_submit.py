"""What of a sweep is sent to Slurm, and what is told of it; a real one is in tests/slurm."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.types import HydraContext

from kdwatts.artifacts.manifest import write_status
from kdwatts.cli import submit, sweep
from kdwatts.cli.attempt import run
from kdwatts.cli.preflight import VERSION_BASE
from kdwatts.records.files import read_jsonl
from kdwatts.runtime import slurm_jobs
from kdwatts.runtime.paths import PACKAGE_DIR, conf_dir

Put = Callable[..., Path]
Send = Callable[..., Path]

SFT, TAUGHT = "paradigm=sft", "paradigm=response"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts a command of Slurm first in the path; the file has a line for each call of it.

    Its sbatch keeps the scripts that it is given and takes them as jobs 101, 102 and so on.
    """
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")

    def put(name: str, script: str = "exit 0") -> Path:
        calls = tmp_path / f"{name}.calls"
        (bin_dir / name).write_text(f"#!/bin/sh\necho \"$@\" >> '{calls}'\n{script}\n")
        (bin_dir / name).chmod(0o755)
        return calls

    for name in ("srun", "squeue", "sacct", "scancel"):
        put(name)
    count = f"$(wc -l < '{tmp_path}/sbatch.calls')"
    put(
        "sbatch",
        f"cp \"$1\" '{tmp_path}'/script{count}.sh; echo Submitted batch job $((100 + {count}))",
    )
    return put


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Send]:
    """Launches a sweep of these runs as Hydra would; returns its folder."""
    for name, empty in (("sweep_dirs", {}), ("known_outcomes", {}), ("prerequisites", [])):
        monkeypatch.setattr(sweep, name, empty)
    monkeypatch.setattr(slurm_jobs, "NO_RECORD_S", 0.0)  # This accounting has its records at once.
    setup_globals()

    def launch(*runs: str, fixed: tuple[str, ...] = (), folder: Path | None = None) -> Path:
        folder = folder or tmp_path / "sweep"
        shown = str(folder).replace("\\", "\\\\").replace("'", "\\'")
        hydras = ["hydra/launcher=slurm", f"hydra.sweep.dir='{shown}'"]
        hydras += [word for word in fixed if "hydra." in word]
        every = ["training=smoke", "gpu=cpu", "until=distill", f"store_dir={tmp_path}/store"]
        every += [word for word in fixed if word not in hydras]
        with hydra.initialize_config_dir(str(conf_dir()), **VERSION_BASE):
            config = hydra.compose("config", overrides=[*hydras, *every], return_hydra_config=True)
            context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
            launcher = Plugins.instance().instantiate_launcher(
                hydra_context=context, task_function=run, config=config
            )
            submit.launch(launcher, [[*every, *one.split()] for one in runs], 0)
        return folder

    # A shell's background jobs, such as these tests may be, ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield launch
    signal.signal(signal.SIGINT, before)


def scripts(tmp_path: Path) -> list[list[str]]:
    """The lines of each script that sbatch was given."""
    found = sorted(tmp_path.glob("script*.sh"))
    return [path.read_text().splitlines() for path in found]


def table() -> dict[str, tuple[str, str]]:
    """What the table says of each run, by its folder's name."""
    outcomes = [sweep.outcome(run_dir) for run_dir in sweep.sweep_dirs]
    return {one.run_dir.name: (one.state, one.reason) for one in outcomes}


# --- before anything is sent ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["100%a", "a\\b", "two\nlines", "%j/sweep"])
def test_a_folder_in_which_slurm_reads_a_pattern_is_refused_before_sbatch(
    name: str, slurm: Put, send: Send, tmp_path: Path
):
    with pytest.raises(ValueError, match=r"^hydra\.sweep\.dir=.* which Slurm reads as a pattern"):
        send(SFT, folder=tmp_path / name)
    assert not (tmp_path / "sbatch.calls").exists()
    assert sweep.sweep_dirs == {}


def test_other_letters_of_a_folder_reach_sbatch_as_they_are(slurm: Put, send: Send, tmp_path: Path):
    folder = send(SFT, folder=tmp_path / """it's "a", b: #1 ü*""")
    (script,) = scripts(tmp_path)
    (output,) = [line for line in script if line.startswith("#SBATCH --output=")]
    log = f"{folder}/.submitit/%j/%j_0_log.out"
    assert shlex.split(output.removeprefix("#SBATCH ")) == [f"--output={log}"]
    assert (folder / ".submitit" / "101" / "101_submitted.pkl").is_file()


def _unreadable(folder: Path) -> Path:
    """A teacher without weights."""
    shutil.copytree(PACKAGE_DIR / "tiny" / "teacher", folder / "teacher")
    (folder / "teacher" / "model.safetensors").unlink()
    return folder / "teacher"


@pytest.mark.parametrize(
    ("bad", "fixed", "reason"),
    [
        (
            "model=llama31_8b_to_1b paradigm=feature training.gradient_checkpointing=false",
            ("gpu=rtx4090",),
            r"^model=llama31_8b_to_1b on one gpu=rtx4090 needs about \d+ GiB",
        ),
        ("paradigm=response model.teacher.path={unreadable}", (), "has no weights as safetensors"),
        (
            "paradigm=response model.teacher.path={tmp}/nowhere",
            (),
            "nowhere does not exist",
        ),
        (
            "training.accumulation=3",
            ("hydra.launcher.tasks_per_node=2", "training.accumulation=4"),
            "accumulation=3 forward passes cannot be shared equally by 2 ranks",
        ),
        ("model=llama31_8b_to_1b", ("gpu=h200",), "is not in HF_HOME=.* until=prefetch"),
    ],
    ids=["memory", "weights", "folder", "ranks", "hub"],
)
def test_a_sweep_with_one_impossible_run_sends_none(
    bad: str, fixed: tuple[str, ...], reason: str, slurm: Put, send: Send, tmp_path: Path
):
    bad = bad.format(unreadable=_unreadable(tmp_path), tmp=tmp_path)
    with pytest.raises(
        ValueError, match=rf"{reason}.*; nothing is sent, for this is run #1 of"
    ) as refusal:
        send(SFT, bad, TAUGHT, fixed=fixed)
    assert str(refusal.value).endswith(f" run #1 of the sweep, {bad}")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "sbatch.calls").exists()
    assert not (tmp_path / "sweep").exists() and sweep.sweep_dirs == {}


def test_what_is_not_left_to_build_hinders_no_run(slurm: Put, send: Send, tmp_path: Path):
    # The teacher's scores would take 30 of the GPU's 23 GiB, training takes none of it.
    lora = f"{SFT} model=llama31_8b_to_1b training=lora training.precision=fp32"
    lora += " training.micro_batch=1"
    with pytest.raises(ValueError, match=r"is not in HF_HOME") as refusal:
        send(lora, fixed=("gpu=rtx4090",))
    assert "GiB" not in str(refusal.value)
    with pytest.raises(ValueError, match=r"its evaluation needs about 30 GiB"):
        send(f"{lora} until=evaluate", fixed=("gpu=rtx4090",))
    assert not (tmp_path / "sbatch.calls").exists()


def test_more_nodes_than_the_partition_has_are_refused_before_anything_is_sent(
    slurm: Put, send: Send, tmp_path: Path
):
    slurm("sinfo", "printf 'main*|n1|64|512000\\nmain*|n2|64|512000\\n'")
    with pytest.raises(
        ValueError, match=r"^cluster\.nodes=3 is more than partition main has, whic"
    ):
        send(SFT, fixed=("cluster.nodes=3", "cluster.partition=main"))
    assert not (tmp_path / "sbatch.calls").exists()
    assert not (tmp_path / "sweep").exists() and sweep.sweep_dirs == {}


def test_ranks_of_all_nodes_share_a_step(slurm: Put, send: Send, tmp_path: Path):
    spread = ("cluster.nodes=2", "hydra.launcher.tasks_per_node=2")
    with pytest.raises(ValueError, match=r"accumulation=2 .* shared equally by 4 ranks"):
        send(SFT, fixed=(*spread, "training.accumulation=2"))
    assert not (tmp_path / "sbatch.calls").exists()


# --- what sbatch is asked ---------------------------------------------------------------------


def test_a_site_s_options_and_commands_are_those_of_every_job_of_the_sweep(
    slurm: Put, send: Send, tmp_path: Path
):
    folder = send(
        f"{TAUGHT} training.seed=0",
        f"{TAUGHT} training.seed=1",
        fixed=(
            "+cluster.extra={reservation: mine, exclude: 'n1,n2', exclusive: true, nice: null}",
            "cluster.setup=[module load cuda]",
        ),
    )
    teacher, array = scripts(tmp_path)
    for script in (teacher, array):
        for option in ("reservation=mine", "exclude=n1,n2", "exclusive", "requeue"):
            assert f"#SBATCH --{option}" in script
        assert not any("--nice" in line for line in script)
        (step,) = [line for line in script if line.startswith("srun ")]
        assert " --kill-on-bad-exit=1 " in step
        assert script.index("module load cuda") < script.index(step)
    assert "#SBATCH --dependency=afterok:101" in array
    assert "#SBATCH --kill-on-invalid-dep=yes" in array and len(teacher) < len(array)
    rows = list(read_jsonl(folder / "jobs.jsonl"))
    assert [row["after"] for row in rows] == [[], ["101"]]
    runs = {Path(name).name: job for name, job in rows[1]["jobs"].items()}
    assert runs == {"0-response-tiny": "102_0", "1-response-tiny": "102_1"}


SPREAD = ("cluster.nodes=2", "hydra.launcher.tasks_per_node=2", "training.accumulation=4")


def asked_of(script: list[str]) -> dict[str, str]:
    """The options of sbatch in a script that have a value."""
    lines = [line.removeprefix("#SBATCH --") for line in script if line.startswith("#SBATCH --")]
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_before_a_run_on_several_nodes_one_node_makes_what_it_stands_on(
    slurm: Put, send: Send, tmp_path: Path
):
    folder = send(f"{TAUGHT} training.seed=0", f"{TAUGHT} training.seed=1", fixed=SPREAD)
    teacher, array = map(asked_of, scripts(tmp_path))
    assert (teacher["nodes"], teacher["ntasks-per-node"]) == ("1", "2")
    assert (array["nodes"], array["ntasks-per-node"]) == ("2", "2")
    assert array["dependency"] == "afterok:101"
    (rows,) = [row["jobs"] for row in read_jsonl(folder / "jobs.jsonl") if "101" in str(row)][:1]
    assert {Path(name).parent.name for name in rows} >= {"shards", "teacher"}


def test_shards_alone_keep_no_second_node_waiting(slurm: Put, send: Send, tmp_path: Path):
    folder = send(f"{SFT} training.seed=0", f"{SFT} training.seed=1", fixed=SPREAD)
    shards, array = map(asked_of, scripts(tmp_path))
    assert (shards["nodes"], array["nodes"]) == ("1", "2")
    assert array["dependency"] == "afterok:101"
    assert [name.partition("-")[0] for name in table()] == ["0", "1", "shards"]
    # What is there is not made again.
    for job in (101, 102):
        assert f"{job}" in (folder / "jobs.jsonl").read_text()


def test_one_node_and_teacher_first_off_leave_shards_to_the_runs(
    slurm: Put, send: Send, tmp_path: Path
):
    send(SFT)
    send(TAUGHT, fixed=(*SPREAD, "launch.teacher_first=false"), folder=tmp_path / "other")
    assert [asked_of(script)["nodes"] for script in scripts(tmp_path)] == ["1", "2"]


def test_a_job_that_waits_for_another_of_the_user_s_ends_when_that_fails(
    slurm: Put, send: Send, tmp_path: Path
):
    send(SFT, fixed=("+cluster.extra.dependency=afterok:7",))
    (script,) = scripts(tmp_path)
    assert {"#SBATCH --dependency=afterok:7", "#SBATCH --kill-on-invalid-dep=yes"} < set(script)


def test_an_option_that_the_launcher_gives_too_is_refused_with_the_name_of_both(
    slurm: Put, send: Send, tmp_path: Path
):
    with pytest.raises(ValueError, match=r"^cluster\.extra\.exclude=n1 and hydra\.launcher\.excl"):
        send(SFT, fixed=("+cluster.extra.exclude=n1", "hydra.launcher.exclude=n2"))
    assert not (tmp_path / "sbatch.calls").exists()


# --- what sbatch answers ----------------------------------------------------------------------


def test_what_sbatch_refuses_is_told_once_and_leaves_no_trace(
    slurm: Put, send: Send, tmp_path: Path
):
    slurm(
        "sbatch",
        "echo 'sbatch: error: invalid partition specified: nope' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2\n"
        "exit 1",
    )
    with pytest.raises(RuntimeError) as refusal:
        send(f"{SFT} training.seed=0", f"{SFT} training.seed=1", fixed=("cluster.partition=nope",))
    assert str(refusal.value) == (
        "cluster.partition=nope: sbatch refuses the array of 2 runs with the words "
        '"invalid partition specified: nope; Invalid partition name specified", and nothing of it '
        "is sent; `sinfo` lists the partitions of this cluster"
    )
    assert table() == {}
    assert [path for path in (tmp_path / "sweep").rglob("*") if path.is_file()] == []


def test_a_teacher_that_was_sent_before_its_array_was_refused_stands_in_the_table(
    slurm: Put, send: Send, tmp_path: Path
):
    slurm("squeue", "echo 101 PENDING")
    words = "sbatch: error: Batch job submission failed: Invalid job array specification"
    slurm(
        "sbatch",
        f"grep -q array= \"$1\" && {{ echo '{words}' >&2; exit 1; }}\necho Submitted batch job 101",
    )
    with pytest.raises(RuntimeError, match=r"^the sweep: sbatch refuses the array of 2 runs"):
        send(f"{TAUGHT} training.seed=0", f"{TAUGHT} training.seed=1")
    said = table()
    (teacher,) = [name for name in said if name.startswith("teacher-")]
    assert said.pop(teacher) == ("waiting", "as job 101")
    assert set(said.values()) == {("failed", "not sent, see above")}


def test_an_array_that_cannot_be_noted_is_taken_back_and_not_called_unsent(
    slurm: Put, send: Send, tmp_path: Path
):
    (tmp_path / "sweep" / "jobs.jsonl").mkdir(parents=True)
    calls = slurm("scancel")
    with pytest.raises(RuntimeError, match=r"^sbatch took the array of 2 runs as job 101, which"):
        send(f"{SFT} training.seed=0", f"{SFT} training.seed=1")
    assert calls.read_text() == "101\n"
    slurm("scancel", "exit 1")
    with pytest.raises(RuntimeError, match=r"it is in the queue .* end it with `scancel 102`"):
        send(f"{SFT} training.seed=0", f"{SFT} training.seed=1")


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 4711", "names no job in its answer '4711', so the run may be in the queue or not"),
        (
            "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv "
            "operation' >&2; exit 1",
            r'\("Socket timed out on send/recv operation"\), so the run may be in the queue or not',
        ),
    ],
    ids=["no number", "no answer"],
)
def test_where_sbatch_does_not_say_what_it_took_nothing_is_called_unsent(
    script: str, told: str, slurm: Put, send: Send
):
    slurm("sbatch", script)
    with pytest.raises(RuntimeError, match=told):
        send(SFT)


def test_ctrl_c_while_sbatch_is_at_it_loses_no_job(
    slurm: Put, send: Send, caplog: pytest.LogCaptureFixture
):
    slurm("sbatch", "kill -INT $PPID; echo Submitted batch job 101")
    slurm("squeue", "echo 101 PENDING")
    with pytest.raises(SystemExit, match="130"):
        send(SFT)
    assert table() == {"0-sft-tiny": ("waiting", "as job 101")}
    assert "scancel 101 ends them" in caplog.text


# --- how it stands, and how it ended ----------------------------------------------------------


def test_runs_that_a_failed_teacher_stops_name_its_job_and_its_log(
    slurm: Put, send: Send, tmp_path: Path
):
    rows = r"101|FAILED|3:0\n102_[0-1]|CANCELLED by 0|0:0\n"
    slurm("sacct", f"printf '{rows}'\nmkdir -p {tmp_path}/sweep/.submitit/101\n"
          f"touch {tmp_path}/sweep/.submitit/101/101_0_log.err")  # fmt: skip
    send(f"{TAUGHT} training.seed=0", f"{TAUGHT} training.seed=1")
    said = table()
    (teacher,) = [name for name in said if name.startswith("teacher-")]
    log = tmp_path / "sweep" / ".submitit" / "101"
    assert said == {
        **{
            f"{number}-response-tiny": (
                "failed",
                f"job 102_{number} never began the run: it needs job 101 ({teacher}), of which "
                f"Slurm says FAILED, exit code 3; its log is {log}/101_0_log.err",
            )
            for number in range(2)
        },
        teacher: (
            "failed",
            f"job 101 never began the run: Slurm says FAILED, exit code 3, see {log}",
        ),
    }


def test_a_job_of_an_earlier_driver_stands_in_the_table_of_the_next(
    slurm: Put, send: Send, tmp_path: Path
):
    # The first driver sees an empty queue at once, the next one its predecessor's jobs in it.
    send(f"{TAUGHT} training.seed=0")
    sweep.sweep_dirs.clear()
    sweep.known_outcomes.clear()
    count = f"$(wc -l < '{tmp_path}/squeue.calls')"
    (tmp_path / "squeue.calls").unlink()
    slurm("squeue", f"[ {count} = 1 ] && printf '101 RUNNING\n102 PENDING\n'; exit 0")
    send(f"{TAUGHT} training.seed=0")
    assert len(scripts(tmp_path)) == 2
    assert {name.partition("-")[0] for name in table()} == {"0", "teacher"}


@pytest.mark.parametrize(
    ("status", "queue", "told"),
    [
        (
            ("preempted", "101"),
            "101 PENDING",
            ("waiting", "as job 101, which Slurm starts again; stopped by SIGUSR2"),
        ),
        (
            ("running", "101"),
            "101 PENDING",
            ("waiting", "as job 101, which Slurm starts again; its last attempt was cut off"),
        ),
        (
            ("preempted", "101"),
            "101 COMPLETING",
            ("waiting", "as job 101, which is ending or starts again; stopped by SIGUSR2"),
        ),
        (("running", "101"), "101 RUNNING", ("running", "at distill as job 101")),
        (("preempted", "101"), "", ("preempted", "stopped by SIGUSR2")),
        (
            ("running", "101"),
            "",
            ("failed", "job 101 left the queue at distill and did not say why"),
        ),
        (("failed", "90"), "101 PENDING", ("waiting", "as job 101")),
        (("failed", "90"), "", ("failed", "job 101 left the queue before it began the run")),
    ],
)
def test_ctrl_c_tells_of_each_run_what_it_is_in_slurm_s_queue(
    status: tuple[str, str],
    queue: str,
    told: tuple[str, str],
    slurm: Put,
    send: Send,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    state, job = status
    run_dir = tmp_path / "sweep" / "0-sft-tiny"
    run_dir.mkdir(parents=True)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    error = {"preempted": "stopped by SIGUSR2", "failed": "the disk is full"}.get(state)
    write_status(run_dir, state=state, stage="distill", attempt=1, error=error)
    # Ctrl-C comes at the first look at the queue; the table is made of the second. squeue itself
    # has ended by then: Python warns of a child that the signal leaves running.
    count = f"$(wc -l < '{tmp_path}/squeue.calls')"
    slurm("squeue", f"[ {count} = 1 ] && (sleep 0.5; kill -INT $PPID) & echo '{queue}'")
    with pytest.raises(SystemExit, match="130"):
        send(SFT)
    assert table() == {"0-sft-tiny": told}
