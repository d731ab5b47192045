"""Ranks as processes on gloo, which begin with the imports that they share.

A server imports once and forks (forkserver of multiprocessing): ranks of their own would each
import for seconds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import start_processes  # pyright: ignore[reportPrivateImportUsage]

multiprocessing.set_forkserver_preload(["peft", "tests.training.test_ranks"])


def on_ranks(num: int, folder: Path, act: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `act(*arguments)` gives on each of `num` ranks: tensors and plain values.

    Raises what torch raises where a rank fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start_processes(_rank, (num, folder, act, arguments), nprocs=num, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(num)]


def _rank(rank: int, num: int, folder: Path, act: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num
    )
    torch.save(act(*arguments), folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
