"""Shards in bfloat16 arithmetic: half the bytes travel, and the step is that of whole models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdwatts.models.sharding import gathered_for_products
from kdwatts.training.autocast import autocast
from tests.gloo_ranks import on_ranks
from tests.training.test_ranks import CPU, Pair, step

NUM_RANKS = 2
HEADS = {"tied": True, "untied": False}
BF16_STEP = 2.0**-8
"""Between neighbouring numbers of bfloat16, over the lower one."""


class Traffic(TorchDispatchMode):
    """Bytes that this rank sends to be gathered, and the dtypes of what is added up."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, int] = {}
        self.added_up: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        tensors = [part for part in args if isinstance(part, Tensor)]
        if tensors and "c10d" in func.name():
            given = tensors[-1]  # Some write into the one before it.
            if "gather" in func.name():
                self.sent[str(given.dtype)] = self.sent.get(str(given.dtype), 0) + given.nbytes
            elif "reduce" in func.name():
                self.added_up.add(str(given.dtype))
        return func(*args, **(kwargs or {}))


def pair_of(head: str, *, parallel: str, precision: str = "bf16", rounded: bool = False) -> Pair:
    pair = Pair("combined", parallel=parallel, tied=HEADS[head], precision=precision)
    if rounded:
        with torch.no_grad():
            for parameter in pair.student.parameters():
                parameter.copy_(parameter.to(torch.bfloat16))
    return pair


def read(pair: Pair) -> None:
    """The forward pass of both models, the heads too."""
    with autocast(pair.learner.precision, CPU), torch.no_grad():
        for model in (pair.student, pair.teacher):
            model.model(pair.batches(4)[0].input_BT)
            gathered_for_products(model.lm_head.weight)


def of_two_ranks() -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for head in HEADS:
        found[head, "exact"] = step(pair_of(head, parallel="fsdp", rounded=True))
        for parallel in ("fsdp", "ddp"):
            found[head, parallel] = step(pair_of(head, parallel=parallel))
    for precision in ("fp32", "bf16"):
        found[precision] = traffic("fsdp", precision)
    return found


def of_two_nodes() -> dict[Any, Any]:
    """What four ranks found, two a node."""
    found: dict[Any, Any] = {
        (head, "exact"): step(pair_of(head, parallel="hsdp", rounded=True)) for head in HEADS
    }
    for parallel in ("fsdp", "hsdp"):
        found[parallel] = traffic(parallel, "bf16")
    return found


def traffic(parallel: str, precision: str) -> dict[str, Any]:
    pair = pair_of("untied", parallel=parallel, precision=precision)
    with Traffic() as forward:
        read(pair)
    with Traffic() as whole:
        step(pair)
    return {"sent": forward.sent, "added_up": sorted(whole.added_up)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What two ranks found."""
    return on_ranks(NUM_RANKS, tmp_path_factory.mktemp("ranks"), of_two_ranks)[0]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What four ranks on two nodes found."""
    return on_ranks(2 * NUM_RANKS, tmp_path_factory.mktemp("nodes"), of_two_nodes)[0]


def errors(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """Each gradient's distance from the expected one, over the norm of that."""
    assert found["gradients"].keys() == expected["gradients"].keys()
    return {
        name: float((found["gradients"][name] - gradient).norm() / gradient.norm())
        for name, gradient in expected["gradients"].items()
    }


def test_in_bf16_student_teacher_and_heads_travel_in_half_the_bytes(ranks: dict[Any, Any]):
    (single,), (half,) = ranks["fp32"]["sent"].values(), ranks["bf16"]["sent"].values()
    assert (*ranks["fp32"]["sent"], *ranks["bf16"]["sent"]) == ("torch.float32", "torch.bfloat16")
    assert single == 2 * half
    # The student's 7,504 weights and the teacher's 14,808, whose heads and tables are not tied;
    # the student's 71 rows of 16 are 36 a rank.
    pair = pair_of("untied", parallel="ddp")
    weights = [p for model in (pair.student, pair.teacher) for p in model.parameters()]
    assert half == sum(-(-len(p) // NUM_RANKS) * p[0].numel() for p in weights) * 2


def test_gradients_of_a_bf16_step_are_added_up_in_float32(ranks: dict[Any, Any]):
    assert ranks["bf16"]["added_up"] == ["torch.float32"]


def test_two_nodes_add_up_in_float32_and_gather_no_weight_from_each_other(
    nodes: dict[Any, Any], ranks: dict[Any, Any]
):
    assert nodes["hsdp"]["added_up"] == ["torch.float32"]
    # Each of two ranks sends half of the weights, where each of four sends a quarter.
    assert nodes["hsdp"]["sent"] == ranks["bf16"]["sent"]
    assert 0 < nodes["fsdp"]["sent"]["torch.bfloat16"] < 0.6 * sum(nodes["hsdp"]["sent"].values())


@pytest.mark.parametrize("launch", ["ranks", "nodes"])
@pytest.mark.parametrize("head", HEADS)
def test_shards_of_weights_that_bf16_can_hold_make_the_step_of_one_process(
    head: str, launch: str, request: pytest.FixtureRequest
):
    alone = step(pair_of(head, parallel="ddp", rounded=True))
    found = request.getfixturevalue(launch)[head, "exact"]
    assert found["figures"] == pytest.approx(alone["figures"], rel=1e-6)
    for name, error in errors(found, alone).items():
        # Those of weights that autocast leaves in float32 are rounded on each rank. The CPU sums a
        # row of the table in bfloat16, token by token.
        bound = {"norm.weight": BF16_STEP, "tokens.weight": 4 * BF16_STEP}
        assert error <= next((b for end, b in bound.items() if name.endswith(end)), 1e-6), name


@pytest.mark.parametrize("head", HEADS)
def test_shards_of_other_weights_differ_by_no_more_than_bf16_does_from_fp32(
    head: str, ranks: dict[Any, Any]
):
    fp32 = step(pair_of(head, parallel="ddp", precision="fp32"))
    found, whole = ranks[head, "fsdp"], ranks[head, "ddp"]
    assert found["figures"]["loss"] == pytest.approx(whole["figures"]["loss"], rel=1e-3)
    usual = sum(errors(whole, fp32).values())
    assert 0 < sum(errors(found, whole).values()) < usual
    assert sum(errors(found, fp32).values()) < 1.5 * usual
