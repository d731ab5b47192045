"""The static form of a writer's steps, without a graph on the CPU, beside the growing one."""

# B prompts, P positions, V vocabulary.

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from kdwatts.teacher import decoding_steps
from kdwatts.teacher.decoding import uniform_draws, write_text
from kdwatts.teacher.decoding_steps import GrowingSteps, StaticSteps, steps_of
from kdwatts.teacher.late_looks import EACH_TOKEN, SELDOM, Pace
from kdwatts.training.autocast import autocast
from tests.teacher import replayed_graph

LENGTHS = (3, 9, 1, 6, 12, 2, 7, 5)
ENDS = [7, 11, 12, 13, 14, 21, 33, 0]
SAMPLINGS = [(0.0, 1.0), (1.0, 1.0), (3.0, 1.0), (0.7, 0.9)]
PACES = [EACH_TOKEN, SELDOM, Pace(every=4, late=3, kept_share=0.5)]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def writer(request: pytest.FixtureRequest, teacher: Any) -> Any:
    """Models in float64, so that rounding cannot hide or feign a difference."""
    if request.param == "llama":
        return copy.deepcopy(teacher).double()
    torch.manual_seed(3)
    shape: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
    }
    heads: dict[str, Any] = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "initializer_range": 0.4,
    }
    return Qwen2ForCausalLM(Qwen2Config(**shape, **heads)).double().eval()


def static(model: nn.Module, token_BP: Tensor, mask_BP: Tensor, *, new_tokens: int) -> StaticSteps:
    return StaticSteps(model, token_BP, mask_BP, new_tokens=new_tokens, is_captured=False)


def write(
    model: Any,
    *,
    pace: Pace = SELDOM,
    make_steps: Any = static,
    counts: Sequence[int] = (40,) * len(LENGTHS),
    end_ids: Sequence[int] = ENDS,
    vocabulary: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[list[int]]:
    """Texts after prompts of different lengths."""
    prompts = [np.random.default_rng(n).integers(64, size=n) for n in LENGTHS]
    texts = write_text(
        model,
        prompts,
        [uniform_draws([0, key], count) for key, count in enumerate(counts)],
        end_ids=end_ids,
        vocabulary=vocabulary,
        temperature=temperature,
        top_p=top_p,
        make_steps=make_steps,
        make_pace=lambda device: pace,
    )
    return [text.tolist() for text in texts]


def growing(model: Any, **asked: Any) -> list[list[int]]:
    return write(model, make_steps=steps_of, pace=EACH_TOKEN, **asked)


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
def test_the_static_form_writes_the_tokens_of_the_growing_one(
    writer: Any, pace: Pace, temperature: float, top_p: float
):
    asked: dict[str, Any] = {"temperature": temperature, "top_p": top_p}
    others: list[dict[str, Any]] = [
        {},
        {"end_ids": []},
        {"vocabulary": 10},
        {"counts": (1, 40, 7, 2, 33, 16, 17, 40)},
    ]
    for more in others:
        assert write(writer, pace=pace, **asked, **more) == growing(writer, **asked, **more)


def test_texts_end_at_many_places_and_some_batches_are_halved(writer: Any):
    rows: list[int] = []

    def noted(*arguments: Any, **named: Any) -> StaticSteps:
        steps = static(*arguments, **named)
        keep = steps.keep

        def note(stay_B: Tensor) -> None:
            rows.append(len(stay_B))
            keep(stay_B)

        steps.keep = note
        return steps

    texts = write(writer, make_steps=noted, temperature=3.0, pace=Pace(4, 1, 0.5))
    assert texts == growing(writer, temperature=3.0)
    assert len({len(text) for text in texts}) > 3
    assert rows and all(
        after <= before / 2 for before, after in zip([8, *rows], rows, strict=False)
    )


def test_logits_of_the_static_form_are_those_of_the_growing_one(writer: Any):
    token_BP = torch.arange(12).view(2, 6)
    mask_BP = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    forms = [
        GrowingSteps(writer, token_BP, mask_BP),
        static(writer, token_BP, mask_BP, new_tokens=5),
    ]
    with torch.no_grad():
        said = [form.begin() for form in forms]
        torch.testing.assert_close(said[0], said[1], rtol=1e-12, atol=1e-12)
        for token in (3, 0, 9, 60):
            said = [form.step(torch.tensor([token, token + 1])) for form in forms]
            torch.testing.assert_close(said[0], said[1], rtol=1e-12, atol=1e-12)


def test_under_autocast_the_static_form_keeps_keys_as_attention_reads_them(teacher: Any):
    """The growing form keeps float32, and attention rounds all of it for every token."""
    token_BP = torch.arange(12).view(2, 6)
    mask_BP = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    grown, held = (
        GrowingSteps(teacher, token_BP, mask_BP),
        static(teacher, token_BP, mask_BP, new_tokens=5),
    )
    with torch.no_grad(), autocast("bf16", torch.device("cpu")):
        for place in range(3):
            said = [
                form.step(torch.tensor([5, 9])) if place else form.begin() for form in (grown, held)
            ]
            torch.testing.assert_close(said[0], said[1], rtol=2e-2, atol=2e-2)
    layer: Any = grown._cache.layers[0]
    assert (layer.keys.dtype, layer.values.dtype) == (torch.float32, torch.float32)
    layer = held._layers[0]
    assert (layer.keys.dtype, layer.values.dtype) == (torch.bfloat16, torch.bfloat16)


def test_every_step_of_the_static_form_reads_and_writes_the_same_memory(writer: Any):
    steps = static(writer, torch.ones(2, 3).long(), torch.ones(2, 3).long(), new_tokens=9)

    layers: Any = steps._layers

    def places() -> list[int]:
        held = [steps._token_B1, steps._position_B1, steps._place_1, steps._is_text_BM]
        tensors = [*held, *(tensor for layer in layers for tensor in (layer.keys, layer.values))]
        return [tensor.data_ptr() for tensor in tensors if tensor is not None]

    with torch.no_grad():
        steps.begin()
        before = places()
        for token in range(8):
            steps.step(torch.tensor([token, token]))
    assert places() == before
    # 3 of the prompt and 8 more: the last that is written is not read. Then up to a multiple of 8.
    assert layers[0].keys.shape[2] == 16


def test_a_step_that_was_rewound_is_made_again_as_if_it_had_not_been(writer: Any):
    tokens = torch.ones(2, 3).long()
    plain, rewound = (static(writer, tokens, tokens, new_tokens=9) for _ in range(2))
    with torch.no_grad():
        for steps in (plain, rewound):
            steps.begin()
        for token in (5, 6, 7):
            positions = rewound._position_B1.clone()
            rewound._plain_step()
            rewound._rewind(positions)
            written = torch.tensor([token, 1])
            assert torch.equal(rewound.step(written), plain.step(written))


def test_what_cannot_be_captured_is_written_without_a_graph_and_warned_of_once(
    writer: Any, caplog: pytest.LogCaptureFixture
):
    """Here no CUDA device is there to capture on."""

    def captured(model: Any, token_BP: Tensor, mask_BP: Tensor, *, new_tokens: int) -> StaticSteps:
        return StaticSteps(model, token_BP, mask_BP, new_tokens=new_tokens, is_captured=True)

    with caplog.at_level(logging.WARNING):
        texts = [write(writer, make_steps=captured) for _ in range(2)]
    assert texts == [growing(writer)] * 2
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "could not be captured as a CUDA graph" in warning
    assert writer in decoding_steps._not_captured


@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
def test_a_replayed_step_reads_nothing_that_the_host_knew_at_its_capture(
    writer: Any, temperature: float, top_p: float, monkeypatch: pytest.MonkeyPatch
):
    """Each replay repeats the operations of one step on the same memory, as a CUDA graph does."""
    graphs = replayed_graph.install(monkeypatch)
    fresh = copy.deepcopy(writer)
    counts = (5, 90, 5, 5, 5, 90, 90, 5)
    asked: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "counts": counts}
    asked["end_ids"] = []
    made = write(fresh, make_steps=partial(StaticSteps, is_captured=True), **asked)
    assert made == growing(fresh, **asked)
    # The batch is halved at the first look, which is read after 20 tokens. One begins it all.
    assert [graph.replays for graph in graphs] == [19, 70]


