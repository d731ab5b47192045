"""The stages around training, on the pretended device and on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdwatts.config.experiment import Config
from kdwatts.records.files import read_json
from kdwatts.serving.eager_loop import serving_costs
from kdwatts.stages import inference
from kdwatts.stages.evaluate import load_subject
from kdwatts.teacher.cache import SignalCache
from tests.pretend_cuda.stage_work import CPU, CUDA, config_of, distance, on_either, work_of


def build(overrides: Sequence[str], stage: str) -> dict[str, Any]:
    """The files that a stage makes and that are not the CPU's. The whole stage is counted."""
    on_cuda, on_cpu = (
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in _artifacts(config_of(overrides), stage)
    )
    assert on_cuda.keys() == on_cpu.keys()
    return {"different": sorted(name for name in on_cuda if on_cuda[name] != on_cpu[name])}


def cache_signals(overrides: Sequence[str]) -> dict[str, Any]:
    """How far the probabilities of a cache of top-k signals are from the CPU's.

    The whole stage is counted.
    """
    caches = [SignalCache(folder) for folder in _artifacts(config_of(overrides), "teacher")]
    found, expected = (_probabilities(cache) for cache in caches)
    return {"probabilities": distance([found], [expected])}


def _artifacts(config: Config, stage: str) -> list[Path]:
    """What a stage makes on the device and on the CPU."""
    folders = []
    for device in (CUDA, CPU):
        with work_of(config, stage, device) as (node, work):
            with on_either(device):
                node.build(work)
            folders.append(work.out_dir)
    return folders


def _probabilities(cache: SignalCache) -> torch.Tensor:
    """Of the tokens that the cache keeps, by token: [N, V]."""
    rows = np.load(cache.directory / "rows.npy")
    sparse = cache.read(rows).sparse
    assert sparse
    top = sparse.at(1.0, (1.0, 2.0, 4.0))
    probabilities_NV = torch.zeros(len(top.ids_NK), 1024, dtype=torch.float64)
    return probabilities_NV.scatter(1, top.ids_NK, top.log_p_NK.double().exp())


def serve(overrides: Sequence[str]) -> dict[str, Any]:
    """Passes and calls of the serving loop, and how far its last logits are from the CPU's.

    All of the loop is counted.
    """
    config = config_of(["eval=tiny", "eval.tasks=[]", "until=inference", *overrides])
    on_cuda, on_cpu = (_served(config, device) for device in (CUDA, CPU))
    return {
        "logits": distance([on_cuda["logits"]], [on_cpu["logits"]]),
        "num_passes": on_cuda["num_passes"],
        "num_calls": on_cuda["num_calls"],
    }


def _served(config: Config, device: torch.device) -> dict[str, Any]:
    assert config.eval.inference
    grid = copy.copy(config.eval.inference)
    grid.batch_sizes, grid.prompt_lengths, grid.new_lengths = [2], [16], [4]
    grid.min_window_s = 0.01  # The settings refuse less than 2 s, which real serving needs.
    seen: dict[str, Any] = {"num_passes": 0, "num_calls": 0}
    wait = inference.synchronizer(device)

    def note(_module: Any, _inputs: Any, output: Any) -> None:
        seen["num_passes"] += 1
        seen["logits"] = output.logits

    def synchronize() -> None:
        seen["num_calls"] += 1
        wait()

    with work_of(config, "inference_teacher", device) as (_, work):
        model = load_subject(work, "teacher")
        model.register_forward_hook(note)
        prompts = inference._prompts(config, "teacher", work.inputs["shards"])
        with on_either(device):
            serving_costs(
                model,
                lambda batch, length: prompts(batch, length).to(device),
                grid,
                meter=work.meter,
                synchronize=synchronize,
            )
    return seen


def scores(overrides: Sequence[str]) -> dict[str, Any]:
    """The teacher's scores in the shipped tasks, on the device and on the CPU."""
    config = config_of(["eval=tiny", "until=evaluate", *overrides])
    return {
        device: {
            f"{row['task']} {row['metric']}": row["value"]
            for row in read_json(folder / "eval.json")
        }
        for device, folder in zip(
            ("cuda", "cpu"), _artifacts(config, "evaluate_teacher"), strict=True
        )
    }
