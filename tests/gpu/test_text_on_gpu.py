"""Text that is written on the GPU: a graph replays the tokens of plain steps and of the CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from kdwatts.teacher.decoding import uniform_draws, write_text
from kdwatts.teacher.decoding_steps import StaticSteps, steps_of
from kdwatts.teacher.late_looks import SELDOM
from kdwatts.training.autocast import autocast
from tests.gpu.gpu import DEVICE, ON_GPU
from tests.training.pair import llama

pytestmark = [pytest.mark.gpu, ON_GPU]

LENGTHS = (3, 30, 1, 16, 12, 2, 7, 5)
SAMPLINGS = [(0.0, 1.0), (1.0, 1.0), (0.7, 0.9)]


def write(
    model: Any, make_steps: Any, *, ends: list[int], temperature: float, top_p: float
) -> list[list[int]]:
    prompts = [np.random.default_rng(n).integers(64, size=n) for n in LENGTHS]
    texts = write_text(
        model,
        prompts,
        [uniform_draws([0, key], 120) for key in range(len(LENGTHS))],
        end_ids=ends,
        vocabulary=64,
        temperature=temperature,
        top_p=top_p,
        make_steps=make_steps,
        make_pace=lambda device: SELDOM,
    )
    return [text.tolist() for text in texts]


def noted(made: list[StaticSteps], *arguments: Any, **named: Any) -> StaticSteps:
    """Steps that are captured on a GPU, put into a list."""
    made.append(StaticSteps(*arguments, **named, is_captured=True))
    return made[-1]


def model_of(dtype: torch.dtype) -> Any:
    return llama(0, vocabulary=64, width=64, num_layers=2, tied=True).eval().to(DEVICE, dtype)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
def test_a_graph_s_replays_write_the_tokens_of_plain_steps(
    precision: str, temperature: float, top_p: float
):
    model, made = model_of(torch.float32), []
    asked: dict[str, Any] = {"ends": [], "temperature": temperature, "top_p": top_p}
    with autocast(precision, DEVICE):
        plain = write(model, partial(StaticSteps, is_captured=False), **asked)
        replayed = write(model, partial(noted, made), **asked)
    assert replayed == plain
    assert all(len(text) == 120 for text in plain)
    # Had the capture failed, the steps would have stayed plain.
    assert (made[0]._graph is not None) == (DEVICE.type == "cuda")


@pytest.mark.parametrize(("temperature", "top_p"), [*SAMPLINGS, (3.0, 1.0)])
def test_the_gpu_writes_the_text_of_the_cpu_in_float64(temperature: float, top_p: float):
    """Rows end at different tokens, so that batches are halved and captured again."""
    asked: dict[str, Any] = {"ends": [9, 27], "temperature": temperature, "top_p": top_p}
    model = model_of(torch.float64)
    there = write(model, partial(noted, []), **asked)
    assert write(model.cpu(), steps_of, **asked) == there
