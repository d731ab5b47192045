"""The attention of whole rows, and of documents in them, beside transformers' in float64.

The reference is transformers' `sdpa` on the CPU: for documents it takes the whole mask. On a GPU
documents go through FlexAttention, whose kernel torch compiles, which takes a C compiler and some
seconds.
"""

# B rows, T positions, D width.

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdwatts.data.positions import positions_in_documents
from kdwatts.doctor.numbers.cases_of_terms import drawn
from kdwatts.doctor.numbers.terms_in_float64 import FP32_TOLERANCE, Agreement, distance
from kdwatts.doctor.numbers.verdicts_on_terms import Examined, verdict_on
from kdwatts.doctor.patient import Patient
from kdwatts.models.row_attention import attend_by_rows, final_states, has_document_kernel
from kdwatts.records.doctor_record import Verdict
from kdwatts.training.autocast import autocast

LENGTH = 300
"""Positions: two whole blocks of 128, and one that is cut short."""
VOCABULARY = 61
ATTENTION_TOLERANCES = {"fp32": FP32_TOLERANCE, "bf16": 5e-2}
"""Relative, of states and of slopes. Two blocks of a model round a dozen times to the 8 bits of
bfloat16, 0.4 % each."""
COMPILE_S = 30.0
"""With less time than this on a GPU, the kernel for documents is not compiled."""


def small_model(*, hidden_size: int = 64, num_kv_heads: int = 2, initializer: float = 0.1) -> Any:
    """A Llama of two blocks and four heads with random weights, as transformers makes it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        initializer_range=initializer,
    )
    return LlamaForCausalLM(config).train()


def states_and_slopes(
    model: nn.Module, device: torch.device, precision: str, position_BT: Tensor | None, length: int
) -> list[Tensor]:
    """The final states [B, T, D], and the slopes of a sum of them for all weights below."""
    generator = torch.Generator().manual_seed(5)
    token_BT = torch.randint(VOCABULARY, (2, length), generator=generator).to(device)
    if position_BT is not None:
        position_BT = position_BT.expand(2, -1).to(device)
    with autocast(precision, device):
        states_BTD = final_states(model, token_BT, position_BT)
    parameters = [p for p in model.get_submodule("model").parameters() if p.requires_grad]
    weight_BTD = drawn(6, *states_BTD.shape).to(device)
    return [states_BTD.detach(), *torch.autograd.grad((states_BTD * weight_BTD).sum(), parameters)]


def compared_attention(
    stock: nn.Module,
    device: torch.device,
    precision: str,
    *,
    documents: Sequence[int] | None = None,
    length: int = LENGTH,
) -> Agreement:
    """A model that attends by rows on a device, beside the same model in float64 on the CPU.

    With `documents`, the lengths of documents in a row, each token sees its own document alone.
    The error of the states stands for that of a value.
    """
    ours = copy.deepcopy(stock).to(device)
    attend_by_rows(ours)
    position_BT = None
    if documents:
        starts = np.cumsum([0, *documents])[:-1]
        position_BT = torch.from_numpy(positions_in_documents(length, starts))[None]
    reference = copy.deepcopy(stock).double()
    expected = states_and_slopes(reference, torch.device("cpu"), "fp32", position_BT, length)
    found = states_and_slopes(ours, device, precision, position_BT, length)
    allowed = ATTENTION_TOLERANCES[precision]
    return Agreement(
        precision,
        distance(found[:1], expected[:1]),
        distance(found[1:], expected[1:]),
        allowed,
        allowed,
    )


def look_at_attention(patient: Patient, seconds: float) -> Iterator[Verdict]:
    """`attention_rows` and `attention_documents`: states and slopes of a small model."""
    device = torch.device(patient.device)
    try:
        yield from examine_attention(device, seconds)
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def examine_attention(device: torch.device, seconds: float) -> Iterator[Verdict]:
    """The verdicts on the attention of a device."""
    until_s, stock = time.monotonic() + seconds, small_model()
    against = (
        "transformers' sdpa in float64 on the CPU; at most "
        f"{100 * ATTENTION_TOLERANCES['fp32']:g} % off in float32 and "
        f"{100 * ATTENTION_TOLERANCES['bf16']:g} % under autocast in bfloat16, which keeps 8 bits"
    )
    for name, documents in (("attention_rows", None), ("attention_documents", (11, 269, 20))):
        what = "passes of a small model over " + ("documents" if documents else "plain rows")
        if documents and has_document_kernel(device) and until_s - time.monotonic() < COMPILE_S:
            found = f"{what}; not looked at: the kernel takes up to {COMPILE_S:.0f} s to compile"
            yield Verdict(name, None, found, remedy="give more --minutes")
            continue
        examined = Examined()
        for precision in ATTENTION_TOLERANCES:
            compare = partial(compared_attention, stock, device, precision, documents=documents)
            examined.look(precision, compare, until_s)
        remedy = (
            "set training.respect_documents=false, or install the triton of this torch and a C "
            "compiler"
            if documents
            else "try another version of torch or of transformers; report it where the CPU is off"
        )
        yield verdict_on(name, what, examined, against=against, remedy=remedy)
