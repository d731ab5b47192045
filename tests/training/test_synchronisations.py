"""How often a training step waits for the device, on a pretended one, for all shipped paradigms."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.pretend_cuda.runner import Trace, traces
from tests.training.loop_on_device import SHIPPED_DIR

SHIPPED = sorted(path.stem for path in SHIPPED_DIR.glob("*.yaml"))
MODULE = "tests.training.loop_on_device"
CACHED = ("response", "relational", "relational_token", "feature", "combined")
PACKED = ("combined", "relational_token", "attention", "universal")
READ = ("sft", "on_policy", *PACKED)
CASES: dict[tuple[str, str], dict[str, Any]] = {
    **{(name, "live"): {} for name in SHIPPED},
    **{(name, "documents"): {"documents": True} for name in PACKED},
    **{(name, "cached"): {"cached": True} for name in CACHED},
    ("combined", "checkpointing"): {"checkpointing": True},
    ("combined", "adapters"): {"lora": True},
    ("combined", "fp32"): {"precision": "fp32"},
}
"""Paradigm and how it is trained: in bfloat16 by a live teacher, where nothing else is said."""


@pytest.fixture(scope="module")
def found() -> dict[str, Trace | str]:
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        f"{name} {variant}": (f"{MODULE}:steps", {"paradigm": name, "case": given})
        for (name, variant), given in CASES.items()
    }
    cases["logged"] = (f"{MODULE}:steps", {"paradigm": "combined", "case": {"log_every": 1}})
    for name in READ:
        cases[f"{name} reading"] = (f"{MODULE}:reading", {"paradigm": name, "case": {}})
    return traces(cases)


def trace_of(found: dict[str, Trace | str], name: str) -> Trace:
    trace = found[name]
    assert isinstance(trace, Trace), trace
    return trace


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_step_of_two_micro_batches_waits_for_the_device_at_most_once(
    name: str, variant: str, found: dict[str, Trace | str]
):
    trace = trace_of(found, f"{name} {variant}")
    waits = trace.synchronisations
    assert sum(waits.values()) <= 1, waits
    assert math.isfinite(trace.value) and trace.value > 0


def test_a_step_that_is_logged_waits_for_its_check_and_for_its_row(found: dict[str, Trace | str]):
    waits = trace_of(found, "logged").synchronisations
    by_file = {place.rpartition(":")[0]: count for (_, place), count in waits.items()}
    assert by_file == {"kdwatts/training/finite.py": 1, "kdwatts/training/train_log.py": 1}


@pytest.mark.parametrize("name", READ)
def test_a_reading_of_held_out_rows_waits_for_the_device_once(
    name: str, found: dict[str, Trace | str]
):
    trace = trace_of(found, f"{name} reading")
    waits = trace.synchronisations
    assert sum(waits.values()) == 1, waits
    assert all(math.isfinite(value) for value in trace.value.values())
