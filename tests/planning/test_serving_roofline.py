"""Serving under load by the roofline, worked by hand from shapes and data sheets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from kdwatts.config.pair import Architecture
from kdwatts.memory.model_shape import served_bytes_of, step_bytes_of
from kdwatts.planning.load_estimates import (
    Limits,
    LoadEstimate,
    RateEstimate,
    estimate_load,
    estimate_rate,
)
from kdwatts.planning.serving_roofline import (
    BANDWIDTH_REACHED,
    Device,
    Served,
    Tokens,
    paces,
    room_for,
    turning_point,
)

Configure = Callable[..., Any]

LLAMA_8B = Architecture(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14_336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=128_256,
    tied_head=False,
    max_positions=131_072,
)
H100 = Device(bytes_per_s=3.35e12, flop_per_s=989.4e12, tdp_w=700)
TEACHER = Served("teacher", LLAMA_8B, 2)
TOKENS = Tokens(512, 128)
LIMITS = Limits(1024, memory_bytes=0.92 * 79.65 * 2**30)

# 8,030,261,248 parameters, of which a table of 525,336,576 is only looked up; 128 KiB a token.
WEIGHTS_S = (8_030_261_248 - 525_336_576) * 2 / 3.35e12
CACHE_S = 128 * 1024 * (512 + 64) / 3.35e12
# Two operations for each of 6,979,321,856 weights of blocks and of 525,336,576 of the head, and
# for 266,240 of norms, which the count of operations takes for weights; 4 for each of 4,096 values
# of 32 blocks and 576 tokens.
DECODE_FLOP = 2 * (8_030_261_248 - 525_336_576) + 4 * 32 * 4096 * 576
DECODE_S = DECODE_FLOP / 989.4e12


def load(level: float, *, is_closed: bool = True, model: Served = TEACHER) -> LoadEstimate:
    return estimate_load(model, TOKENS, H100, LIMITS, level=level, is_closed=is_closed)


def test_a_lone_step_of_llama_8b_on_an_h100_reads_15_gb_in_4_and_a_half_ms():
    assert served_bytes_of(LLAMA_8B, None, 2) == 2 * 8_030_261_248  # 16.06 GB lie in memory.
    assert pytest.approx(4.4805e-3, rel=1e-4) == WEIGHTS_S
    fast, slow = paces(TEACHER, TOKENS, H100)
    # 325 kernels follow each other in 1 or in 5 microseconds.
    assert fast.tpot_s(1) == pytest.approx((WEIGHTS_S + CACHE_S) / 0.9 + 325e-6)
    assert slow.tpot_s(1) == pytest.approx((WEIGHTS_S + CACHE_S) / 0.5 + DECODE_S * 3 + 1625e-6)


def test_a_request_s_answer_is_one_step_for_its_prompt_and_one_for_each_later_token():
    _, slow = paces(TEACHER, TOKENS, H100)
    head = 2 * 525_336_576
    block_flop = 2 * (8_030_261_248 - 525_336_576) - head + 2 * 32 * 4096 * 512
    prompt_s = (512 * block_flop + head) / 989.4e12 * 3
    each_s = 127 * (CACHE_S * 2 + DECODE_S * 3) + prompt_s
    assert slow.answer_s(8) == pytest.approx(128 * (WEIGHTS_S * 2 + 1625e-6) + 8 * each_s)
    # The seven others' prompts are read within the 128 steps of a request.
    assert slow.tpot_s(8) - slow.decode[0].at(8) == pytest.approx(7 * prompt_s / 128)


def test_more_at_once_write_more_tokens_a_second_and_each_of_them_later():
    figures = [load(level) for level in (1, 2, 4, 8, 64, 256)]
    for end in ("low", "high"):
        tokens = [getattr(figure.output_tokens_per_s, end) for figure in figures]
        tpot = [getattr(figure.tpot_s, end) for figure in figures]
        joules = [getattr(figure.j_per_output_token, end) for figure in figures]
        assert tokens == sorted(set(tokens))
        assert tpot == sorted(set(tpot))
        assert joules == sorted(set(joules), reverse=True)
    assert all(figure.tpot_s.low < figure.tpot_s.high for figure in figures if figure.tpot_s)


def test_products_take_longer_than_memory_from_the_turning_point_on():
    short = Tokens(64, 32)
    turn = turning_point(TEACHER, short, H100)
    assert turn
    cache_s = 128 * 1024 * 80 / 3.35e12
    decode_s = (2 * (8_030_261_248 - 525_336_576) + 4 * 32 * 4096 * 80) / 989.4e12
    assert turn == pytest.approx(WEIGHTS_S / (decode_s - cache_s))
    assert WEIGHTS_S + turn * cache_s == pytest.approx(turn * decode_s)
    # The lines of the fast end cross where memory at 0.9 and products at 0.8 take as long.
    memory, products = paces(TEACHER, short, H100)[0].decode
    crossing = (WEIGHTS_S / 0.9) / (decode_s / 0.8 - cache_s / 0.9)
    assert memory.at(crossing) == pytest.approx(products.at(crossing))
    assert memory.at(crossing / 2) > products.at(crossing / 2)


def test_a_long_context_keeps_memory_the_bound_at_any_number():
    assert CACHE_S > DECODE_S
    assert turning_point(TEACHER, TOKENS, H100) is None


def test_room_for_keys_and_values_is_what_the_weights_leave():
    free = 0.92 * 79.65 * 2**30 - 2 * 8_030_261_248
    most = math.floor(free / (640 * 128 * 1024))
    assert room_for(TEACHER, TOKENS, LIMITS.memory_bytes or 0.0) == most == 746
    rate = estimate_rate(TEACHER, TOKENS, H100, LIMITS)
    assert (rate.most_at_once, rate.is_room) == (746, True)
    assert rate.requests_per_s.high == pytest.approx(load(746).requests_per_s.high)
    # Beyond, the others wait, and nothing is faster.
    assert load(5000).requests_per_s == load(746).requests_per_s
    assert room_for(TEACHER, TOKENS, 16e9) == 0


def test_an_engine_s_own_limit_counts_where_it_is_the_lower_one():
    few = Limits(8, LIMITS.memory_bytes)
    rate = estimate_rate(TEACHER, TOKENS, H100, few)
    assert (rate.most_at_once, rate.is_room) == (8, False)
    none = estimate_rate(TEACHER, TOKENS, H100, Limits(8, memory_bytes=16e9))
    assert (none.most_at_once, none.requests_per_s.high) == (0, 0.0)


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("at_once", [1, 3, 40, 300])
def test_a_rate_that_a_closed_loop_reaches_has_as_many_under_way(end: int, at_once: int):
    pace = paces(TEACHER, Tokens(64, 32), H100)[end]
    rate = pace.requests_per_s(at_once)
    found = pace.at_once(rate)
    assert found == pytest.approx(at_once)
    assert found == pytest.approx(rate * pace.answer_s(found))  # Little's law.


def test_a_rate_that_is_seldom_finds_each_request_alone():
    pace = paces(TEACHER, TOKENS, H100)[0]
    assert pace.at_once(0.01) == pytest.approx(0.01 * pace.answer_s(1))
    rare = load(0.01, is_closed=False)
    assert rare.tpot_s == load(1).tpot_s
    assert rare.output_tokens_per_s.low == rare.output_tokens_per_s.high == 0.01 * 128


def test_a_rate_beyond_the_greatest_is_too_much_and_between_the_ends_perhaps():
    greatest = estimate_rate(TEACHER, TOKENS, H100, LIMITS).requests_per_s
    assert load(greatest.low * 0.99, is_closed=False).keeps_up == (True, True)
    assert load(greatest.low * 1.01, is_closed=False).keeps_up == (False, True)
    beyond = load(greatest.high * 1.01, is_closed=False)
    assert beyond.keeps_up == (False, False)
    assert beyond.requests_per_s == greatest


def test_the_greatest_rate_within_a_limit_has_the_most_that_keep_it():
    def rate(limit_s: float) -> RateEstimate:
        return estimate_rate(TEACHER, TOKENS, H100, LIMITS, tpot_s=limit_s)

    fast, slow = paces(TEACHER, TOKENS, H100)
    kept = rate(0.012).within_limits
    assert kept
    for pace, per_s in ((fast, kept.high), (slow, kept.low)):
        (most,) = [n for n in range(1, 747) if pace.requests_per_s(n) == pytest.approx(per_s)]
        assert pace.tpot_s(most) <= 0.012 < pace.tpot_s(most + 1)
    # 6 ms is too short for the slow end, 1 ms for both.
    lone = rate(0.006).within_limits
    none = rate(0.001).within_limits
    assert lone and none
    assert lone.low == none.low == none.high == 0 < lone.high
    assert estimate_rate(TEACHER, TOKENS, H100, LIMITS).within_limits is None


@pytest.mark.parametrize(("bits", "share"), [("int8", 2), ("fp8", 2), ("int4", 4)])
def test_quantised_weights_halve_or_quarter_the_bytes_of_the_blocks(bits: str, share: int):
    blocks, rest = 6_979_321_856, 8_030_261_248 - 6_979_321_856
    assert served_bytes_of(LLAMA_8B, bits, 2) == 2 * blocks / share + 2 * rest
    assert step_bytes_of(LLAMA_8B, bits, 2) == 2 * blocks / share + 2 * (rest - 525_336_576)
    quantised = load(1, model=Served("teacher", LLAMA_8B, 2, bits))
    plain = load(1)
    assert quantised.tpot_s and plain.tpot_s
    assert quantised.tpot_s.low < plain.tpot_s.low


@pytest.mark.parametrize(("bits", "faster"), [(None, 1), ("int4", 1), ("int8", 2), ("fp8", 2)])
def test_in_8_bits_the_fast_end_multiplies_at_twice_the_rate_and_the_slow_end_does_not(
    bits: str | None, faster: int
):
    """A prompt of 10^5 tokens is products alone."""
    tokens = Tokens(100_000, 1)
    plain, found = (
        paces(Served("teacher", LLAMA_8B, 2, one), tokens, H100) for one in (None, bits)
    )
    assert found[0].answer_s(1) == pytest.approx(plain[0].answer_s(1) / faster, rel=0.01)
    assert found[1].answer_s(1) == pytest.approx(plain[1].answer_s(1), rel=0.01)
    many = Tokens(1, 1)  # Without a cache to speak of, products bound a step from here on.
    turns = [turning_point(Served("t", LLAMA_8B, 2, one), many, H100) for one in (None, bits)]
    share = step_bytes_of(LLAMA_8B, bits, 2) / step_bytes_of(LLAMA_8B, None, 2)
    assert turns[0] and turns[1] and turns[1] / turns[0] == pytest.approx(faster * share, rel=0.02)


def test_a_tied_table_is_read_because_it_is_the_head():
    tied = Architecture(**{**vars(LLAMA_8B), "tied_head": True})
    assert step_bytes_of(tied, None, 2) == served_bytes_of(tied, None, 2)


def test_joules_are_those_of_memory_s_seconds_and_of_the_products_seconds():
    """At the slow end, whose parts come one after the other: 0.43 and 1 of 700 W."""
    _, slow = paces(TEACHER, TOKENS, H100)
    memory_s = 128 * (WEIGHTS_S * 2 + 1625e-6) + 8 * 127 * CACHE_S * 2
    joules = 700 * (0.43 * memory_s + slow.answer_s(8) - memory_s)
    assert slow.request_j(8, seldom_per_s=None) == pytest.approx(joules / 8)
    found = load(8).j_per_output_token
    assert found
    assert found.high == pytest.approx(joules / 8 / 128)
    # Never more than all of its watts for as long as it takes.
    assert joules < 700 * slow.answer_s(8)


def test_a_seldom_request_pays_for_the_time_that_the_gpu_is_parked():
    rare = load(0.001, is_closed=False).j_per_output_token
    assert rare
    # 70 to 140 W for 1,000 s, over 128 tokens; the request itself takes about a second.
    assert (rare.low, rare.high) == pytest.approx((70_000 / 128, 140_000 / 128), rel=0.01)
    without = Device(H100.bytes_per_s, H100.flop_per_s)
    figure = estimate_load(TEACHER, TOKENS, without, LIMITS, level=1, is_closed=True)
    assert figure.j_per_output_token is None


def test_answers_of_one_token_have_no_time_between_tokens():
    one = estimate_load(TEACHER, Tokens(512, 1), H100, LIMITS, level=4, is_closed=True)
    assert one.tpot_s is None
    assert one.output_tokens_per_s.low == pytest.approx(
        4 / paces(TEACHER, Tokens(512, 1), H100)[1].answer_s(4)
    )
    rate = estimate_rate(TEACHER, Tokens(512, 1), H100, LIMITS, answer_s=1.0)
    assert rate.within_limits and rate.within_limits.high > 0


MEASURED = {
    "student": {1: (28.6, 33.8), 4: (88.4, 39.6), 16: (191, 59.7)},
    "teacher": {1: (16.8, 57.3), 4: (52.8, 65.4), 16: (114, 96.8)},
}
"""Requests at once to tokens a second and ms a token behind vLLM on one core, from the benchmarks
page: 48 tokens read, 32 written."""


@pytest.mark.parametrize("subject", MEASURED)
def test_the_range_holds_what_two_models_reached_on_a_processor(subject: str, configure: Configure):
    # One core of that machine reads 14.8 GB/s through products of one row, and multiplies 0.169
    # TFLOP/s in float32.
    core = Device(bytes_per_s=14.8e9, flop_per_s=0.169e12)
    pair = configure("model=smollm2_135m_to_81m", "gpu=cpu").model
    model = Served(subject, getattr(pair, subject).architecture, 4)
    for level, (tokens_per_s, tpot_ms) in MEASURED[subject].items():
        found = estimate_load(model, Tokens(48, 32), core, Limits(128), level=level, is_closed=True)
        assert found.output_tokens_per_s.low < tokens_per_s < found.output_tokens_per_s.high
        assert found.tpot_s
        assert found.tpot_s.low < tpot_ms / 1000 < found.tpot_s.high


def test_one_sequence_of_llama_8b_on_an_a100_is_in_the_range_of_what_gpt_fast_reached():
    """93.89 tokens/s in bfloat16, and 137.64 in 8 bits (its README), after 5 tokens."""
    a100, tokens = Device(2039e9, 312e12), Tokens(5, 200)
    for bits, reached in ((None, 93.89), ("int8", 137.64)):
        model = Served("teacher", LLAMA_8B, 2, bits)
        found = estimate_load(model, tokens, a100, Limits(1), level=1, is_closed=True)
        assert found.tpot_s
        assert found.tpot_s.low < 1 / reached < found.tpot_s.high
    assert BANDWIDTH_REACHED[1] < 1410.76 / 2039 < BANDWIDTH_REACHED[0]
