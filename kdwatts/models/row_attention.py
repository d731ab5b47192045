"""Attention of the rows that a student or a teacher reads whole: a training or a signal pass.

When torch.compile traces transformers, it builds a mask [B, 1, Q, K] for such rows. When nothing
traces it, it reads the positions back from the GPU. With a mask, no flash kernel runs, and keys and
values are repeated for every head. A model that attends by rows is given one of two things instead:

- for plain rows, a mask without an element. It says that every token sees all tokens before it. So
  torch's attention is called with `is_causal` and `enable_gqa`, and without a mask.
- for documents on a GPU, the blocks of 128 queries and 128 keys that meet (FlexAttention, Dong et
  al. 2024, arXiv 2412.05496), whose kernel is compiled. Without Triton, and for heads that are less
  than 16 wide, it is the whole mask.

All else, such as padding on the left or a cache of keys and values, goes to transformers' `sdpa`.
This rests on reading torch 2.11 and 2.13 and transformers 5.17 and 5.23.
"""

# B rows, T positions, D width; Q and K are T as the place of a query and of a key. n blocks of a
# row; I and J are n as a block of queries and of keys.

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

NAME = "kdwatts_rows"
BLOCK = 128
"""Positions of a block: FlexAttention's own default."""
LEAST_HEAD_WIDTH = 16
"""Of FlexAttention's kernel for a GPU: Triton's products take no narrower matrix."""


def attend_by_rows(model: nn.Module) -> None:
    """Make a model that uses transformers' `sdpa` attend by rows. Any other stays as it is.

    So does a model with blocks that see a window alone: a mask without an element has no window.
    The configuration of a model that attends by rows names this attention. A saved one does not.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    kinds = getattr(getattr(model, "config", None), "layer_types", None) or ()
    if _attention_of(model) != "sdpa" or "sliding_attention" in kinds:
        return
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)  # pyright: ignore[reportCallIssue]


def final_states(model: nn.Module, input_BT: Tensor, position_BT: Tensor | None = None) -> Tensor:
    """The states [B, T, D] after the final norm of a pass over whole rows [B, T], causal.

    Padding may stand right of the text alone. With `position_BT` [B, T], the places of tokens in
    their documents, each token sees its own document alone.
    """
    inputs = row_inputs(model, input_BT, position_BT)
    return model.get_submodule("model")(**inputs, use_cache=False).last_hidden_state


def compile_body(model: nn.Module) -> None:
    """Have torch.compile make code of a model's body at its first pass, one form for each use.

    The head is left out: the objective does it by itself, in chunks.
    """
    model.get_submodule("model").compile()


def row_inputs(model: nn.Module, input_BT: Tensor, position_BT: Tensor | None) -> dict[str, Any]:
    """The arguments with which the model's body reads whole rows, or documents in them."""
    inputs: dict[str, Any] = {"input_ids": input_BT}
    if _attention_of(model) != NAME:
        return inputs | attention_inputs(position_BT)
    if position_BT is None:
        no_mask = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=input_BT.device)
        return inputs | {"attention_mask": no_mask}
    if has_document_kernel(input_BT.device) and _head_width(model) >= LEAST_HEAD_WIDTH:
        blocks = document_blocks(position_BT)
        return inputs | {"position_ids": position_BT, "attention_mask": blocks}
    return inputs | attention_inputs(position_BT)


def attention_inputs(position_BT: Tensor | None) -> dict[str, Tensor]:
    """Arguments for a decoder's body with which each token sees its own document alone.

    They are the positions [B, T], which restart with every document, and a mask [B, 1, Q, K] that
    is true where a query sees a key. The mask is given in full: transformers makes one from the
    positions only when no other is given, and only in some versions. Without `position_BT` there
    are no arguments.
    """
    if position_BT is None:
        return {}
    place_T = torch.arange(position_BT.shape[1], device=position_BT.device)
    begin_BT = place_T - position_BT
    same_BQK = begin_BT[:, :, None] == begin_BT[:, None, :]
    causal_QK = place_T[:, None] >= place_T[None, :]
    return {"position_ids": position_BT, "attention_mask": (same_BQK & causal_QK)[:, None]}


