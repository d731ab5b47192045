"""Writing text on the pretended device: a case for `tests.pretend_cuda.runner`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kdwatts.serving.eager_loop import _Served
from kdwatts.teacher.decoding import uniform_draws, write_text
from kdwatts.training.autocast import autocast
from tests.training.pair import llama

LENGTHS = (3, 9, 1, 6)


def write(
    count: int,
    ends: list[int],
    temperature: float,
    top_p: float,
    *,
    slides: bool = False,
    precision: str = "fp32",
) -> dict[str, Any]:
    """What a model writes on the device, and on the CPU."""
    from tests.pretend_cuda.ledger import counted

    prompts = [np.random.default_rng(n).integers(64, size=n) for n in LENGTHS]
    draws = [uniform_draws([0, key], count) for key in range(len(LENGTHS))]
    model: Any = llama(0, vocabulary=64, width=16, num_layers=2, tied=True).eval()
    asked: dict[str, Any] = {"end_ids": ends, "vocabulary": 60, "temperature": temperature}
    here = write_text(model, prompts, draws, **asked, top_p=top_p)
    if slides:
        # An attention that gives no static form.
        model.config._attn_implementation = "eager"
    model.to("cuda")
    with counted(), autocast(precision, torch.device("cuda")):
        there = write_text(model, prompts, draws, **asked, top_p=top_p)
    return {name: [t.tolist() for t in texts] for name, texts in (("cpu", here), ("cuda", there))}


def serve(new_tokens: int) -> None:
    """Prefill and decode of the eager loop, counted as inside a window."""
    from tests.pretend_cuda.ledger import counted

    model: Any = llama(0, vocabulary=64, width=16, num_layers=2, tied=True).eval().to("cuda")
    prompt_BT = torch.ones(2, 8, dtype=torch.int64).to("cuda")
    with torch.no_grad():
        served = _Served(model, prompt_BT, "student")
        with counted():
            served.prefill()
            served.decode(new_tokens)
