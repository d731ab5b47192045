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
from kdwatts.stages.graph import PlannedStage, plan
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
def work_of(
    config: Config, stage: str, device: torch.device
) -> Iterator[tuple[PlannedStage, Work]]:
    """A stage and what it is given on the device. What it needs is built on the CPU, once."""
    inputs: dict[str, Path] = {}
    stages = plan(config, [])
    needed = {stage}
    for planned in reversed(stages):
        if planned.name in needed:
            needed |= {*planned.parents, *planned.reads}
    with nullcontext() if device == CUDA else _disable_current_modes():
        for planned in (planned for planned in stages if planned.name in needed):
            if planned.name == stage:
                with _given(config, planned, inputs, device) as work:
                    yield planned, work
                return
            if planned.key not in _built:
                with _disable_current_modes(), _given(config, planned, inputs, CPU) as work:
                    planned.build(work)
                    _built[planned.key] = work.out_dir
            inputs[planned.name] = _built[planned.key]
    raise AssertionError(f"there is no stage {stage}")


@contextmanager
def _given(
    config: Config, planned: PlannedStage, inputs: dict[str, Path], device: torch.device
) -> Iterator[Work]:
    folder = _new_folder()
    out_dir, scratch_dir, run_dir = (folder / name for name in ("out", "scratch", "run"))
    for place in (out_dir, scratch_dir, run_dir):
        place.mkdir(parents=True)
    parents = {name: inputs[name] for name in (*planned.parents, *planned.reads)}
    with meter().window(f"{planned.name}{folder.name}", key=planned.key) as window:
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
