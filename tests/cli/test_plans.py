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


def test_of_several_ranks_the_first_alone_prints_the_plan():
    plan = printed(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"),
        *("-m", "kdwatts", "model=llama31_8b_to_1b", "training=fsdp", "gpu=h100"),
    )
    assert plan.count("paradigm=response model=llama31_8b_to_1b") == 1
