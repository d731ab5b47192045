"""Reading and writing apart, where two mixes tell them apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdwatts.metrics.quantity import MISSING_J, Quantity
from kdwatts.metrics.student_t import to_half_width
from kdwatts.records.serving_record import UNKNOWN
from kdwatts.serving.load.requests import Load
from kdwatts.serving.measure.phases import prefill_and_decode
from kdwatts.serving.measure.slices import Slice
from tests.serving.measure.simulated_server import Server, served

PREFILL_J, DECODE_J = 0.05, 0.4
LOAD = Load("closed", 4)


def _slices(output_tokens: int, seed: int, period_s: float = 0.02, **changes: int) -> list[Slice]:
    """Of a server whose power beyond tokens is 60 W at any load."""
    server = Server(
        output_tokens=lambda _: output_tokens,
        slot_w=0.0,
        prefill_j=PREFILL_J,
        decode_j=DECODE_J,
        **changes,
    )
    return served(server, LOAD, seed=seed, period_s=period_s).slices


def _parked(number: int = 5) -> list[Slice]:
    """The server is up and has nothing to do."""
    quantity = Quantity(120.0, 0.5, 6.0, "J")
    counters = {"computed_prompt_tokens": 0.0, "output_tokens": 0.0}
    joules: dict[str, float | None] = {"gpu": 120.0, "cpu": None}
    return [
        Slice(2.0 * k, 2.0 * k + 2, quantity, joules, None, None, counters) for k in range(number)
    ]


def _two_mixes(seed: int = 1, period_s: float = 0.02) -> list[Slice]:
    reading = _slices(1, seed, period_s, prompt_tokens=400)
    writing = _slices(40, seed + 1000, period_s, prompt_tokens=400)
    return [*_parked(), *reading, *writing]


@pytest.mark.parametrize("period_s", [0.02, 0.1])
def test_two_mixes_and_a_parked_server_tell_the_joules_of_reading_and_of_writing(period_s):
    slices = _two_mixes(period_s=period_s)
    prefill, decode = prefill_and_decode(slices)
    assert prefill.value == pytest.approx(PREFILL_J, rel=0.01)
    assert decode.value == pytest.approx(DECODE_J, rel=0.01)
    assert prefill.degrees == len(slices) - 3


def test_two_mixes_of_random_arrivals_need_no_parked_server():
    """Slices of an open loop differ enough to tell what time costs."""
    options = {"slot_w": 0.0, "prefill_j": PREFILL_J, "decode_j": DECODE_J, "prompt_tokens": 400}
    slices = [
        one
        for tokens in (1, 40)
        for one in served(
            Server(output_tokens=lambda _, n=tokens: n, **options), Load("poisson", 5)
        ).slices
    ]
    prefill, decode = prefill_and_decode(slices)
    assert prefill.value == pytest.approx(PREFILL_J, rel=0.05)
    assert decode.value == pytest.approx(DECODE_J, rel=0.05)


def test_the_intervals_hold_the_truth_in_93_of_100_runs():
    held = 0
    for seed in range(50):
        figures = prefill_and_decode(_two_mixes(seed, 0.1))
        for figure, truth in zip(figures, (PREFILL_J, DECODE_J), strict=True):
            assert figure.value is not None and figure.random_sd is not None
            half = to_half_width(figure.random_sd, figure.degrees or 1.0)
            held += abs(figure.value - truth) <= half
    assert held >= 93


def test_one_mix_tells_nothing_of_its_parts():
    slices = [*_parked(), *_slices(20, 1), *_slices(20, 2)]
    assert prefill_and_decode(slices) == (UNKNOWN, UNKNOWN)


def test_a_cost_that_cannot_be_told_from_0_is_unknown():
    """Reading costs nothing here: its interval holds 0, so neither part is stated."""
    server = Server(output_tokens=lambda _: 1, slot_w=0.0, decode_j=DECODE_J)
    free = served(server, LOAD, period_s=0.1).slices
    more = served(replace(server, output_tokens=lambda _: 20), LOAD, period_s=0.1).slices
    assert prefill_and_decode([*_parked(), *free, *more]) == (UNKNOWN, UNKNOWN)


def test_slices_without_counters_or_joules_or_shorter_than_1_s_are_left_out():
    mixes = _two_mixes()
    known = prefill_and_decode(mixes)
    assert known[0].value is not None
    bad = [
        replace(mixes[0], counters={}),
        replace(mixes[0], energy=MISSING_J),
        replace(mixes[0], energy_j={"gpu": None, "cpu": None}),
        replace(mixes[0], end_s=mixes[0].start_s + 0.5),
        replace(mixes[0], counters={"output_tokens": -5.0, "computed_prompt_tokens": 3.0}),
    ]
    assert prefill_and_decode([*bad, *mixes]) == known
    assert prefill_and_decode(bad) == (UNKNOWN, UNKNOWN)
    assert prefill_and_decode([]) == (UNKNOWN, UNKNOWN)


def test_the_calibration_of_the_meter_is_that_of_both_parts():
    mixes = _two_mixes()
    for figure in prefill_and_decode(mixes):
        assert figure.shared_sd == pytest.approx(0.05 * (figure.value or 0.0))
