"""The state of a training run as safetensors and JSON. Nothing is pickled.

It holds model, projectors, optimizer and random generator. Learning rate and data order follow from
the step. A checkpoint folder is filled under another name and then renamed: with its name it is
complete. Its tensors are whole, however many ranks trained them. So any number of ranks can
continue from it.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdwatts.artifacts.store import as_readable_as
from kdwatts.models.sharding import gathered, is_sharded, part_of
from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.telemetry.open_window import OpenWindow
from kdwatts.training.parallel import collected, rank

STATE_NAME = "state.safetensors"
PROGRESS_NAME = "progress.json"
OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, over all its attempts."""

    step: int = 0
    """Optimizer steps finished."""
    num_targets: int = 0
    train_duration_s: float = 0.0
    """Without the time of readings on held-out rows."""
    data_wait_s: float = 0.0
    start_energy_j: float | None = None
    """Joules drawn before the first step. A joule budget is counted from here."""
    stopped_by: str | None = None
    """`target_tokens` or `budget_kj`, once training is over."""
    heldout_energy_j: float | None = 0.0
    """The part of the student's energy that was drawn by reading the loss on held-out rows."""
    heldout: dict[str, float] = field(default_factory=dict)
    """The latest reading on held-out rows: the loss and its terms."""
    schema: int = SCHEMA

    def after_heldout(self, reading: OpenWindow, losses: dict[str, float]) -> Progress:
        """The progress with one more reading, whose window is closed.

        A rank may have measured none.
        """
        row = reading.row
        if row is None:
            return replace(self, heldout=losses)
        drawn_j = row.energy.value
        before_j = self.heldout_energy_j
        total_j = None if drawn_j is None or before_j is None else before_j + drawn_j
        return replace(self, heldout_energy_j=total_j, heldout=losses)


def _named_parameters(modules: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Every trained parameter once, under a stable name; a tied head is the embedding only.

    Weights under adapters are not among them: whoever loads the model brings them again.
    """
    return {
        f"{prefix}.{name}": parameter
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _random_states() -> dict[str, Tensor]:
    """The generators of every rank, the first one's under the names of a process that is alone."""
    own = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["rng.cuda"] = torch.cuda.get_rng_state()
    return {
        f"{name}.{number}" if number else name: state
        for number, states in enumerate(collected(own))
        for name, state in states.items()
    }


def _whole(tensor: Tensor) -> Tensor:
    """A tensor as it is written; the shards of all ranks together, on the CPU."""
    tensor = tensor.detach()
    return gathered(tensor).cpu() if is_sharded(tensor) else tensor.contiguous()


def save(
    directory: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write the checkpoint of `progress.step` and remove earlier ones.

    Every rank must call it. The first rank writes.
    """
    tensors = _random_states()
    for name, parameter in _named_parameters(modules).items():
        parts = {f"parameter.{name}": parameter}
        for key in OPTIMIZER_STATE:
            parts[f"optimizer.{key}.{name}"] = optimizer.state[parameter][key]
        for place, part in parts.items():
            whole = _whole(part)
            if rank() == 0:
                tensors[place] = whole
    if rank():
        return
    directory.mkdir(parents=True, exist_ok=True)
    aside = directory / f"step-{progress.step:08d}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        save_file(tensors, aside / STATE_NAME)
        write_json(aside / PROGRESS_NAME, asdict(progress))
        as_readable_as(aside / PROGRESS_NAME, aside / STATE_NAME)
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
    """The progress of the newest complete checkpoint in `directory`, whose state is restored.

    Without a checkpoint it is a new Progress.
    """
    folders = sorted(p for p in directory.glob("step-*") if p.suffix != ".part")
    if not folders:
        return Progress()
    tensors = load_file(folders[-1] / STATE_NAME)
    for name, parameter in _named_parameters(modules).items():
        with torch.no_grad():
            parameter.copy_(part_of(tensors[f"parameter.{name}"], parameter))
        state = {key: tensors[f"optimizer.{key}.{name}"] for key in OPTIMIZER_STATE}
        optimizer.state[parameter] = {
            # The count of steps is one number on every rank.
            key: part_of(value, parameter) if key != "step" else value.to(parameter.device)
            for key, value in state.items()
        }
    # A rank that was not there keeps the generator that it began with.
    suffix = f".{rank()}" if rank() else ""
    if f"rng.cpu{suffix}" in tensors:
        torch.set_rng_state(tensors[f"rng.cpu{suffix}"])
    if f"rng.cuda{suffix}" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"rng.cuda{suffix}"])
    return Progress(**read_json(folders[-1] / PROGRESS_NAME))
