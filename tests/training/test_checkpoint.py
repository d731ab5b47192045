"""What a checkpoint of adapters holds, and that dropout goes on where it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdwatts.config.training import Lora
from kdwatts.training import checkpoint
from kdwatts.training.checkpoint import Progress
from kdwatts.training.lora import add_adapters
from kdwatts.training.optim import make_optimizer, set_learning_rate
from tests.training.pair import llama, make_batch

BATCH = make_batch()


def fresh() -> tuple[dict[str, nn.Module], torch.optim.Optimizer]:
    student: Any = llama(0, vocabulary=70, width=16, num_layers=2, tied=True).train()
    add_adapters(student, Lora(rank=2, dropout=0.5), seed=0)
    torch.manual_seed(1)
    modules: dict[str, nn.Module] = {"student": student, "projectors": nn.ModuleList()}
    optimizer = make_optimizer(list(modules.values()), weight_decay=0.1, betas=(0.9, 0.95))
    set_learning_rate(optimizer, 0.1)
    return modules, optimizer


def step(modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    modules["student"](input_ids=BATCH.input_BT).logits.logsumexp(-1).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def state(modules: dict[str, nn.Module]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in modules["student"].state_dict().values()])


@pytest.mark.parametrize("restored", [True, False])
def test_dropout_goes_on_with_the_numbers_it_would_have_drawn(
    restored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    modules, optimizer = fresh()
    for _ in range(5):
        step(modules, optimizer)
    whole = state(modules)
    modules, optimizer = fresh()
    for _ in range(3):
        step(modules, optimizer)
    checkpoint.save(tmp_path, modules, optimizer, Progress(step=3, heldout={"loss": 2.0}))
    modules, optimizer = fresh()
    if not restored:
        monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    progress = checkpoint.load_latest(tmp_path, modules, optimizer)
    assert progress == Progress(step=3, heldout={"loss": 2.0})
    for _ in range(2):
        step(modules, optimizer)
    assert torch.equal(state(modules), whole) is restored


def test_a_checkpoint_is_readable_by_whom_the_umask_says(tmp_path: Path):
    """The library that writes the tensors makes a file of its owner alone."""
    modules, optimizer = fresh()
    step(modules, optimizer)
    before = os.umask(0o022)
    try:
        checkpoint.save(tmp_path, modules, optimizer, Progress(step=1))
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.glob("step-*/*")}
    assert modes == {"state.safetensors": 0o644, "progress.json": 0o644}


def test_weights_below_adapters_are_not_in_it(tmp_path: Path):
    modules, optimizer = fresh()
    step(modules, optimizer)
    checkpoint.save(tmp_path, modules, optimizer, Progress(step=1))
    (path,) = tmp_path.glob("step-*/state.safetensors")
    names = [name for name in load_file(path) if not name.startswith("rng.")]
    assert all(".lora_" in name for name in names)
    # Two blocks of seven layers with two matrices each: the matrix and what AdamW keeps of it.
    assert len(names) == 2 * 7 * 2 * 4
