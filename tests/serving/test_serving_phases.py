"""Reading and writing told apart, on a server that draws more while it reads a prompt."""

from __future__ import annotations

import pytest

from tests.serving.known_power import GAP_S, PROMPT_TOKENS, TTFT_S, Case, Result, measure

pytestmark = pytest.mark.slow

READING_W, WRITING_W = 120.0, 40.0
POWER = {"idle_w": 60.0, "reading_w": READING_W, "writing_w": WRITING_W}

# n tokens take reading_w TTFT + writing_w (n - 1) GAP, which is a P + b n.
DECODE_J = WRITING_W * GAP_S
PREFILL_J = (READING_W * TTFT_S - WRITING_W * GAP_S) / PROMPT_TOKENS

LONG = {"min_window_s": 12.0, "max_window_s": 60.0}
MANY = {"slots": 64}
LOADS = {
    "closed": (LONG | {"concurrency": [4]}, {}),
    "poisson": (LONG | {"rates_per_s": [8.0]}, MANY),
}

CASES = [
    Case(f"{name}, {period_ms} ms", load, {}, {}, {"metrics": True} | slots, POWER, period_ms)
    for name, (load, slots) in LOADS.items()
    for period_ms in (20, 100)
]


@pytest.fixture(scope="module")
def measured(nvml_dir, tmp_path_factory) -> dict[str, Result]:
    return measure(nvml_dir, tmp_path_factory.mktemp("phases") / "power", CASES)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_joules_of_reading_and_of_writing_a_token_are_inside_their_intervals(measured, name: str):
    point = measured[name].point
    pairs = [(point.prefill_j_per_token, PREFILL_J), (point.decode_j_per_token, DECODE_J)]
    for figure, true_j in pairs:
        assert figure.value == pytest.approx(true_j, rel=0.1)
        assert figure.low <= true_j <= figure.high


def test_a_second_load_of_one_token_each_follows_in_a_window_of_its_own(measured):
    windows = [row["window"] for row in measured["closed, 20 ms"].rows]
    assert windows == ["run/idle_server", "run/load_closed_4", "run/prefill_closed_4", "run"]


def test_the_engines_counter_agrees_with_the_answers(measured):
    errors = [one.point.usage_error for one in measured.values()]
    assert max(map(abs, errors)) < 0.02
