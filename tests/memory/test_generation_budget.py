"""What writing takes, worked by hand, and what does not fit in a context or on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdwatts.config.experiment import Config
from kdwatts.config.generation import Generate
from kdwatts.memory.budget import estimate
from kdwatts.memory.generation_budget import (
    estimate_writing,
    num_prompts_of,
    writing_work_bytes_of,
)
from kdwatts.memory.model_shape import forward_flops_per_token
from kdwatts.planning.demands import workload_of
from kdwatts.planning.fits import check_memory

Configure = Callable[..., Config]
LLAMA = ("model=llama31_8b_to_1b", "gpu=h100")


def test_prompt_text_and_closing_token_fill_one_sequence_unless_they_are_given():
    assert Generate().sizes(128) == (32, 95)
    assert Generate(prompt_tokens=100).sizes(128) == (100, 27)
    assert Generate(new_tokens=10).sizes(128) == (32, 10)
    assert Generate().sizes(2) == (1, 0)


def num_prompts(config: Config) -> int:
    return num_prompts_of(config.paradigm, config.training)


def test_a_teacher_writes_to_as_many_prompts_as_the_targets_need(configure: Configure):
    # 300,000 over 95 is 3,157.9, and 308,192 with those held out 3,244.1.
    assert num_prompts(configure("paradigm=sequence", "training.heldout_every=0")) == 3158
    assert num_prompts(configure("paradigm=sequence")) == 3245
    held_out = ("training.heldout_every=5", "training.heldout_tokens=1000")
    assert num_prompts(configure("paradigm=sequence", *held_out)) == 3169
    assert num_prompts(configure("paradigm=sequence", "paradigm.generate.num_prompts=7")) == 7


def test_a_teacher_s_writing_worked_by_hand(configure: Configure):
    config = configure("paradigm=sequence", *LLAMA, "paradigm.generate.batch_size=16")
    writing = estimate_writing(workload_of(config))
    assert writing and config.model.teacher
    # 2,048 tokens a row: 512 of prompt, 1,535 written.
    assert (writing.writer, writing.prompt_tokens, writing.new_tokens) == ("teacher", 512, 1535)
    assert writing.num_prompts == 65_147
    assert writing.num_tokens == 65_147 * 1535
    # 32 blocks, keys and values of 8 heads of 128 in two bytes: 128 KiB a token.
    assert writing.cache_gib == pytest.approx(16 * 2047 * 128 / 1024**2)
    assert writing.weights_gib == pytest.approx(8_030_261_248 * 2 / 1024**3)
    each = forward_flops_per_token(config.model.teacher.architecture, 2047)
    assert writing.pflop == pytest.approx(each * 2047 * 65_147 / 1e15)
    # It scores nothing: no operations and no memory while the student trains.
    budget = estimate(workload_of(config))
    assert (budget.teacher_pflop, budget.teacher_gib) == (0, 0)
    assert budget.teacher_weights_gib == pytest.approx(writing.weights_gib)


def test_a_student_writes_its_share_of_the_rows(configure: Configure):
    writing = estimate_writing(
        workload_of(configure("paradigm=on_policy", "paradigm.on_policy.fraction=0.25"))
    )
    assert writing and writing.writer == "student"
    # A row bears 0.75 * 128 + 0.25 * 95 targets: 2,505 rows, a quarter of them written.
    assert writing.num_prompts == 627


def test_a_corpus_as_it_is_has_nothing_written(configure: Configure):
    assert estimate_writing(workload_of(configure("paradigm=response"))) is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["paradigm=sequence", "paradigm.generate.new_tokens=97"],
            "32 prompt + 97 new tokens do not fit in the 128 tokens that the teacher has for",
        ),
        (
            [
                "paradigm=on_policy",
                "training.sequence_length=64",
                "paradigm.generate.new_tokens=49",
            ],
            "16 prompt + 49 new tokens do not fit in the 64 tokens that the student has for",
        ),
        (
            ["paradigm=sequence", "paradigm.generate.prompt_tokens=127"],
            "127 prompt + 0 new tokens do not fit in the 128 tokens",
        ),
        (
            ["paradigm=sequence", "model=tiny_teacher"],
            "paradigm=sequence needs a teacher, model=tiny_teacher has none",
        ),
    ],
)
def test_what_does_not_fit_the_writer_is_refused(
    configure: Configure, overrides: list[str], said: str
):
    with pytest.raises(ValueError, match=said.replace("+", r"\+")):
        configure(*overrides)


def test_a_batch_whose_keys_and_values_do_not_fit_on_the_gpu_is_refused(configure: Configure):
    check_memory(configure("paradigm=sequence", *LLAMA))
    # 512 texts of 2,047 tokens at 128 KiB are 128 GiB; reading their 512 tokens of prompt takes
    # twelve bytes of width 4,096, six of 14,336 and three for each of 2,047 places of the mask a
    # token: 34.5 GiB beside the weights' 15.
    large: Any = configure("paradigm=sequence", *LLAMA, "paradigm.generate.batch_size=512")
    said = (
        "keys and values of a batch take 128 GiB and all else 49 GiB, and one gpu=h100 has room "
        "for 79 GiB"
    )
    with pytest.raises(ValueError, match=said):
        check_memory(large)


def test_what_stands_beside_keys_and_values_is_worked_by_hand(configure: Configure):
    workload = workload_of(configure("paradigm=sequence", *LLAMA))
    writing = estimate_writing(workload)
    assert writing and workload.paradigm.generate
    batch = workload.paradigm.generate.batch_size
    # 512 tokens of prompt see 2,047 places: one byte, and two that attention adds.
    mask = 3 * batch * 512 * 2047
    # Twelve bytes of width 4,096 and six of 14,336 for each token of a prompt.
    forward = batch * 512 * (12 * 4096 + 6 * 14_336)
    assert writing_work_bytes_of(workload, writing) == pytest.approx(mask + forward)


def test_keys_and_values_repeated_for_all_heads_count_where_texts_are_long(configure: Configure):
    long = ("paradigm.generate.prompt_tokens=16", "paradigm.generate.new_tokens=2000")
    workload = workload_of(configure("paradigm=sequence", *LLAMA, *long))
    writing = estimate_writing(workload)
    assert writing and workload.paradigm.generate
    batch = workload.paradigm.generate.batch_size
    # Keys and values of 32 heads of 128, though eight are kept.
    repeated = 2 * 32 * 128 * 2 * batch * 2016
    mask = 3 * batch * 16 * 2016
    assert writing_work_bytes_of(workload, writing) == pytest.approx(mask + repeated)
