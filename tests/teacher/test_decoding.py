"""Writing: what a prompt gets is its own, whatever it is batched with, and pads are nowhere."""

# B prompts, P positions, V vocabulary.

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from kdwatts.teacher.decoding import (
    choose_tokens,
    keep_texts,
    read_texts,
    uniform_draws,
    write_text,
)

NO_END = [-1]


def prompts_of(*lengths: int) -> list[NDArray[np.int64]]:
    """Prompts of random tokens; the first begins with the token that padding is filled with."""
    prompts = [np.random.default_rng(index).integers(64, size=n) for index, n in enumerate(lengths)]
    prompts[0][:2] = 0
    return prompts


def write(
    model: Any,
    prompts: Sequence[NDArray[np.int64]],
    *,
    keys: Sequence[int] | None = None,
    count: int = 12,
    end_ids: Sequence[int] = NO_END,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[list[int]]:
    keys = range(len(prompts)) if keys is None else keys
    texts = write_text(
        model,
        prompts,
        [uniform_draws([0, key], count) for key in keys],
        end_ids=end_ids,
        vocabulary=64,
        temperature=temperature,
        top_p=top_p,
    )
    return [text.tolist() for text in texts]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def writer(request: pytest.FixtureRequest, teacher: Any) -> Any:
    """Models in float64, so that rounding cannot hide or feign a difference."""
    if request.param == "llama":
        return copy.deepcopy(teacher).double()
    torch.manual_seed(3)
    shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.4}
    return Qwen2ForCausalLM(Qwen2Config(**shape, **heads)).double().eval()


@contextmanager
def captured(module: nn.Module) -> Iterator[list[tuple[dict[str, Any], Tensor]]]:
    """Keyword arguments and output of every call of a module."""
    calls: list[tuple[dict[str, Any], Tensor]] = []

    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls.append((kwargs, output))

    handle = module.register_forward_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


SAMPLINGS = [(0.0, 1.0), (1.0, 1.0), (0.7, 0.9)]


@pytest.mark.parametrize(("temperature", "top_p"), SAMPLINGS)
def test_a_batch_of_many_lengths_writes_what_each_prompt_gets_alone(
    writer: Any, temperature: float, top_p: float
):
    prompts = prompts_of(3, 9, 1, 6)
    together = write(writer, prompts, temperature=temperature, top_p=top_p)
    alone = [
        write(writer, [prompt], keys=[key], temperature=temperature, top_p=top_p)[0]
        for key, prompt in enumerate(prompts)
    ]
    assert together == alone
    assert len({tuple(text) for text in together}) > 1


def test_logits_behind_pads_and_cache_are_those_of_one_pass_without_either(writer: Any):
    prompts = prompts_of(3, 8)
    with captured(writer.lm_head) as calls:
        texts = write(writer, prompts, temperature=0.0)
    seen_BNV = torch.stack([output[:, -1] for _, output in calls], dim=1)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        whole = torch.tensor([[*prompt, *text]])
        plain_NV = writer(input_ids=whole).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(seen_BNV[row], plain_NV, rtol=1e-9, atol=1e-9)
    # Were the pads attended to, as without a mask, the shorter prompt would get other logits.
    padded = torch.tensor([[0, 0, 0, 0, 0, *prompts[0]]])
    unmasked_V = writer(input_ids=padded).logits[0, -1]
    assert (unmasked_V - seen_BNV[0, 0]).abs().max() > 1e-2


def test_a_text_starts_at_position_0_whatever_pads_stand_before_it(writer: Any):
    with captured(writer.model) as calls:
        write(writer, prompts_of(2, 4), count=3)
    positions = [kwargs["position_ids"].tolist() for kwargs, _ in calls]
    assert positions == [[[0, 0, 0, 1], [0, 1, 2, 3]], [[2], [4]], [[3], [5]]]


def test_a_prompt_that_holds_the_padding_s_token_is_no_padding(writer: Any):
    prompt, longer = np.array([0, 0, 5]), np.arange(1, 9)
    text, _ = write(writer, [prompt, longer])
    assert [text] == write(writer, [prompt])
    # A mask taken from the ids would hide its first two tokens.
    assert [text] != write(writer, [prompt[2:]])


def test_order_and_number_of_neighbours_do_not_change_what_is_drawn(writer: Any):
    prompts = prompts_of(5, 2, 7, 4)
    texts = write(writer, prompts)
    assert write(writer, prompts[::-1], keys=[3, 2, 1, 0]) == texts[::-1]
    assert write(writer, prompts[1:3], keys=[1, 2]) == texts[1:3]
    assert write(writer, prompts, keys=[4, 5, 6, 7]) != texts


def test_a_longer_limit_goes_on_from_the_shorter_and_a_prompt_has_its_own(writer: Any):
    prompts = prompts_of(3, 3, 5)
    long = write(writer, prompts, count=12)
    draws = [uniform_draws([0, key], count) for key, count in enumerate((2, 12, 1))]
    uneven = write_text(writer, prompts, draws, end_ids=NO_END, vocabulary=64, temperature=1.0)
    assert [text.tolist() for text in uneven] == [long[0][:2], long[1], long[2][:1]]


