"""Energy per token served by one subject, student or teacher."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from kdwatts.config import Config, to_dict
from kdwatts.data.packing import load_batch
from kdwatts.data.shards import TokenShards
from kdwatts.evaluation.inference import serving_cost
from kdwatts.records import SCHEMA, write_json
from kdwatts.stages.evaluate import load_subject, subject_settings
from kdwatts.stages.work import Work

VERSION = 1
COST_NAME = "inference.json"


def settings(config: Config, subject: str) -> dict[str, Any]:
    """What the joules depend on, besides hardware."""
    assert config.eval.inference
    return {**subject_settings(config, subject), "grid": to_dict(config.eval.inference)}


def build(work: Work, subject: str) -> None:
    """Serve the first rows of the corpus as prompts and write the cost to `work.out_dir`."""
    grid = work.config.eval.inference
    assert grid
    shards = TokenShards(work.inputs["shards"])
    rows = np.arange(grid.batch_size, dtype=np.int64)
    if shards.num_tokens <= grid.batch_size * grid.prompt_tokens:
        raise ValueError(
            f"eval.inference: {grid.batch_size} prompts of {grid.prompt_tokens} tokens need more "
            f"than the corpus of {shards.num_tokens} tokens; shorten them"
        )
    prompts = load_batch(shards, rows, grid.prompt_tokens).input_BT.to(work.device)
    model = load_subject(work, subject)
    cost = serving_cost(
        model, prompts, grid, meter=work.meter, synchronize=synchronizer(work.device)
    )
    write_json(work.out_dir / COST_NAME, {"schema": SCHEMA, "subject": subject, **asdict(cost)})


def synchronizer(device: torch.device):
    """A function that returns when the device has done all it was asked to.

    A card that was asked nothing is left alone: a context of CUDA would keep it from its idle power
    while the run waits for what another one builds.
    """

    def synchronize() -> None:
        if device.type == "cuda" and torch.cuda.is_initialized():
            torch.cuda.synchronize(device)

    return synchronize
