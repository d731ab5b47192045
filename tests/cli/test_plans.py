"""What `until=plan` prints of a real pair, of a sweep for Slurm, and of several ranks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def printed(*words: str) -> str:
    """What `python WORDS until=plan` prints."""
    done = subprocess.run(
        [sys.executable, *words, "until=plan"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plan_of_a_real_pair_is_printed_without_any_download(tmp_path: Path):
    words = ("model=llama31_8b_to_1b", "gpu=h100", f"store_dir={tmp_path}")
    plan = printed("-m", "kdwatts", *words)
    # 3,350 GB/s over 1.236 and 7.505 billion weights of two bytes. The teacher's 8.030 billion have
    # a table of 525 million that is only looked up; the student's head is its table.
    serving = "student 1,355 steps/s, teacher 223 steps/s"
    sizes = "1.24 B parameters; teacher: 8.03 B"
    for part in ("would be built", sizes, "memory", "kWh", serving):
        assert part in plan


def test_the_plan_of_a_sweep_for_slurm_counts_shared_stages_once(tmp_path: Path):
    plan = printed(
        *("-m", "kdwatts", "hydra/launcher=slurm", "gpu=h100", "-m", "model=llama31_8b_to_1b"),
        *("paradigm=sft,response", "training.seed=0,1,2", f"store_dir={tmp_path}"),
    )
    assert plan.count("stages:") == 6
    assert plan.count("all 6 runs together, shared stages counted once: ") == 1


def test_the_plan_of_a_sweep_for_several_nodes_is_that_of_all_their_ranks(tmp_path: Path):
    plan = printed(
        *("-m", "kdwatts", "hydra/launcher=slurm", "gpu=h100", "cluster.nodes=2"),
        *("hydra.launcher.tasks_per_node=4", "-m", "model=llama31_8b_to_1b", "paradigm=sft"),
        *("training=fsdp", f"store_dir={tmp_path}"),
    )
    assert "launched as 8 ranks of 2 nodes\n" in plan
    # 16 bytes for each of 1.236 billion parameters, in eight shards.
    assert "student with optimizer 2.30," in plan
    assert "each rank sends in a step: " in plan and "to other nodes (estimated)\n" in plan
    assert "expected on 8 GPUs of 2 nodes: " in plan


def test_a_step_that_the_ranks_of_a_sweep_cannot_share_has_no_plan():
    words = ("hydra/launcher=slurm", "cluster.nodes=3", "-m", "training.accumulation=4")
    done = subprocess.run(
        [sys.executable, "-m", "kdwatts", *words, "gpu=cpu", "until=plan"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "accumulation=4 forward passes cannot be shared equally by 3 ranks" in done.stderr


def test_of_several_ranks_the_first_alone_prints_the_plan():
    plan = printed(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"),
        *("-m", "kdwatts", "model=llama31_8b_to_1b", "training=fsdp", "gpu=h100"),
    )
    assert plan.count("paradigm=response model=llama31_8b_to_1b") == 1