def test_an_end_token_ends_its_own_text_and_is_part_of_it(writer: Any):
    prompts = prompts_of(*range(2, 18))
    free = write(writer, prompts, temperature=3.0)
    ends = [11, 12, 13, 14, 0]  # One of them is what padding is filled with.
    stopped = write(writer, prompts, temperature=3.0, end_ids=ends)
    for text, whole in zip(stopped, free, strict=True):
        first = next((i for i, token in enumerate(whole) if token in ends), len(whole) - 1)
        assert text == whole[: first + 1]
    lengths = {len(text) for text in stopped}
    assert 12 in lengths and len(lengths) > 3


def test_only_ids_of_the_shared_vocabulary_are_written(teacher: Any):
    prompts = prompts_of(3, 4, 5, 6)
    draws = [uniform_draws([key], 20) for key in range(4)]
    for temperature in (0.0, 1.0):
        written = [
            np.concatenate(
                write_text(
                    teacher,
                    prompts,
                    draws,
                    end_ids=NO_END,
                    vocabulary=rows,
                    temperature=temperature,
                )
            )
            for rows in (64, 10)
        ]
        assert written[0].max() >= 10 > written[1].max()


def test_an_empty_prompt_is_refused_and_no_prompts_give_no_texts(teacher: Any):
    with pytest.raises(ValueError, match="a prompt has no tokens; give each prompt at least"):
        write(teacher, [np.array([], dtype=np.int64)])
    assert write(teacher, []) == []


PROBABILITIES = [0.2, 0.5, 0.0, 0.3]


def chosen(draws: Sequence[float], **sampling: float) -> list[int]:
    logits_BV = torch.tensor(PROBABILITIES, dtype=torch.float64).log().expand(len(draws), -1)
    settings = {"temperature": 1.0, **sampling}
    return choose_tokens(logits_BV, torch.tensor(draws, dtype=torch.float64), **settings).tolist()


def test_a_draw_falls_where_the_cumulated_probabilities_pass_it():
    assert chosen([0.0, 0.199, 0.201, 0.699, 0.701, 0.999]) == [0, 0, 1, 1, 3, 3]


def test_a_token_without_probability_is_never_chosen_not_even_by_the_highest_draw():
    assert chosen([1 - 2**-53, 0.71]) == [3, 3]
    assert chosen([1 - 2**-53], top_p=0.5) == [1]


def test_the_nucleus_is_the_smallest_set_of_likeliest_tokens_that_holds_top_p():
    # 0.5 and 0.3 hold 0.7: they are drawn at 0.625 to 0.375, in order of id.
    assert chosen([0.0, 0.624, 0.626, 0.999], top_p=0.7) == [1, 1, 3, 3]
    assert chosen([0.0, 0.999], top_p=0.5) == [1, 1]
    assert chosen([0.0, 0.999], top_p=1e-9) == [1, 1]
    assert chosen([0.1], top_p=0.81) == [0]


def test_a_temperature_takes_roots_of_the_probabilities_and_0_the_likeliest():
    roots = np.sqrt(PROBABILITIES)
    edge = roots[0] / roots.sum()
    assert chosen([edge - 1e-9, edge + 1e-9], temperature=2.0) == [0, 1]
    assert chosen([0.0, 0.999], temperature=0.0) == [1, 1]


def test_tokens_are_drawn_as_often_as_they_are_likely(teacher: Any):
    logits_V = teacher(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1].detach()
    draws = uniform_draws([5], 20_000)
    ids = choose_tokens(logits_V.expand(20_000, -1), torch.from_numpy(draws), temperature=1.0)
    share_V = torch.bincount(ids, minlength=64) / 20_000
    # Five standard deviations of a share.
    p_V = logits_V.double().softmax(-1)
    assert ((share_V - p_V).abs() <= 5 * (p_V * (1 - p_V) / 20_000).sqrt() + 1e-4).all()


def test_draws_depend_on_the_whole_key_and_a_longer_series_begins_with_the_shorter():
    assert uniform_draws([1, 2], 5).tolist() == uniform_draws([1, 2], 9)[:5].tolist()
    series = [uniform_draws(key, 3).tolist() for key in ([1, 2], [2, 1], [1], [1, 2, 3])]
    assert all(0 <= draw < 1 for draws in series for draw in draws)
    assert len({tuple(draws) for draws in series}) == 4


def test_texts_are_kept_and_read_again_under_their_keys(tmp_path: Path):
    texts = {(3, 1): np.array([5, 6]), (0, 2): np.array([7]), (9, 9): np.array([], dtype=np.int64)}
    keep_texts(tmp_path / "texts.npz", texts)
    read = read_texts(tmp_path / "texts.npz")
    assert {key: text.tolist() for key, text in read.items()} == {
        key: text.tolist() for key, text in texts.items()
    }
    keep_texts(tmp_path / "none.npz", {})
    assert read_texts(tmp_path / "none.npz") == {}
    assert {path.name for path in tmp_path.iterdir()} == {"texts.npz", "none.npz"}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_words_of_a_writer_that_says_nan_are_refused_with_its_name(
    temperature: float, teacher: Any
):
    """Argmax takes the first id of NaN, and a search in NaN the last: ordinary tokens both."""
    damaged = copy.deepcopy(teacher)
    with torch.no_grad():
        damaged.lm_head.weight[7, 0] = torch.nan
    with pytest.raises(
        RuntimeError, match=r"generate: the model's logits are not finite .*: check"
    ):
        write(damaged, prompts_of(3, 5), temperature=temperature)
