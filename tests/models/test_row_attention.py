"""Attention of whole rows, beside transformers' own: bit for bit, or within rounding."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.integrations import flex_attention as transformers_flex

from kdwatts.config.training import Lora
from kdwatts.models import row_attention
from kdwatts.models.layers import captured_blocks, captured_projections
from kdwatts.models.load import recompute_blocks
from kdwatts.models.row_attention import (
    NAME,
    attend_by_rows,
    attention_inputs,
    document_blocks,
    final_states,
    row_inputs,
)
from kdwatts.teacher.decoding import write_text
from kdwatts.training.autocast import autocast
from kdwatts.training.lora import add_adapters

CPU = torch.device("cpu")


def model_of(family: str = "llama", *, kv_heads: int = 2, hidden_size: int = 64) -> Any:
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        family,
        vocab_size=61,
        hidden_size=hidden_size,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        initializer_range=0.3,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def both(**settings: Any) -> tuple[Any, Any]:
    """Transformers' own, and the same model that attends by rows."""
    stock = model_of(**settings)
    ours = copy.deepcopy(stock)
    attend_by_rows(ours)
    assert ours.config._attn_implementation == NAME
    return stock, ours


def tokens(num_rows: int = 3, length: int = 40) -> Tensor:
    return torch.randint(61, (num_rows, length), generator=torch.manual_seed(5))


def places(*documents: int) -> Tensor:
    """The places of one row's tokens in documents of these lengths."""
    return torch.cat([torch.arange(length) for length in documents])[None]


