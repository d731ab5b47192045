"""What stands around training, on the pretended device: readings, the teacher's work, serving."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from tests.pretend_cuda.runner import Trace, traces

CASES: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "held out": ("training_cases:read_held_out", ["paradigm=combined"], {}),
    "teacher": ("other_stages:cache_signals", ["paradigm=response"], {}),
    "text": (
        "other_stages:build",
        ["paradigm=sequence", "paradigm.generate.batch_size=32", "training.target_tokens=960"],
        {"stage": "generate"},
    ),
    "serving": ("other_stages:serve", [], {}),
}
"""A function, the options it composes, and its other arguments."""
EVERY_PRECISION = pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)]
)
NUM_BLOCKS = 4
"""Of the shipped teacher."""
SAMPLING = "kdwatts/teacher/decoding.py"


@cache
def traced(precision: str) -> Mapping[str, Trace | str]:
    """The traces of all cases, from one process."""
    return traces(
        {
            name: (
                f"tests.pretend_cuda.{function}",
                {"overrides": [*options, f"training.precision={precision}"], **arguments},
            )
            for name, (function, options, arguments) in CASES.items()
        }
    )


def trace_of(name: str, precision: str) -> Trace:
    """The case's trace. An operation on the device and the CPU at once raises `Mixed`."""
    trace = traced(precision)[name]
    assert isinstance(trace, Trace), trace
    return trace


def waits_beside_loading(trace: Trace) -> int:
    """Synchronisations, but for those of moving weights to the device."""
    return sum(
        count
        for (_, place), count in trace.synchronisations.items()
        if "models/quantization.py" not in place
    )


@EVERY_PRECISION
def test_the_loss_on_held_out_rows_is_the_cpu_s(precision: str):
    value: dict[str, Any] = trace_of("held out", precision).value
    tolerance = 1e-6 if precision == "fp32" else 0.01
    assert value["cuda"] == pytest.approx(value["cpu"], rel=tolerance)


@EVERY_PRECISION
def test_a_reading_of_two_batches_waits_once(precision: str):
    trace = trace_of("held out", precision)
    assert trace.value["num_batches"] == 2
    assert trace.num_synchronisations <= 1, trace.synchronisations


@EVERY_PRECISION
def test_the_teacher_s_cache_holds_the_cpu_s_probabilities(precision: str):
    # A code of eight bits may be the next one.
    assert (
        trace_of("teacher", precision).value["probabilities"]
        < {"fp32": 1e-3, "bf16": 0.05}[precision]
    )


@EVERY_PRECISION
def test_a_forward_pass_for_the_cache_waits_at_most_twice(precision: str):
    trace = trace_of("teacher", precision)
    passes = sum(call["count"] for call in trace.attention) // NUM_BLOCKS
    # For the temperatures, and for what it sent.
    assert waits_beside_loading(trace) <= 2 * passes, trace.synchronisations


def test_in_float32_the_teacher_writes_the_text_that_it_writes_on_the_cpu():
    assert trace_of("text", "fp32").value["different"] == []


@EVERY_PRECISION
def test_two_batches_of_text_are_waited_for_when_they_are_whole_and_no_token_is(precision: str):
    trace = trace_of("text", precision)
    passes = sum(call["count"] for call in trace.attention) // NUM_BLOCKS
    # Each batch sends its texts, and whether its logits were finite.
    assert passes >= 20 and waits_beside_loading(trace) <= 2 * 2, trace.synchronisations


@EVERY_PRECISION
def test_only_sampling_has_a_vocabulary_in_float64(precision: str):
    for name in CASES:
        trace = trace_of(name, precision)
        widest = {
            place.partition(":")[0]
            for _, shape, place in trace.float64
            if int((re.findall(r"\d+", shape) or ["0"])[-1]) >= 1024
        }
        assert widest == ({SAMPLING} if name == "text" else set())


@EVERY_PRECISION
def test_serving_says_what_it_says_on_the_cpu(precision: str):
    assert trace_of("serving", precision).value["logits"] < {"fp32": 1e-5, "bf16": 0.02}[precision]


@EVERY_PRECISION
def test_serving_waits_once_a_call_and_beside_that_only_for_its_checks(precision: str):
    trace = trace_of("serving", precision)
    kinds: dict[str, int] = {}
    for (kind, place), count in trace.synchronisations.items():
        if "models/quantization.py" not in place:
            kinds[kind] = kinds.get(kind, 0) + count
    assert kinds == {
        "torch.cuda.synchronize": trace.value["num_calls"],
        # The prompts, and whether logits are finite: after a prefill and two warm-ups.
        "copy cpu->cuda": 1,
        "item": 3,
    }


@pytest.mark.slow
def test_the_shipped_tasks_are_scored_on_the_device_as_on_the_cpu():
    (trace,) = traces(
        {"scores": ("tests.pretend_cuda.other_stages:scores", {"overrides": []})}
    ).values()
    assert isinstance(trace, Trace), trace
    assert trace.value["cuda"] == pytest.approx(trace.value["cpu"], rel=1e-4)
