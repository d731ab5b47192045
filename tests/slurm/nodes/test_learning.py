"""Ranks on several nodes learn what one process does, however they were started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kdwatts.records.files import read_json, read_jsonl
from kdwatts.runtime.paths import conf_dir
from tests.slurm.nodes.cluster import PYTHON, Cluster
from tests.slurm.nodes.runs import (
    PROGRAM,
    SMALL,
    difference_of_losses,
    difference_of_weights,
    srun,
    status,
    torchrun,
)

pytestmark = pytest.mark.slow

PARADIGMS = sorted(path.stem for path in (conf_dir() / "paradigm").glob("*.yaml"))
ALL_TERMS = ("paradigm=combined", "paradigm.teacher=online", "paradigm.response.support=dense")
SHORT = ("training.target_tokens=4_096",)
WAYS = ("ddp", "fsdp", "hsdp")
ADAPTERS = (
    *(asked for asked in SMALL if asked != "training=smoke"),
    "model=tiny_half",  # Its student begins as blocks of the teacher: adapters need a trained one.
    "training=lora",
    "training.lora.rank=4",
    "training.lora.dropout=0",
    "training.sequence_length=64",
    "training.precision=fp32",
    "training.gradient_checkpointing=false",
    "training.target_tokens=4_096",
)
CLOSE = 1e-6

Launch = Callable[[Cluster, list[str]], None]


def on_one_process(cluster: Cluster, arguments: list[str]) -> None:
    cluster.run([PYTHON, *arguments])


def two_tasks(cluster: Cluster, arguments: list[str]) -> None:
    cluster.run(srun(2, 2, arguments))


def four_tasks(cluster: Cluster, arguments: list[str]) -> None:
    cluster.run(srun(2, 4, arguments))


def two_of_torchrun(cluster: Cluster, arguments: list[str]) -> None:
    started = [cluster.start(command) for command in torchrun(cluster, 1, arguments)]
    ended = [cluster.end(process) for process in started]
    assert [code for code, _ in ended] == [0, 0], ended


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def swept(
    cluster: Cluster, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[Path]]:
    """Runs a sweep that is launched so; the folders of its runs, in order."""

    def sweep(launch: Launch, *overrides: str, small: Sequence[str] = SMALL) -> list[Path]:
        folder = tmp_path_factory.mktemp("sweep") / "runs"
        told = [f"hydra.sweep.dir={folder}", f"store_dir={store}"]
        launch(cluster, [*PROGRAM, "-m", *small, *told, *overrides])
        runs = [path for path in folder.iterdir() if path.is_dir() and path.name[0].isdigit()]
        assert [status(run)["state"] for run in runs] == ["done"] * len(runs)
        return sorted(runs, key=lambda run: int(run.name.split("-")[0]))

    return sweep


def assert_close(run_dir: Path, alone_dir: Path) -> None:
    assert difference_of_losses(run_dir, alone_dir) < CLOSE
    assert difference_of_weights(run_dir, alone_dir) < CLOSE


@pytest.fixture(scope="module")
def alone(swept: Callable[..., list[Path]]) -> Path:
    """A run of one process, with every term of a loss."""
    (run_dir,) = swept(on_one_process, *ALL_TERMS, *SHORT)
    return run_dir


@pytest.mark.parametrize(
    "launch", [two_tasks, four_tasks, two_of_torchrun], ids=lambda launch: launch.__name__
)
def test_ranks_of_two_nodes_learn_what_one_process_does(
    launch: Launch, alone: Path, swept: Callable[..., list[Path]]
):
    ways = ",".join(WAYS)
    runs = swept(launch, *ALL_TERMS, *SHORT, f"training.parallel={ways}")
    assert len(runs) == len(WAYS)
    for run_dir in runs:
        assert_close(run_dir, alone)


def test_every_paradigm_learns_on_two_nodes_what_it_does_on_one(swept: Callable[..., list[Path]]):
    asked = (f"paradigm={','.join(PARADIGMS)}", "training.target_tokens=2_048")
    alone, shared = swept(on_one_process, *asked), swept(two_tasks, *asked)
    assert len(shared) == len(alone) == len(PARADIGMS)
    for one, other in zip(shared, alone, strict=True):
        assert_close(one, other)


def test_adapters_learn_on_two_nodes_what_they_do_on_one(swept: Callable[..., list[Path]]):
    (alone,) = swept(on_one_process, "paradigm=response", small=ADAPTERS)
    (shared,) = swept(two_tasks, "paradigm=response", small=ADAPTERS)
    assert_close(shared, alone)


def test_the_launcher_sends_a_run_to_two_nodes_and_one_node_scores_its_student(
    cluster: Cluster, store: Path, alone: Path, tmp_path: Path
):
    small = ("cluster.nodes=2", "cluster.gres=gpu:1", "cluster.cpus_per_task=1", "cluster.mem_gb=1")
    sent = ("-m", "hydra/launcher=slurm", *small, "cluster.partition=main", "cluster.timeout_min=9")
    asked = (*SMALL, *ALL_TERMS, *SHORT, "eval.tasks.0.limit=4", "eval.tasks.1.limit=4")
    told = f"store_dir={store}"
    cluster.run([PYTHON, *PROGRAM, *sent, *asked, told, f"hydra.sweep.dir={tmp_path}/runs"])
    (run_dir,) = (path.parent for path in (tmp_path / "runs").glob("*/status.json"))
    assert read_json(run_dir / "manifest.json")["launch"]["nodes"] == 2
    assert_close(run_dir, alone)
    further = [*PROGRAM, *asked, told, f"hydra.run.dir={run_dir}", "until=evaluate"]
    cluster.run(srun(1, 1, further))
    assert read_json(run_dir / "manifest.json")["launch"]["nodes"] == 1
    stages = {(row["window"], row["outcome"]) for row in read_jsonl(run_dir / "stages.jsonl")}
    assert {("run/distill", "reused"), ("run/evaluate_student", "done")} <= stages