def losses_and_gradients(model: Any, precision: str, position_BT: Tensor | None) -> list[Tensor]:
    input_BT = tokens()
    with autocast(precision, CPU):
        final_BTD = final_states(model, input_BT, position_BT)
        logits_BTV = model.lm_head(final_BTD)
    loss = torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].float().flatten(0, 1), input_BT[:, 1:].flatten()
    )
    named = [p for p in model.parameters() if p.requires_grad]
    return [loss, *torch.autograd.grad(loss, named)]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("documents", [False, True], ids=["plain", "documents"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_losses_and_gradients_on_a_cpu_are_those_of_transformers(
    family: str, kv_heads: int, precision: str, documents: bool
):
    stock, ours = both(family=family, kv_heads=kv_heads)
    position_BT = places(11, 29).expand(3, -1) if documents else None
    inputs = {"input_ids": tokens(), **attention_inputs(position_BT)}
    with torch.no_grad(), autocast(precision, CPU):
        expected = stock.model(**inputs, use_cache=False).last_hidden_state
        assert torch.equal(final_states(ours, tokens(), position_BT), expected)
    assert_same(
        losses_and_gradients(ours.train(), precision, position_BT),
        losses_and_gradients(stock.train(), precision, position_BT),
    )


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_adapters_captured_states_and_recomputed_blocks_are_as_before(recomputed: bool):
    stock, ours = (model.train() for model in both())
    found = []
    for model in (stock, ours):
        add_adapters(model, Lora(rank=2), seed=0)
        if recomputed:
            recompute_blocks(model)
        with captured_blocks(model, [0, 1]) as blocks, captured_projections(model, -1) as three:
            final_states(model, tokens())
        caught = [blocks[0], blocks[1], three["q"], three["k"], three["v"]]
        found.append([*caught, *losses_and_gradients(model, "bf16", None)])
    assert_same(*found)


@torch.no_grad()
def test_padding_and_caches_are_masked_as_by_transformers():
    stock, ours = (model.eval() for model in both())
    input_BT, mask_BT = tokens(length=12), torch.ones(3, 12, dtype=torch.int64)
    mask_BT[0, :7] = 0
    place_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    said = []
    for model in (stock, ours):
        cache, kept = DynamicCache(config=model.config), []
        # A first part with a cache, several tokens after it, then one.
        for part in (slice(0, 8), slice(8, 11), slice(11, 12)):
            kept.append(
                model(
                    input_ids=input_BT[:, part],
                    attention_mask=mask_BT[:, : part.stop],
                    position_ids=place_BT[:, part],
                    past_key_values=cache,
                    use_cache=True,
                ).logits
            )
        kept.append(model(input_ids=input_BT, attention_mask=mask_BT).logits)
        kept.append(model(input_ids=input_BT).logits)
        restarted = places(5, 7).expand(3, -1)
        kept.append(model(input_ids=input_BT, position_ids=restarted, use_cache=False).logits)
        said.append(kept)
    assert_same(*said)
    # The padding matters.
    assert not torch.equal(said[0][3][0, -1], said[0][4][0, -1])


def test_a_model_that_attends_by_rows_writes_the_same_texts():
    prompts = [np.arange(count, dtype=np.int64) for count in (2, 9, 5)]
    draws = [np.random.default_rng(count).random(6) for count in range(3)]
    written = [
        write_text(model.eval(), prompts, draws, end_ids=[60], vocabulary=61, temperature=1.0)
        for model in both()
    ]
    assert [text.tolist() for text in written[0]] == [text.tolist() for text in written[1]]


def test_rows_that_are_read_whole_take_no_cache():
    _, ours = both()
    cache = DynamicCache(config=ours.config)
    ours.model(input_ids=tokens(), past_key_values=cache, use_cache=True)
    inputs = row_inputs(ours, tokens(), None)
    with pytest.raises(ValueError, match="attention of whole rows has 40 queries and 80 keys"):
        ours.model(**inputs, past_key_values=cache, use_cache=True)


def test_a_saved_folder_does_not_name_our_attention(tmp_path: Path):
    _, ours = both()
    ours.save_pretrained(tmp_path)
    assert all(NAME not in path.read_text("utf-8") for path in tmp_path.glob("*.json"))
    assert (tmp_path / "config.json").is_file()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


def test_a_model_with_another_attention_keeps_it():
    model = model_of()
    model.set_attn_implementation("eager")
    attend_by_rows(model)
    assert model.config._attn_implementation == "eager"
    assert set(row_inputs(model, tokens(), None)) == {"input_ids"}


@torch.no_grad()
def test_a_model_whose_blocks_see_a_window_alone_keeps_it():
    config = model_of("qwen2").config.to_dict()
    config |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    config |= {"layer_types": ["sliding_attention"] * 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
    attend_by_rows(model)
    before, changed = tokens(), tokens()
    changed[:, 0] = 60 - changed[:, 0]
    first, second = (final_states(model, input_BT)[:, 20:] for input_BT in (before, changed))
    # Two blocks of eight places see no further back than fourteen.
    assert torch.equal(first, second)


@pytest.mark.parametrize("length", [128, 300, 640])
def test_blocks_of_documents_are_those_that_torch_finds_in_the_whole_mask(length: int):
    draw = np.random.default_rng(length)
    rows = []
    for mean in (3, 50, 150, 400, 10_000):
        lengths = np.maximum(draw.poisson(mean, size=length), 1).tolist()
        rows.append(places(*lengths[: length // mean + 1], length)[:, :length])
    position_BT = torch.cat(rows)
    found = document_blocks(position_BT)
    dense_BQK = attention_inputs(position_BT)["attention_mask"][:, 0]
    expected = create_block_mask(
        lambda row, head, query, key: dense_BQK[row, query, key],
        len(rows),
        None,
        length,
        length,
        device="cpu",
    )
    assert found.seq_lengths == expected.seq_lengths == (length, length)
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts, numbers = (f"{kind}_{name}" for name in ("num_blocks", "indices"))
        assert torch.equal(getattr(found, counts), getattr(expected, counts)), kind
        for count, mine, theirs in zip(
            getattr(found, counts).flatten().tolist(),
            getattr(found, numbers).flatten(0, 2),
            getattr(expected, numbers).flatten(0, 2),
            strict=True,
        ):
            assert mine.dtype == theirs.dtype
            assert mine[:count].tolist() == theirs[:count].tolist()


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention with its gradient, which torch computes on a CPU and refuses all the same."""
    monkeypatch.setattr(row_attention, "has_document_kernel", lambda device: True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(torch_flex, "_WARNINGS_SHOWN", {"flex_attention_performance"})

    def uncompiled(*tensors: Tensor, training: bool, **settings: Any) -> Any:
        return torch_flex.flex_attention(*tensors, **settings)

    monkeypatch.setattr(transformers_flex, "compile_friendly_flex_attention", uncompiled)


# Torch's compiler looks at the gradient of queries and keys, which have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1)])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_documents_by_blocks_are_documents_by_a_mask(
    precision: str, tolerance: float, recomputed: bool
):
    stock, ours = (model.train() for model in both())
    position_BT = places(11, 29).expand(3, -1)
    if recomputed:
        recompute_blocks(ours)
    found = losses_and_gradients(ours, precision, position_BT)
    expected = losses_and_gradients(stock, precision, position_BT)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("hidden_size", "in_blocks"), [(64, True), (48, False)])
def test_heads_too_narrow_for_the_kernel_of_a_gpu_read_documents_by_the_mask(
    hidden_size: int, in_blocks: bool
):
    """As the shipped tiny student's, which are 12 wide."""
    _, ours = both(hidden_size=hidden_size)
    given = row_inputs(ours, tokens(), places(11, 29).expand(3, -1))["attention_mask"]
    assert isinstance(given, BlockMask) == in_blocks


@pytest.mark.usefixtures("as_on_a_gpu")
def test_documents_by_blocks_refuse_dropout_which_they_would_leave_out():
    _, ours = both()
    for block in ours.train().model.layers:
        block.self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"attention_dropout=0\.1 in a model's"):
        final_states(ours, tokens(), places(11, 29).expand(3, -1))


@pytest.mark.slow
# The compiler of torch 2.13 imports parts of torch that it has itself deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.no_grad()
def test_the_compiled_kernel_reads_documents_as_a_mask_does_and_is_built_once(
    monkeypatch: pytest.MonkeyPatch,
):
    """Torch has the kernel without its gradient on a CPU, too."""
    monkeypatch.setattr(row_attention, "has_document_kernel", lambda device: True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    stock, ours = both()
    for first in (11, 130, 200, 299):
        for is_training in (True, False):
            ours.train(is_training)
            position_BT = places(first, 300 - first).expand(2, -1)
            expected = final_states(stock, tokens(2, 300), position_BT)
            found = final_states(ours, tokens(2, 300), position_BT)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("documents", [False, True], ids=["plain", "documents"])
def test_compiled_code_has_no_mask_and_is_built_once(documents: bool):
    torch._dynamo.reset()
    _, ours = both()
    counter = CompileCounterWithBackend("aot_eager")
    ours.train().model.compile(backend=counter, fullgraph=True)
    built = []
    for first in (11, 17, 25):
        position_BT = places(first, 40 - first).expand(3, -1) if documents else None
        losses_and_gradients(ours, "bf16", position_BT)
        with torch.no_grad(), autocast("bf16", CPU):
            final_states(ours, tokens(), position_BT)
        built.append(counter.frame_count)
    # One with gradients, one without.
    assert built == [2, 2, 2]
    calls = [
        node
        for graph in counter.graphs
        for node in graph.graph.nodes
        if node.op == "call_function" and "attention" in str(node.target)
    ]
    assert len(calls) == 4
    for call in calls:
        if documents:
            assert call.target is torch.ops.higher_order.flex_attention
        else:
            assert call.kwargs["attn_mask"] is None
            assert call.kwargs["is_causal"] and call.kwargs["enable_gqa"]
    torch._dynamo.reset()
