"""How near the plan's memory is to what training takes: `python -m tests.bench.plan_memory`.

Trains a few steps on the CPU and counts the bytes of all live tensors, as an allocator would hand
them out, at every operation of the training loop. What lies outside tensors (the interpreter, its
libraries, a CUDA context) is in neither figure, and what the thread that reads ahead holds of a
cache is not counted. `--pair` adds others, such as smollm2_135m_to_81m; where a pair's teacher has
still to be made, one of its shape with random weights, and the tiny tokenizer, stand for it.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdwatts.cli.attempt import run_in
from kdwatts.cli.preflight import compose, preflight
from kdwatts.config.checks import to_config
from kdwatts.memory.budget import GIB, estimate
from kdwatts.models.load import load_model, load_tokenizer
from kdwatts.planning.demands import workload_of
from kdwatts.planning.feasibility import unmade_teacher
from kdwatts.stages import distill

PARADIGMS = ("sft", "response", "feature", "relational", "combined")
PRECISIONS = ("fp32", "bf16")
SHAPES = (
    [],
    ["training.gradient_checkpointing=true"],
    ["training.micro_batch=2"],
    ["training.accumulation=2"],
)


def _living() -> list[torch.Tensor]:
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that are alive, and the most there were at once.

    Those of the tensors in `aside` are others' and not counted.
    """

    def __init__(self, aside: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._aside = {tensor.untyped_storage()._cdata for tensor in aside}
        self._seen: dict[int, weakref.ref] = {}
        for found in _living():
            self._add(found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for found in tree_leaves(result):
            if isinstance(found, torch.Tensor):
                self._add(found)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen or key in self._aside or tensor.device.type == "meta":
            return
        self._seen[key] = weakref.ref(storage, lambda _: self._remove(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _remove(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


def measure(overrides: Sequence[str], store_dir: Path) -> tuple[float, float]:
    """GiB that the plan names and that training took at most."""
    (config,) = preflight(overrides, multirun=False)
    found: list[int] = []
    train, before = distill.train, _living()

    def counted(*args: Any, **kwargs: Any) -> Any:
        with LiveBytes(aside=before) as live:
            progress = train(*args, **kwargs)
        found.append(live.peak)
        return progress

    with tempfile.TemporaryDirectory() as run_dir, mock.patch.object(distill, "train", counted):
        run_in(Path(run_dir), compose([*overrides, f"store_dir={store_dir}"]), overrides)
    return estimate(workload_of(config)).total_gib, found[0] / GIB


def _stand_in(pair: str, folder: Path) -> list[str]:
    """Overrides that put a teacher of random weights in the place of one still to be made."""
    config = to_config(compose([f"model={pair}", "paradigm=sft"]))
    if unmade_teacher(config.model) is None:
        return []
    assert config.model.teacher
    source = replace(config.model.teacher, path=None)
    teacher: Any = load_model(source, dtype=torch.float32)
    teacher.save_pretrained(folder)
    load_tokenizer("tiny:tokenizer").save_pretrained(folder)
    return [f"model.teacher.path={folder}", f"model.tokenizer={folder}"]


def _whole_groups(pair: str, paradigm: str) -> list[str]:
    """Groups of eight sequences need a micro-batch that holds them; that of tiny does."""
    needed = pair != "tiny" and paradigm in ("relational", "combined")
    return ["training.micro_batch=8"] if needed else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", action="append", default=[], help="beside tiny")
    options = parser.parse_args()
    print("| pair | precision | paradigm | changes | plan, MiB | live, MiB | plan / live |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for pair in ("tiny", *options.pair):
            stand_in = _stand_in(pair, Path(folder) / pair)
            for precision, paradigm in itertools.product(PRECISIONS, PARADIGMS):
                shapes = SHAPES if paradigm in ("sft", "feature") else SHAPES[:1]
                for changes in (shape + _whole_groups(pair, paradigm) for shape in shapes):
                    # Two steps at least: the optimizer's moments are made by the first.
                    target_tokens = 8192 if pair == "tiny" else 4096
                    overrides = [
                        f"model={pair}", f"paradigm={paradigm}", f"training.precision={precision}",
                        "until=distill", "eval=none", "gpu=cpu", "training.heldout_every=0",
                        f"training.target_tokens={target_tokens}",
                        *stand_in, *changes,
                    ]  # fmt: skip
                    planned, live = measure(overrides, Path(folder) / "store")
                    worst = max(worst, abs(planned / live - 1))
                    print(
                        f"| {pair} | {precision} | {paradigm} | {' '.join(changes)} | "
                        f"{1024 * planned:,.1f} | {1024 * live:,.1f} | {planned / live:.2f} |",
                        flush=True,
                    )
    print(f"furthest from 1: {worst:.0%}")
    sys.exit(worst > 0.15)


if __name__ == "__main__":
    main()
