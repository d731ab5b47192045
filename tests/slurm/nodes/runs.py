"""Small runs on the nodes of a cluster, and what they leave in their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from kdwatts.records.files import read_json, read_jsonl
from tests.slurm.nodes.cluster import PYTHON, Cluster

SMALL = (
    "gpu=cpu",
    "until=distill",
    "training=smoke",
    "training.micro_batch=8",
    "training.accumulation=4",
    "training.log_every=1",
)
"""Four micro-batches a step, in float32: four ranks have one each."""

PROGRAM = ("-m", "kdwatts")
NO_LOSSES = {"attempt", "seconds", "schema", "grad_norm"}
"""Numbers of a step that are no losses of it. The norm of gradients in shards is added up in
float32 in another order: it differs by 1e-6 where losses differ by 1e-7."""


def srun(nodes: int, tasks: int, program: Sequence[str], *options: str) -> list[str]:
    """The command that starts a program of Python as so many tasks, equally many on each node."""
    step = ["srun", f"--nodes={nodes}", f"--ntasks-per-node={tasks // nodes}"]
    return [*step, "--kill-on-bad-exit", *options, PYTHON, *program]


def torchrun(cluster: Cluster, ranks_per_node: int, program: Sequence[str]) -> list[list[str]]:
    """The commands that start a program on n1 and n2, one on each, which meet at n1."""
    return [
        cluster.on(
            node,
            *(PYTHON, "-m", "torch.distributed.run", "--nnodes=2"),
            *(f"--nproc-per-node={ranks_per_node}", "--rdzv-backend=c10d", "--rdzv-id=run"),
            *("--rdzv-endpoint=n1:29500", f"--local-addr={node}", *program),
        )
        for node in ("n1", "n2")
    ]


def losses(run_dir: Path) -> list[dict[str, float]]:
    """The losses of each step, and how far it was."""
    return [
        {
            name: value
            for name, value in row.items()
            if isinstance(value, int | float) and name not in NO_LOSSES
        }
        for row in read_jsonl(run_dir / "train.jsonl")
        if row["split"] == "train"
    ]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "student" / "model.safetensors")


def same_weights(run_dir: Path, other_dir: Path) -> bool:
    """Whether two students are the same, bit for bit."""
    one, other = weights(run_dir), weights(other_dir)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def difference_of_losses(run_dir: Path, other_dir: Path) -> float:
    """The largest difference of a loss of two runs at a step, relative to it."""
    one, other = losses(run_dir), losses(other_dir)
    assert len(one) == len(other) > 0 and one[0].keys() == other[0].keys()
    return max(
        abs(first[name] - second[name]) / max(abs(first[name]), 1e-12)
        for first, second in zip(one, other, strict=True)
        for name in first
    )


def difference_of_weights(run_dir: Path, other_dir: Path) -> float:
    """The largest norm of a difference of two students' tensors, relative to the tensor's."""
    one, other = weights(run_dir), weights(other_dir)
    assert one.keys() == other.keys()
    pairs = [(one[name].double(), other[name].double()) for name in one]
    return max(float((first - second).norm() / first.norm()) for first, second in pairs)


def status(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "status.json"
    return read_json(path) if path.is_file() else {}


def row_of(run_dir: Path, window: str, attempt: int = 1) -> dict[str, Any]:
    """The one row of a window of an attempt."""
    rows = read_jsonl(run_dir / "stages.jsonl")
    (row,) = [r for r in rows if (r["window"], r["attempt"]) == (window, attempt)]
    return row