def test_a_cache_with_sliding_windows_and_a_mask_that_is_added_have_no_static_form(writer: Any):
    assert decoding_steps._has_static_form(writer)
    shape: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
    }
    windows: dict[str, Any] = {
        "use_sliding_window": True,
        "sliding_window": 8,
        "max_window_layers": 0,
    }
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
    slides = Qwen2ForCausalLM(Qwen2Config(**shape, **windows, **heads))
    assert not decoding_steps._has_static_form(slides)
    slides = Qwen2ForCausalLM(Qwen2Config(**shape, **heads))
    assert decoding_steps._has_static_form(slides)
    slides.set_attn_implementation("eager")
    assert not decoding_steps._has_static_form(slides)


def test_on_the_cpu_the_cache_grows(writer: Any):
    tokens = torch.ones(2, 3).long()
    assert isinstance(steps_of(writer, tokens, tokens, new_tokens=9), GrowingSteps)


@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_refused_at_any_pace_and_no_id_lies_beyond_the_vocabulary(
    writer: Any, pace: Pace, temperature: float
):
    damaged = copy.deepcopy(writer)
    with torch.no_grad():
        damaged.get_input_embeddings().weight[int(np.random.default_rng(3).integers(64)), 0] = (
            torch.nan
        )
    given: list[NDArray[np.int64]] = []
    damaged.model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["input_ids"].numpy().copy()),
        with_kwargs=True,
    )
    with pytest.raises(RuntimeError, match="generate: the model's logits are not finite"):
        write(damaged, pace=pace, temperature=temperature, end_ids=[])
    assert max(tokens.max() for tokens in given) < 64
    assert len(given) <= pace.every + pace.late
