"""The doctor's checks of speed and numbers on the pretended device: nothing mixes two devices."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pretend_cuda.runner import Trace, traces

pytestmark = pytest.mark.slow

SPEED = {
    "products bf16": {"products_bf16"},
    "memory bandwidth": {"memory_bandwidth"},
    "response head": {"response_head", "head_of_liger", "head_of_trl"},
}
NUMBERS = {
    "terms": {"terms_fp32", "terms_bf16"},
    "divergences": {"divergences_fp32", "divergences_bf16"},
    "attention": {"attention_rows", "attention_documents"},
    "cached signals": {"cached_signals"},
}
STEPS = {
    "cached": ("paradigm.teacher=cached", "training.precision=bf16"),
    "online": ("paradigm.teacher=online", "training.precision=bf16"),
    "feature": ("paradigm=feature", "training.precision=fp32"),
    "sft": ("paradigm=sft", "training.precision=fp32"),
}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    look = "tests.pretend_cuda.doctor_checks:look"
    return traces(
        {check: (look, {"check": check}) for check in (*SPEED, *NUMBERS)}
        | {name: (look, {"check": "pair step", "words": words}) for name, words in STEPS.items()}
    )


def verdicts(found: dict[str, Any], case: str) -> dict[str, dict[str, Any]]:
    trace = found[case]
    assert isinstance(trace, Trace), trace
    return {one["name"]: one for one in trace.value}


@pytest.mark.parametrize("check", NUMBERS)
def test_the_device_computes_what_float64_on_the_cpu_does(found: dict[str, Any], check: str):
    its = verdicts(found, check)
    assert its.keys() == NUMBERS[check]
    assert {one["verdict"] for one in its.values()} == {"right"}, its


@pytest.mark.parametrize("check", SPEED)
def test_rates_of_the_device_are_measured(found: dict[str, Any], check: str):
    its = verdicts(found, check)
    assert its.keys() == SPEED[check]
    # How fast a device is that is pretended says nothing.
    assert next(iter(its.values()))["value"] > 0


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_pair_is_taken_on_the_device(found: dict[str, Any], step: str):
    its = verdicts(found, step)
    assert its["step_speed"]["value"] > 0
    assert its["step_products"]["value"] > 0
    precision = STEPS[step][1].partition("=")[2]
    assert its["step_share_of_products"]["conditions"]["precision"] == precision
