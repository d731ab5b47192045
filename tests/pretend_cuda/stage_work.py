"""What a real stage of a composed configuration is given, on either device.

Imported in the process of the pretended device alone.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from kdwatts.cli.preflight import compose
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.stages.graph import Node, plan
from kdwatts.stages.work import Work
from kdwatts.telemetry.meter import Meter
from tests.pretend_cuda.ledger import counted

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = (
    *("gpu=h100", "training=smoke", "eval=none", "until=distill", "data.num_documents=20"),
    *("training.sequence_length=40", "training.micro_batch=8", "training.accumulation=2"),
    *("training.target_tokens=1920", "training.compile=false", "training.log_every=100"),
    *("paradigm=sft", "telemetry.idle_s=0"),
)
"""What ships for an H100, in three steps of two micro-batches. Compiling needs a real device."""

_folder = Path(tempfile.mkdtemp(prefix="kdwatts-pretend-"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
_built: dict[str, Path] = {}


def config_of(overrides: Sequence[str]) -> Config:
    return to_config(compose([*SMALL, *overrides]))


@cache
def meter() -> Meter:
    """One meter for all cases: it estimates from the CPU."""
    run_dir = _new_folder()
    run_dir.mkdir()
    entered = Meter(run_dir, config_of([]).telemetry, use_gpus=False)
    atexit.register(entered.__exit__, None, None, None)
    return entered.__enter__()


def on_either(device: torch.device) -> AbstractContextManager[object]:
    """A context that counts on the pretended device, and knows nothing of it on the CPU."""
    return counted() if device == CUDA else nullcontext()


@contextmanager
def work_of(config: Config, stage: str, device: torch.device) -> Iterator[tuple[Node, Work]]:
    """A stage and what it is given on the device. What it needs is built on the CPU, once."""
    inputs: dict[str, Path] = {}
    nodes = plan(config, [])
    needed = {stage}
    for node in reversed(nodes):
        if node.name in needed:
            needed |= {*node.parents, *node.reads}
    with nullcontext() if device == CUDA else _disable_current_modes():
        for node in (node for node in nodes if node.name in needed):
            if node.name == stage:
                with _given(config, node, inputs, device) as work:
                    yield node, work
                return
            if node.key not in _built:
                with _disable_current_modes(), _given(config, node, inputs, CPU) as work:
                    node.build(work)
                    _built[node.key] = work.out_dir
            inputs[node.name] = _built[node.key]
    raise AssertionError(f"there is no stage {stage}")


@contextmanager
def _given(
    config: Config, node: Node, inputs: dict[str, Path], device: torch.device
) -> Iterator[Work]:
    folder = _new_folder()
    out_dir, scratch_dir, run_dir = (folder / name for name in ("out", "scratch", "run"))
    for place in (out_dir, scratch_dir, run_dir):
        place.mkdir(parents=True)
    parents = {name: inputs[name] for name in (*node.parents, *node.reads)}
    with meter().window(f"{node.name}{folder.name}", key=node.key) as window:
        yield Work(config, parents, out_dir, scratch_dir, run_dir, 1, meter(), window, device)


def _new_folder() -> Path:
    return _folder / str(len(list(_folder.iterdir())))


def on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Length of the difference of all tensors over that of the expected ones."""
    pairs = [(on_host(a), on_host(b)) for a, b in zip(found, expected, strict=True)]
    apart = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return (apart / sum(float((b**2).sum()) for _, b in pairs)) ** 0.5
