"""Every shipped paradigm in training, as it ships for an H100, on the pretended device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import pytest

from tests.pretend_cuda.runner import ROOT, Trace, traces

LORA = "model=tiny_half training=lora training.lora.rank=4 paradigm=feature"
SHIPPED = (
    *("sft", "response", "feature", "relational", "relational_token", "attention", "combined"),
    *("on_policy", "sequence", "universal"),
)
ONLINE = "paradigm=response paradigm.teacher=online"
SLOW_OTHERS = (
    "paradigm=response paradigm.response.support=sampled",
    "paradigm=response paradigm.response.support=dense paradigm.response.divergence=jsd",
    "paradigm=feature paradigm.feature.layers=cka paradigm.feature.positions=9",
    "paradigm=combined training.gradient_checkpointing=true",
)
FAST_OTHERS = (
    ONLINE,
    "paradigm=combined training.respect_documents=true",
    "another vocabulary",
    LORA,
)
TOP_K = 64
OF_MANY_COLUMNS = ("kdwatts/losses/sparse.py", "kdwatts/losses/logit_rows.py")
"""Sums over the teacher's likeliest tokens may be in float64: [N, K + 1]."""
FAST = [
    *((f"paradigm={name}", "fp32") for name in SHIPPED),
    *((n, "bf16") for n in FAST_OTHERS),
]
SLOW = [
    *((n, "fp32") for n in (*FAST_OTHERS, *SLOW_OTHERS)),
    *((n, "bf16") for n in SLOW_OTHERS),
    *((f"paradigm={name}", "bf16") for name in SHIPPED),
]
EVERY_CASE = pytest.mark.parametrize(
    ("name", "precision"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)


@cache
def traced(is_fast: bool) -> Mapping[str, Trace | str]:
    """The traces of the fast cases, or of the slow ones, from one process."""
    cases = {}
    for name, precision in FAST if is_fast else SLOW:
        is_other = name == "another vocabulary"
        function = "train_by_another_vocabulary" if is_other else "train"
        overrides = [*([] if is_other else name.split()), f"training.precision={precision}"]
        function = f"tests.pretend_cuda.training_cases:{function}"
        cases[f"{name} {precision}"] = (function, {"overrides": overrides})
    return traces(cases)


def trace_of(name: str, precision: str) -> Trace:
    """The case's trace. An operation on the device and the CPU at once raises `Mixed`."""
    trace = traced((name, precision) in FAST)[f"{name} {precision}"]
    assert isinstance(trace, Trace), trace
    return trace


def test_every_shipped_paradigm_is_traced():
    assert {path.stem for path in (ROOT / "conf" / "paradigm").glob("*.yaml")} == set(SHIPPED)


@EVERY_CASE
def test_a_step_has_the_cpu_s_loss_gradients_and_weights(name: str, precision: str):
    value = trace_of(name, precision).value
    assert value["devices"] == ["cuda"] and value["rows_at_once"] == 2048
    assert value["moved"] > 1e-5
    if precision == "bf16":
        # Autocast has other lists of operations for CUDA than for the CPU.
        allowed = {"loss": 1e-3, "gradients": 0.02, "weights": 0.01}
    elif name == "another vocabulary":
        # By rank, the slopes of two tokens of nearly equal probability may be swapped.
        allowed = {"loss": 1e-6, "gradients": 1e-3, "weights": 1e-3}
    else:
        allowed = {"loss": 1e-6, "gradients": 1e-5, "weights": 1e-4}
    assert {kind: value[kind] for kind in allowed if value[kind] > allowed[kind]} == {}


@EVERY_CASE
def test_a_step_outside_of_logging_waits_for_nothing(name: str, precision: str):
    assert trace_of(name, precision).synchronisations == {}


@EVERY_CASE
def test_only_sums_of_rows_and_of_the_likeliest_tokens_are_in_float64(name: str, precision: str):
    trace = trace_of(name, precision)
    assert [key for key in trace.float64 if not _is_narrow(*key)] == []


def _is_narrow(_operation: str, shape: str, place: str) -> bool:
    """Whether a float64 tensor has one column: a number, a few of them, [N] or [N, 1]."""
    sizes = [int(size) for size in re.findall(r"\d+", shape)]
    most = TOP_K + 1 if place.startswith(OF_MANY_COLUMNS) else 1
    return len(sizes) < 2 or (len(sizes) == 2 and sizes[1] <= most)


@EVERY_CASE
def test_attention_computes_in_the_precision_and_has_a_mask_for_documents_alone(
    name: str, precision: str
):
    calls = trace_of(name, precision).attention
    assert {call["dtype"] for call in calls} == {"bf16": {"bfloat16"}, "fp32": {"float32"}}[
        precision
    ]
    assert {call["has_mask"] for call in calls} == {"respect_documents" in name}
    assert all(call["has_mask"] or call["is_causal"] for call in calls)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_student_and_live_teacher_attend_to_plain_rows_with_few_heads_of_keys(precision: str):
    calls = trace_of(ONLINE, precision).attention
    # The student's calls, and the teacher's.
    assert {call["has_gradient"] for call in calls} == {True, False}
    for call in calls:
        assert call["enable_gqa"] == (call["query_heads"] > call["key_heads"])
        assert call["num_queries"] == call["num_keys"] > 1
    assert any(call["enable_gqa"] for call in calls)
