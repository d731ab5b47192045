"""The model's part of writing text: logits after the prompts, then after each token written.

There are two forms, and they give the same logits up to rounding. The growing form is for the CPU:
its cache of keys and values grows with the text, and a row whose text has ended leaves at once. The
static form is for a GPU: its cache has its full size from the start. So each token takes the same
work on the same memory, and a CUDA graph of one token can be replayed for all others.
"""

# B rows still written to, P positions of the prompts, M places of the static cache, Q places of the
# tokens that are given, V rows of the model's table of tokens.

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import Cache, StaticLayer

from kdwatts.models.sharding import is_sharded

log = logging.getLogger(__name__)

LEAST_REPLAYS = 32
"""Fewer tokens than this do not repay a capture. It takes as long as some plain steps."""

ALIGNED_PLACES = 8
"""Rows of a mask begin at multiples of so many values in torch's memory-efficient attention."""

TAKES_MASK = ("sdpa", "kdwatts_rows")
"""Attention that takes a mask [B, 1, Q, M] of truth values as it is."""

_not_captured: WeakSet[nn.Module] = WeakSet()
"""Models whose capture failed: it is tried and warned of once."""


class Steps(Protocol):
    """What is known of the texts so far, and the logits of their next tokens, [B, V]."""

    def begin(self) -> Tensor:
        """Logits after the prompts. Once, before any step."""
        ...

    def step(self, token_B: Tensor) -> Tensor:
        """Logits after one more token of each row. The next step may overwrite them."""
        ...

    def keep(self, stay_B: Tensor) -> None:
        """Go on with these rows alone, int64 indices on the model's device."""
        ...


class MakeSteps(Protocol):
    """What makes the steps of one batch."""

    def __call__(
        self, model: nn.Module, token_BP: Tensor, mask_BP: Tensor, *, new_tokens: int
    ) -> Steps: ...


def steps_of(model: nn.Module, token_BP: Tensor, mask_BP: Tensor, *, new_tokens: int) -> Steps:
    """The form that suits the device, for prompts padded on the left.

    `mask_BP` is 0 at pads, int64. At most `new_tokens` are written after each prompt.
    """
    if token_BP.device.type == "cpu" or not _has_static_form(model):
        return GrowingSteps(model, token_BP, mask_BP)
    return StaticSteps(model, token_BP, mask_BP, new_tokens=new_tokens, is_captured=True)


def _has_static_form(model: nn.Module) -> bool:
    """Whether the model's attention takes a mask of truth values, and its cache keeps all tokens.

    What a cache with sliding windows does depends on how full it is, which a graph cannot follow.
    """
    takes_mask = model.config._attn_implementation in TAKES_MASK  # pyright: ignore
    layers = StaticCache(model.config, 1).layers  # pyright: ignore[reportArgumentType]
    return takes_mask and all(type(layer) is StaticLayer for layer in layers)


class _Layer(StaticLayer):
    """Keys and values in the dtype of the values.

    Under autocast the rotary embedding makes float32 of the keys, which attention rounds again.
    Kept in float32, both would take twice the memory and be rounded for every token.
    """

    def __init__(self, num_places: int, device: torch.device) -> None:
        super().__init__(num_places)
        # Made on the CPU, it would be waited for in every layer.
        self.cumulative_length = torch.zeros((), dtype=torch.int64, device=device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)


