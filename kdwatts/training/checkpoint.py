"""The state of a training run as safetensors and JSON. Nothing is pickled.

It holds model, projectors, optimizer and random generator. Learning rate and data order follow from
the step. A checkpoint folder is filled under another name and then renamed: with its name it is
complete. Shards carry their places in the whole. So any number of ranks can continue from it,
however many saved it.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kdwatts.artifacts.store import as_readable_as, flush
from kdwatts.records.files import read_json, write_json
from kdwatts.records.schema import SCHEMA
from kdwatts.telemetry.open_window import OpenWindow
from kdwatts.training import checkpoint_files
from kdwatts.training.parallel import collected, rank

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


def _own_random_states() -> dict[str, Tensor]:
    """The generators of this rank."""
    own = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["rng.cuda"] = torch.cuda.get_rng_state()
    return own


def _random_states() -> dict[str, Tensor]:
    """The generators of every rank, the first one's under the names of a process that is alone."""
    sent = {name: state.tolist() for name, state in _own_random_states().items()}
    return {
        f"{name}.{number}" if number else name: torch.tensor(state, dtype=torch.uint8)
        for number, states in enumerate(collected(sent))
        for name, state in states.items()
    }


def save(
    directory: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write the checkpoint of `progress.step` and remove earlier ones.

    Every rank must call it. The first rank writes what is whole, and every rank its shards.
    """
    tensors = _random_states()
    for name, parameter in _named_parameters(modules).items():
        tensors[f"parameter.{name}"] = parameter.detach()
        for key in OPTIMIZER_STATE:
            tensors[f"optimizer.{key}.{name}"] = optimizer.state[parameter][key]
    leads, aside = rank() == 0, directory / f"step-{progress.step:08d}.part"
    try:
        if leads:  # What a kill left there. No rank writes before the first one plans it.
            shutil.rmtree(aside, ignore_errors=True)
        checkpoint_files.write(aside, tensors)
        if not leads:
            return
        write_json(aside / PROGRESS_NAME, asdict(progress))
        for path in aside.glob("*.safetensors"):
            as_readable_as(aside / PROGRESS_NAME, path)
        flush(aside)
    except OSError:
        if leads:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    final = directory / f"step-{progress.step:08d}"
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    flush(directory)
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
    folder, tensors = folders[-1], {}
    for name, parameter in _named_parameters(modules).items():
        state = {key: torch.zeros_like(parameter, requires_grad=False) for key in OPTIMIZER_STATE}
        # The count of steps is one number on every rank.
        state["step"] = torch.zeros((), device=parameter.device)
        optimizer.state[parameter] = state
        tensors[f"parameter.{name}"] = parameter.detach()
        tensors |= {f"optimizer.{key}.{name}": value for key, value in state.items()}
    # A rank that was not there keeps the generator that it began with.
    kept = checkpoint_files.names_in(folder)
    suffix = f".{rank()}" if rank() else ""
    states = {f"{name}{suffix}": state for name, state in _own_random_states().items()}
    states = {name: state for name, state in states.items() if name in kept}
    checkpoint_files.read(folder, {**tensors, **states})
    for name, state in states.items():
        setting = torch.set_rng_state if name.startswith("rng.cpu") else torch.cuda.set_rng_state
        setting(state)
    return Progress(**read_json(folder / PROGRESS_NAME))
