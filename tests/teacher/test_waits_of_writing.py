"""How often the host waits for a GPU that writes text, counted on a pretended one."""

from __future__ import annotations

from typing import Any

import pytest

# Both the device and its cases are of one piece.
pytest.importorskip("tests.pretend_cuda.runner")

from tests.pretend_cuda.runner import Trace, traces

CASES: dict[str, dict[str, Any]] = {
    "greedy": {"count": 70, "ends": [], "temperature": 0.0, "top_p": 1.0},
    "drawn": {"count": 70, "ends": [], "temperature": 1.0, "top_p": 1.0},
    "nucleus": {"count": 70, "ends": [], "temperature": 0.7, "top_p": 0.9},
    "bf16": {"count": 70, "ends": [], "temperature": 1.0, "top_p": 1.0, "precision": "bf16"},
    "ended": {"count": 200, "ends": [3, 9, 27, 41, 53], "temperature": 3.0, "top_p": 1.0},
    "growing": {"count": 70, "ends": [], "temperature": 1.0, "top_p": 1.0, "slides": True},
}


@pytest.fixture(scope="module")
def traced() -> dict[str, Trace]:
    cases = {name: ("tests.teacher.writing_cases:write", asked) for name, asked in CASES.items()}
    cases["eager loop"] = ("tests.teacher.writing_cases:serve", {"new_tokens": 20})
    found = traces(cases)
    for name, trace in found.items():
        assert isinstance(trace, Trace), f"{name}: {trace}"
    return {name: trace for name, trace in found.items() if isinstance(trace, Trace)}


@pytest.mark.parametrize("name", ["greedy", "drawn", "nucleus", "bf16"])
def test_the_host_waits_for_no_token_and_no_look(name: str, traced: Any):
    # At the end the last flags and the texts are fetched.
    assert traced[name].num_synchronisations == 2, traced[name].synchronisations


@pytest.mark.parametrize("name", ["greedy", "drawn", "nucleus", "ended", "growing"])
def test_the_device_writes_the_tokens_of_the_cpu(name: str, traced: Any):
    assert traced[name].value["cuda"] == traced[name].value["cpu"]


def test_a_batch_whose_texts_have_all_ended_is_left_four_tokens_after_the_next_look(traced: Any):
    longest = max(map(len, traced["ended"].value["cpu"]))
    num_written = traced["ended"].operations["aten.searchsorted.Tensor"]
    assert longest < 200 and num_written == -(-longest // 16) * 16 + 4
    assert traced["ended"].num_synchronisations == 2


def test_the_eager_loop_waits_for_the_gpu_in_no_prefill_and_no_step(traced: Any):
    assert traced["eager loop"].operations["aten.argmax.default"] == 20
    assert traced["eager loop"].num_synchronisations == 0
