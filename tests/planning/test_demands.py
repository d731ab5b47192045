"""What each part of a run asks of a GPU, and what a refusal says to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdwatts.memory.budget import estimate
from kdwatts.planning.demands import CONTEXT_GIB, available_gib, demands, is_allowed, workload_of
from kdwatts.planning.fits import check_memory, memory_lines
from kdwatts.planning.sizes import size_lines
from kdwatts.planning.suggest import suggest
from kdwatts.runtime.ranks import Launch

Configure = Callable[..., Any]
GIB = 2**30
BIG = ("model=llama31_70b_to_8b", "gpu=h100")


def gib_of(config: Any, part: str) -> float:
    (found,) = [demand.gib for demand in demands(config, Launch()) if demand.part == part]
    return found


def test_a_gpu_lends_all_but_a_context(configure: Configure):
    assert available_gib(configure("gpu=h100")) == 79.65 - CONTEXT_GIB


def test_a_teacher_is_whole_on_a_gpu_for_its_scores_its_cache_and_its_text(configure: Configure):
    whole_gib = 70_553_706_496 * 2 / GIB
    sft = configure(*BIG, "paradigm=sft")
    assert [demand.part for demand in demands(sft)] == ["evaluation", "training"]
    assert gib_of(sft, "evaluation") == pytest.approx(whole_gib)
    # 32 rows of 2,048 tokens: twelve bytes of width 8,192 and six of 28,672 a token.
    cached = configure(*BIG, "paradigm=response", "eval=none")
    assert gib_of(cached, "teacher") == pytest.approx(
        whole_gib + 32 * 2048 * (12 * 8192 + 6 * 28_672) / GIB
    )
    assert [d.part for d in demands(configure(*BIG, "paradigm=feature", "eval=none"))] == [
        "training"
    ]


def test_a_student_writes_beside_its_moments_and_a_live_teacher_without_activations(
    configure: Configure,
):
    config = configure("model=llama31_8b_to_1b", "gpu=h100", "paradigm=on_policy")
    budget = estimate(workload_of(config))
    # Weights and moments in twelve bytes, cast weights in two, the teacher; of 64 texts of 2,047
    # tokens 16 blocks' keys and values, 8 heads of 64; and reading 64 prompts of 512, with a mask
    # of 2,047 places for each of their tokens, in a byte and again in two.
    kept = budget.student_params * 12 / GIB + budget.copies_gib + budget.teacher_gib
    cache = 64 * 2047 * 16 * 2 * 8 * 64 * 2
    work = 64 * 512 * (12 * 2048 + 6 * 8192 + 3 * 2047)
    assert gib_of(config, "writing") == pytest.approx(kept + (cache + work) / GIB)


SMALL = (
    *("model=qwen25_7b_to_0b5", "gpu=rtx4090", "eval=none"),
    "training.gradient_checkpointing=false",
)


@pytest.mark.parametrize(
    ("paradigm", "said"),
    [
        # 34 GiB of training are cut, and nothing else is asked of the GPU.
        ("sft", "the same steps fit with training.micro_batch=2 training.accumulation=16"),
        # A teacher of 14.2 GiB and its forward pass of 9.6 exceed 23 GiB, one in a byte does not.
        ("response", "its teacher needs about 24 GiB .* set model.teacher.quantization=int8"),
        # 64 prompts of 512 tokens: with half of them keys, values and their reading are halved.
        ("sequence", "one gpu=rtx4090 has room for 23 GiB; set paradigm.generate.batch_size=32"),
    ],
)
def test_a_refusal_names_what_fits(paradigm: str, said: str, configure: Configure):
    config = configure(*SMALL, f"paradigm={paradigm}")
    assert not is_allowed(config)
    with pytest.raises(ValueError, match=said):
        check_memory(config)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        # 131 GiB of weights on one GPU, and an eighth of that on each of eight.
        ("cached", "set paradigm.teacher=online eval=none, so that the ranks share the teacher"),
        ("online", "set eval=none, for a teacher in shards cannot be scored"),
    ],
)
def test_a_teacher_that_fits_the_nodes_in_shards_alone_is_to_run_beside_the_student(
    asked: str, said: str, configure: Configure
):
    pair = ("model=llama31_70b_to_8b", "training=fsdp", "gpu=h100", "paradigm=response")
    two_nodes = Launch(2, 8)
    with pytest.raises(ValueError, match=said):
        check_memory(configure(*pair, f"paradigm.teacher={asked}"), two_nodes)
    check_memory(configure(*pair, "paradigm.teacher=online", "eval=none"), two_nodes)


def test_fewer_tokens_are_no_remedy_where_there_is_no_room_for_any(configure: Configure):
    large = configure("model=qwen25_7b_to_3b", "gpu=rtx4090", "eval=none", "paradigm=on_policy")
    with pytest.raises(
        ValueError, match=r"room for 23 GiB; choose a larger GPU or a smaller pair$"
    ):
        check_memory(large)


def test_small_memory_is_told_in_mib_and_what_takes_none_is_not(configure: Configure):
    config = configure("gpu=cpu", "paradigm=sft")
    budget = estimate(workload_of(config))
    total, parts = memory_lines(config, budget)
    assert f"at most {1024 * budget.total_gib:.2f} MiB (estimated), reached in the " in total
    assert "student with optimizer 1.5" in parts  # 100 k parameters in sixteen bytes
    assert "teacher" not in parts and "cast weights" not in parts


def test_a_plan_of_a_small_pair_on_a_gpu_shows_mib_and_no_zeros(configure: Configure):
    config = configure("gpu=h100", "paradigm=response", "training=smoke")
    budget = estimate(workload_of(config))
    teacher, evaluation, fits = memory_lines(config, budget)[2:]
    whole_mib = 1024 * budget.teacher_whole_gib
    assert evaluation.startswith(f"  evaluation: {whole_mib:.1f} MiB on one GPU (")
    assert f" MiB on one GPU (the teacher {whole_mib:.0f}, a forward pass " in teacher
    assert f"the same steps fit one GPU with {1024 * budget.total_gib:.0f} MiB each: " in fits


def test_a_teacher_of_seventy_billion_is_refused_with_the_bits_that_fit(configure: Configure):
    config = configure(*BIG, "paradigm=sft", "training=fsdp")
    said = "evaluation needs about 131 GiB .*, and one gpu=h100 has room for 79 GiB; set "
    # A quantised teacher is no shard's.
    bits = "model.teacher.quantization=int8 training.teacher_parallel=ddp, which fits on 2 GPUs"
    with pytest.raises(ValueError, match=said + bits):
        check_memory(config)
    remedy = ("model.teacher.quantization=int8", "training.teacher_parallel=ddp")
    found = suggest(configure(*BIG, "paradigm=sft", "training=fsdp", *remedy))
    assert found and found.ranks == 2 and "training.teacher_parallel=fsdp" not in found.overrides


def test_a_plan_says_which_part_of_a_run_the_gpu_has_no_room_for(configure: Configure):
    config = configure(*BIG, "paradigm=sft")
    lines = memory_lines(config, estimate(workload_of(config)))
    assert "  evaluation: 131.4 GiB on one GPU (the teacher whole, for its scores)" in lines
    assert lines[-1] == "  the GPU has no room for its evaluation, whatever the micro-batch is"
    alone = configure(*BIG, "paradigm=sft", "eval=none")
    assert memory_lines(alone, estimate(workload_of(alone)))[-1].startswith(
        "  the same steps fit 2 GPUs with "
    )


def test_a_small_teacher_cache_is_shown_in_mb(configure: Configure):
    """126 bytes of each of 8,192 tokens are 1.03 MB."""
    config = configure("gpu=cpu", "paradigm=response", "training=smoke")
    lines = size_lines(config, estimate(workload_of(config)))
    assert "teacher cache: 126 bytes a token, about 1.03 MB on disk" in lines
