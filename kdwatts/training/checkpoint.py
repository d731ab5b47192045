"""The state of a training run as safetensors and JSON: nothing is pickled.

Model, projectors, optimizer and random generator; learning rate and data order are functions of
the step. A checkpoint folder is complete when it has its name: it is filled aside and renamed.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdwatts.records import SCHEMA, read_json, write_json

STATE_NAME = "state.safetensors"
PROGRESS_NAME = "progress.json"
OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come, over all its attempts."""

    step: int = 0
    """Optimizer steps finished."""
    num_targets: int = 0
    train_duration_s: float = 0.0
    data_wait_s: float = 0.0
    schema: int = SCHEMA


def _named_parameters(modules: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Every parameter once, under a stable name; a tied head appears as the embedding only."""
    return {
        f"{prefix}.{name}": parameter
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
    }


def save(
    directory: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write the checkpoint of `progress.step` and remove the ones before it."""
    tensors: dict[str, Tensor] = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for name, parameter in _named_parameters(modules).items():
        tensors[f"parameter.{name}"] = parameter.detach().contiguous()
        for key in OPTIMIZER_STATE:
            tensors[f"optimizer.{key}.{name}"] = optimizer.state[parameter][key].contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    aside = directory / f"step-{progress.step:08d}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        save_file(tensors, aside / STATE_NAME)
        write_json(aside / PROGRESS_NAME, asdict(progress))
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    final = directory / f"step-{progress.step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    for other in directory.glob("step-*"):
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def load_latest(
    directory: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> Progress:
    """Restore the newest complete checkpoint in `directory`; a fresh Progress without one."""
    folders = sorted(p for p in directory.glob("step-*") if p.suffix != ".part")
    if not folders:
        return Progress()
    tensors = load_file(folders[-1] / STATE_NAME)
    for name, parameter in _named_parameters(modules).items():
        with torch.no_grad():
            parameter.copy_(tensors[f"parameter.{name}"])
        optimizer.state[parameter] = {
            key: tensors[f"optimizer.{key}.{name}"].to(parameter.device) for key in OPTIMIZER_STATE
        }
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    return Progress(**read_json(folders[-1] / PROGRESS_NAME))