def _attention_of(model: nn.Module) -> str | None:
    """The name of a model's attention. None for a model that is not of transformers."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None)


def _head_width(model: nn.Module) -> int:
    config: Any = model.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def has_document_kernel(device: torch.device) -> bool:
    """Whether documents are kept apart by FlexAttention, whose kernel is compiled."""
    return device.type == "cuda" and find_spec("triton") is not None


def document_blocks(position_BT: Tensor) -> BlockMask:
    """Which blocks of queries and keys meet when each token sees its own document alone.

    `position_BT` [B, T] are the places of tokens in their documents. A document is without a gap,
    so two blocks meet where the first query's document begins before the last key, and wholly where
    the last query's document begins no later than the first key. This takes (T / 128)^2 numbers a
    row, and the host does not wait for the device.
    """
    length, device = position_BT.shape[1], position_BT.device
    num_blocks = -(-length // BLOCK)
    begin_BT = torch.arange(length, device=device) - position_BT

    def same_document(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (begin_BT[row, query] == begin_BT[row, key])

    first_n = torch.arange(num_blocks, device=device) * BLOCK
    last_n = (first_n + BLOCK - 1).clamp(max=length - 1)
    earlier_IJ = first_n[:, None] > first_n[None, :]
    meets_BIJ = earlier_IJ & (begin_BT[:, first_n, None] <= last_n)
    # The last block of queries may be cut short: its kernel needs the mask.
    whole_I1 = (first_n + BLOCK <= length)[:, None]
    full_BIJ = earlier_IJ & whole_I1 & (begin_BT[:, last_n, None] <= first_n)
    diagonal_IJ = torch.eye(num_blocks, dtype=torch.bool, device=device)
    partial_BIJ = (meets_BIJ & ~full_BIJ) | diagonal_IJ
    return BlockMask.from_kv_blocks(
        *_listed(partial_BIJ),
        *_listed(full_BIJ),
        BLOCK_SIZE=BLOCK,
        mask_mod=same_document,
        seq_lengths=(length, length),
    )


def _listed(meets_BIJ: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries meets, and their numbers, those first.

    They are int32 [B, 1, I] and [B, 1, I, J].
    """
    order_BIJ = meets_BIJ.int().argsort(dim=-1, descending=True, stable=True)
    return meets_BIJ.sum(-1, dtype=torch.int32)[:, None], order_BIJ.int()[:, None]


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    **settings: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention as transformers calls it. Queries, keys and values are [B, heads, T, width].

    Raises ValueError for keys of other tokens beside rows that are read whole, and for dropout
    where documents are kept apart by FlexAttention, which has none.
    """
    from transformers.integrations.flex_attention import compile_friendly_flex_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if isinstance(attention_mask, BlockMask):
        if settings["dropout"]:
            raise ValueError(
                f"attention_dropout={settings['dropout']} in a model's config.json with "
                "training.respect_documents=true is not supported on a GPU; set attention_dropout "
                "to 0, or training.respect_documents to false"
            )
        output = compile_friendly_flex_attention(
            # Autocast knows torch's attention, and not this. The rotary embedding is in float32.
            query.to(value.dtype),
            key.to(value.dtype),
            value,
            training=module.training,
            block_mask=attention_mask,
            scale=settings["scaling"],
            enable_gqa=True,
        )
        return output.transpose(1, 2).contiguous(), None  # pyright: ignore
    if attention_mask is not None and attention_mask.shape[-1] == 0:
        if query.shape[2] != key.shape[2]:
            raise ValueError(
                f"attention of whole rows has {query.shape[2]} queries and {key.shape[2]} keys; "
                "read rows without a cache, or give a mask"
            )
        attention_mask = None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
