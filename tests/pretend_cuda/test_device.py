"""The pretended device itself: what it computes, refuses and notes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pretend_cuda.runner import Trace, traces

PROGRAMS = ("learn", "tie", "mix", "scale", "wait", "doubles", "attend")


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    module = "tests.pretend_cuda.first_steps"
    return traces({name: (f"{module}:{name}", {}) for name in PROGRAMS})


def test_a_network_under_cuda_autocast_learns_what_the_cpu_learns(found: dict[str, Any]):
    on_device, on_cpu = found["learn"].value
    assert on_device == pytest.approx(on_cpu, rel=1e-2)


def test_a_tied_weight_stays_tied_on_the_device(found: dict[str, Any]):
    assert found["tie"].value == [True, True]


def test_an_operation_of_the_device_and_the_cpu_raises(found: dict[str, Any]):
    assert "Mixed: aten.add.Tensor of the device's tensors and of the CPU's [(3,)]" in found["mix"]


def test_a_number_of_the_cpu_is_no_mix_and_no_wait(found: dict[str, Any]):
    assert found["scale"].value == [2.0] * 3
    assert not found["scale"].synchronisations


def test_each_way_to_wait_is_counted_once_and_no_other(found: dict[str, Any]):
    kinds = {kind: count for (kind, _), count in found["wait"].synchronisations.items()}
    assert kinds == dict.fromkeys(
        (
            *("item", "boolean index", "nonzero", "copy cuda->cpu", "tolist", "copy cpu->cuda"),
            *("copy cpu->cuda of pageable memory", "index on the CPU", "repeat_interleave"),
            "torch.cuda.synchronize",
        ),
        1,
    )


def test_tensors_of_64_bits_are_noted_with_their_shape(found: dict[str, Any]):
    assert {key[:2] for key in found["doubles"].float64} == {
        ("to", "(3, 2)"),
        ("aten.sum.dim_IntList", "(3,)"),
    }


def test_attention_is_noted_as_it_was_called(found: dict[str, Any]):
    trace: Trace = found["attend"]
    assert trace.attention == [
        {
            "has_mask": False,
            "is_causal": True,
            "enable_gqa": True,
            "dtype": "bfloat16",
            "query_heads": 4,
            "key_heads": 2,
            "num_queries": 3,
            "num_keys": 3,
            "has_gradient": False,
            "count": 1,
        }
    ]