def aligned(num_places: int) -> int:
    """At least so many places. Attention would pad a mask of another length for every block."""
    return -(-num_places // ALIGNED_PLACES) * ALIGNED_PLACES


def _positions(mask_BP: Tensor) -> Tensor:
    """Pads have no position: a text's first token is at position 0 whatever stands before it."""
    return (mask_BP.cumsum(-1) - 1).clamp(min=0)


class GrowingSteps:
    """Steps with a cache that grows by each token, and shrinks by each row that leaves."""

    def __init__(self, model: nn.Module, token_BP: Tensor, mask_BP: Tensor) -> None:
        self._model, self._token_BP, self._mask_BP = model, token_BP, mask_BP
        self._position_BP = _positions(mask_BP)
        self._cache = DynamicCache(config=model.config)  # pyright: ignore[reportArgumentType]

    def begin(self) -> Tensor:
        """Logits after the prompts, [B, V]."""
        said = self._model(
            input_ids=self._token_BP,
            attention_mask=self._mask_BP,
            position_ids=self._position_BP,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return said.logits[:, -1]

    def step(self, token_B: Tensor) -> Tensor:
        """Logits after one more token of each row, [B, V]."""
        self._token_BP, self._position_BP = token_B[:, None], self._position_BP[:, -1:] + 1
        one_more_B1 = self._mask_BP.new_ones(len(self._mask_BP), 1)
        self._mask_BP = torch.cat([self._mask_BP, one_more_B1], dim=-1)
        return self.begin()

    def keep(self, stay_B: Tensor) -> None:
        """Go on with these rows alone: the others' keys and values are freed."""
        self._cache.batch_select_indices(stay_B)
        self._mask_BP, self._position_BP = self._mask_BP[stay_B], self._position_BP[stay_B]


class StaticSteps:
    """Steps that read and write the same memory each time, captured as a CUDA graph if wanted.

    The mask is ours, [B, 1, Q, M]: transformers would look on the host whether it masks anything.
    """

    def __init__(
        self,
        model: nn.Module,
        token_BP: Tensor,
        mask_BP: Tensor,
        *,
        new_tokens: int,
        is_captured: bool,
    ) -> None:
        self._model, self._token_BP = model, token_BP
        (num_rows, num_prompt), device = token_BP.shape, token_BP.device
        # The last token that is written is not read again.
        self._num_places = aligned(num_prompt + new_tokens - 1)
        num_layers: Any = model.config.num_hidden_layers  # pyright: ignore
        self._layers: list[Any] = [_Layer(self._num_places, device) for _ in range(num_layers)]
        self._cache = Cache(layers=self._layers)
        self._key_M = torch.arange(self._num_places, device=device)
        self._is_text_BM = torch.ones(num_rows, self._num_places, dtype=torch.bool, device=device)
        self._is_text_BM[:, :num_prompt] = mask_BP.bool()
        self._position_BP = _positions(mask_BP)
        # What a step reads. It moves place and position on by itself.
        self._token_B1 = token_BP[:, -1:].clone()
        self._position_B1 = self._position_BP[:, -1:] + 1
        self._place_1 = torch.full((1,), num_prompt, device=device)
        self._num_filled = num_prompt
        self._wants_graph = is_captured and not _is_spread(model)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits_BV: Tensor | None = None

    def begin(self) -> Tensor:
        """Logits after the prompts, [B, V]."""
        return self._say(self._token_BP, self._position_BP, self._key_M[: self._num_filled])

    def step(self, token_B: Tensor) -> Tensor:
        """Logits after one more token of each row, [B, V]: of a graph, in memory of its own."""
        self._token_B1.copy_(token_B[:, None])
        if self._graph is None and self._wants_graph and self._is_worth_a_graph():
            self._capture()
        self._num_filled += 1
        if self._graph is None:
            return self._plain_step()
        self._graph.replay()
        assert self._logits_BV is not None
        return self._logits_BV

    def keep(self, stay_B: Tensor) -> None:
        """Go on with these rows alone, in smaller memory, for which a new graph is captured."""
        # The graph knows the old memory.
        self._graph = self._logits_BV = None
        for layer in self._layers:
            layer.keys, layer.values = layer.keys[stay_B], layer.values[stay_B]
        self._is_text_BM = self._is_text_BM[stay_B]
        self._token_B1, self._position_B1 = self._token_B1[stay_B], self._position_B1[stay_B]

    def _say(self, token_BQ: Tensor, position_BQ: Tensor, place_Q: Tensor) -> Tensor:
        said = self._model(
            input_ids=token_BQ,
            attention_mask=self._seen(place_Q),
            position_ids=position_BQ,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return said.logits[:, -1]

    def _seen(self, place_Q: Tensor) -> Tensor:
        """True where a token at a place sees a place of the cache, [B, 1, Q, M].

        It sees all text up to itself. A pad sees itself, since attention to nothing may be NaN. NaN
        in the cache reaches every token: NaN times a weight of 0 is NaN.
        """
        before_QM = self._key_M <= place_Q[:, None]
        itself_QM = self._key_M == place_Q[:, None]
        return ((self._is_text_BM[:, None] & before_QM) | itself_QM)[:, None]

    def _plain_step(self) -> Tensor:
        """The step itself. All that it does is on the device, so a graph can hold it."""
        logits_BV = self._say(self._token_B1, self._position_B1, self._place_1)
        self._place_1.add_(1)
        self._position_B1.add_(1)
        return logits_BV

    def _is_worth_a_graph(self) -> bool:
        return (
            self._num_places - self._num_filled >= LEAST_REPLAYS
            and self._model not in _not_captured
        )

    def _capture(self) -> None:
        """Record the step as a graph. Nothing is kept of the steps made before, for warm-up.

        Where this fails, one warning is given and the steps stay plain.
        """
        position_B1 = self._position_B1.clone()
        try:
            stream, here = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(here)
            try:
                with torch.cuda.stream(stream):
                    self._plain_step()
                    self._rewind(position_B1)
                    # A step that waits for the device cannot be captured. It fails here, as a
                    # capture that fails leaves torch's allocator in the middle of it.
                    with _waits_refused():
                        self._plain_step()
                    self._rewind(position_B1)
            finally:
                here.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Another thread may lock memory meanwhile, as one that loads batches does.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._logits_BV = self._plain_step()
            self._graph = graph
        except RuntimeError as error:
            _not_captured.add(self._model)
            reason = str(error).partition("\n")[0]
            log.warning(
                "generate: the step that writes a token could not be captured as a CUDA graph "
                "(%s); its kernels are started one by one, which is slower",
                reason,
            )
            self._logits_BV = None
            self._rewind(position_B1)

    def _rewind(self, position_B1: Tensor) -> None:
        """Back to before a step that was made, wholly or in part. What it wrote is overwritten."""
        self._place_1.fill_(self._num_filled)
        self._position_B1.copy_(position_B1)
        for layer in self._layers:
            layer.cumulative_length.fill_(self._num_filled)


@contextmanager
def _waits_refused() -> Iterator[None]:
    """Have torch raise RuntimeError where the host would wait for the GPU."""
    mode = torch.cuda.get_sync_debug_mode()
    _refuse_waits("error")
    try:
        yield
    finally:
        _refuse_waits(mode)


def _refuse_waits(mode: int | str) -> None:
    with warnings.catch_warnings():
        # Torch warns once that it does not see all waits. A capture sees the others.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


def _is_spread(model: nn.Module) -> bool:
    """Whether the model's weights are gathered from other ranks for each step."""
    return any(is_sharded(parameter) for parameter in model.parameters())
