"""What ranks send in a step, worked by hand from sizes of weights and numbers of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdwatts.planning.demands import budget_of
from kdwatts.planning.interconnect import Sent, num_shards, ring, sending_lines, sent_in_a_step
from kdwatts.planning.roofline import num_steps, stage_costs
from kdwatts.runtime.ranks import Launch

Configure = Callable[..., Any]
LLAMA = ("model=llama31_8b_to_1b", "gpu=h100", "paradigm=sft", "training.accumulation=16")
PARAMS, TABLE = 1_235_814_400, 128_256 * 2048
"""Of a student whose head is its embedding."""
TEACHER, TEACHER_TABLE = 8_030_261_248, 128_256 * 4096


def test_a_ring_over_two_nodes_leaves_each_by_one_link_of_its_ranks():
    assert ring(8e9, Launch(1, 4)) == Sent(6e9, 0.0)
    # Seven eighths of it, a quarter of which crosses, as one of four links does.
    assert ring(8e9, Launch(2, 8)) == Sent(5.25e9, 1.75e9)
    assert ring(8e9, Launch(2, 2)) == Sent(0.0, 4e9)
    assert ring(8e9, Launch()) == Sent()


def test_whole_students_add_up_their_gradients_once_a_step(configure: Configure):
    launch = Launch(2, 8)
    sent = sent_in_a_step(configure(*LLAMA), launch)
    total = 2 * 7 / 8 * 4 * PARAMS
    assert (sent.within, sent.between) == (pytest.approx(0.75 * total), pytest.approx(total / 4))
    halved = sent_in_a_step(configure(*LLAMA, "training.accumulation=8"), launch)
    assert halved == sent
    assert sent_in_a_step(configure(*LLAMA), Launch()) == Sent()


def test_shards_are_gathered_twice_and_the_head_once_more_for_each_micro_batch(
    configure: Configure,
):
    config = configure(*LLAMA, "training.parallel=fsdp")
    # Two bytes a weight: all twice, the tied table once more as head. Four bytes a gradient: all,
    # and the table's a second time. Two micro-batches for each of eight ranks.
    passed = 2 * (2 * PARAMS + TABLE) + 4 * (PARAMS + TABLE)
    sent = sent_in_a_step(config, Launch(2, 8))
    assert sent.within + sent.between == pytest.approx(2 * 7 / 8 * passed)
    assert sent.between == pytest.approx(sent.within / 3)
    exact = sent_in_a_step(configure(*LLAMA, "training.parallel=fsdp", "training.precision=fp32"),
                           Launch(1, 8))  # fmt: skip
    assert exact.within == pytest.approx(2 * 7 / 8 * 4 * (3 * PARAMS + 2 * TABLE))
    assert exact.between == 0


def test_a_frozen_student_in_shards_sends_the_gradients_of_adapters_alone(configure: Configure):
    config = configure(*LLAMA, "model.student.path=x", "training=lora", "training.parallel=fsdp",
                       "training.accumulation=16", "training.lora.rank=16")  # fmt: skip
    adapters = budget_of(config).trained_params
    assert 0 < adapters < PARAMS / 20
    # The embedding has no backward pass, so it is gathered once, and once as head.
    gathered = 2 * (2 * PARAMS - TABLE + 2 * adapters + TABLE)
    sent = sent_in_a_step(config, Launch(1, 8))
    assert sent.within == pytest.approx(2 * 7 / 8 * (gathered + 4 * adapters))


def test_a_live_teacher_in_shards_is_gathered_once_for_each_micro_batch(configure: Configure):
    words = (*LLAMA, "paradigm=response", "paradigm.teacher=online")
    alone, taught = (
        sent_in_a_step(configure(*words, f"training.teacher_parallel={name}"), Launch(1, 8)).within
        for name in ("ddp", "fsdp")
    )
    # Named tokens need the head, which is no embedding.
    assert taught - alone == pytest.approx(2 * 7 / 8 * 2 * TEACHER)
    states = (*LLAMA, "paradigm=feature", "paradigm.teacher=online")
    alone, taught = (
        sent_in_a_step(configure(*states, f"training.teacher_parallel={name}"), Launch(1, 8)).within
        for name in ("ddp", "fsdp")
    )
    assert taught - alone == pytest.approx(2 * 7 / 8 * 2 * (TEACHER - TEACHER_TABLE))


def test_shards_within_nodes_send_their_gradients_alone_to_other_nodes(configure: Configure):
    config = configure(*LLAMA, "training.parallel=fsdp")
    config.training.parallel = "hsdp"
    sent = sent_in_a_step(config, Launch(2, 8))
    passed = 2 * (2 * PARAMS + TABLE) + 4 * (PARAMS + TABLE)
    assert sent.within == pytest.approx(2 * 3 / 4 * passed)
    # A quarter of the gradients is a rank's shard; it is added up with one other node's.
    assert sent.between == pytest.approx(2 * 2 * 1 / 2 * 4 * (PARAMS + TABLE) / 4)


def test_a_model_is_cut_by_all_ranks_or_by_those_of_a_node():
    launch = Launch(2, 8)
    assert [num_shards(name, launch) for name in ("ddp", "fsdp", "hsdp")] == [1, 8, 4]


def test_links_work_at_the_same_time_and_a_rate_that_is_needed_must_be_known(configure: Configure):
    h100, l40s = (configure(f"gpu={name}").gpu for name in ("h100", "l40s"))
    assert Sent(450e9, 100e9).least_s(h100) == pytest.approx(2.0)
    assert Sent(900e9, 50e9).least_s(h100) == pytest.approx(2.0)
    assert Sent(32e9, 0.0).least_s(l40s) == pytest.approx(1.0)
    assert Sent(32e9, 1.0).least_s(l40s) is None
    assert Sent().least_s(l40s) == 0.0


def test_the_plan_states_bytes_and_least_seconds_beside_those_of_the_step(configure: Configure):
    config = configure(*LLAMA, "training.parallel=fsdp")
    first, second = sending_lines(config, Launch(2, 8), step_s=0.125)
    sent = sent_in_a_step(config, Launch(2, 8))
    assert first == (
        f"each rank sends in a step: {sent.within / 1e9:.2f} GB within its node, "
        f"{sent.between / 1e9:.2f} GB to other nodes (estimated)"
    )
    assert second == (
        f"  that takes at least {sent.between / 50e9:.3g} s at 450 GB/s within a node and 50 GB/s "
        "between nodes; products and memory of a step take at least 0.125 s"
    )
    unknown = configure(*LLAMA, "training.parallel=fsdp", "gpu=l40s")
    assert sending_lines(unknown, Launch(2, 8), step_s=None)[1] == (
        "  how long that takes is not known: gpu=l40s has no gpu.network_gb_s"
    )
    assert sending_lines(config, Launch(), step_s=0.125) == []


def test_training_takes_no_less_time_than_what_it_sends(configure: Configure):
    config = configure(*LLAMA, "training.parallel=fsdp", "gpu.network_gb_s=0.1")
    launch = Launch(2, 8)
    sent_s = sent_in_a_step(config, launch).between / 1e8
    hours = stage_costs(config, budget_of(config, launch), launch=launch)["distill"].hours
    assert hours == pytest.approx([num_steps(config) * sent_s / 3600] * 3)
    fast = configure(*LLAMA, "training.parallel=fsdp")
    costs = [stage_costs(fast, budget_of(fast, one), launch=one)["distill"].hours[0]
             for one in (Launch(2, 8), Launch(1, 8))]  # fmt: skip
    assert costs[0] == pytest.approx(costs[1])


def test_a_cache_that_one_node_makes_before_the_runs_takes_that_node_s_time(configure: Configure):
    config = configure(*LLAMA, "paradigm=response", "paradigm.teacher=cached")
    launch = Launch(2, 8)
    budget = budget_of(config, launch)
    together = stage_costs(config, budget, launch=launch)["teacher"]
    before = stage_costs(config, budget, launch=launch, before=Launch(1, 4))["teacher"]
    assert before.hours == pytest.approx([2 * hours for hours in together.hours])
    assert before.kwh == pytest.approx(together.kwh)
