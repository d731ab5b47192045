"""Shards in bfloat16 arithmetic: half the bytes travel, and the step is that of whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.utils._python_dispatch import TorchDispatchMode

from kdwatts.models.sharding import gathered_for_products
from kdwatts.training.autocast import autocast
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


def work(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=number, world_size=NUM_RANKS
    )
    found: dict[Any, Any] = {}
    for head in HEADS:
        found[head, "exact"] = step(pair_of(head, parallel="fsdp", rounded=True))
        for parallel in ("fsdp", "ddp"):
            found[head, parallel] = step(pair_of(head, parallel=parallel))
    for precision in ("fp32", "bf16"):
        pair = pair_of("untied", parallel="fsdp", precision=precision)
        with Traffic() as forward:
            read(pair)
        with Traffic() as whole:
            step(pair)
        found[precision] = {"sent": forward.sent, "added_up": sorted(whole.added_up)}
    if number == 0:
        torch.save(found, folder / "found.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """What two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(  # pyright: ignore[reportPrivateImportUsage]
        work, (folder,), nprocs=NUM_RANKS
    )
    return torch.load(folder / "found.pt", weights_only=True)


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


@pytest.mark.parametrize("head", HEADS)
def test_shards_of_weights_that_bf16_can_hold_make_the_step_of_one_process(
    head: str, ranks: dict[Any, Any]
):
    alone, found = step(pair_of(head, parallel="ddp", rounded=True)), ranks[head, "exact"]
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
