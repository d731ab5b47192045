"""A step shared by ranks, with whole models or with shards, is the step of one process.

Ranks are processes on gloo. Four of them stand for two nodes of two. What each found is whole again
when it is written down.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from kdwatts.config.paradigm import CrossEntropy, Feature, Paradigm, Relational, Response
from kdwatts.config.training import PARALLELS, Lora
from kdwatts.data.packing import Batch
from kdwatts.models import load
from kdwatts.models.load import head_weight, recompute_blocks
from kdwatts.models.sharding import (
    gathered,
    gathered_for_products,
    is_sharded,
    place,
    whole_state,
)
from kdwatts.models.sharing import Sharing
from kdwatts.training import checkpoint
from kdwatts.training.checkpoint import Progress
from kdwatts.training.forward_backward import forward_backward
from kdwatts.training.held_out_loss import HeldOut, held_out_losses
from kdwatts.training.learner import share_of
from kdwatts.training.lora import add_adapters
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.optim import make_optimizer, set_learning_rate
from kdwatts.training.parallel import clip_gradients, num_ranks, rank, sum_gradients, summed
from tests.gloo_ranks import on_ranks
from tests.training.pair import llama, make_batch, make_learner, make_objective, part_of

CPU = torch.device("cpu")
MAX_NORM = 0.1
PARADIGMS = {
    "sft": Paradigm("sft", ce=CrossEntropy()),
    "response": Paradigm("response", response=Response(support="dense", temperature=2.0)),
    "feature": Paradigm("feature", ce=CrossEntropy(0.1), feature=Feature()),
    "relational": Paradigm("relational", relational=Relational(group_size=4)),
    "spanning": Paradigm("relational", relational=Relational(group_size=8)),
    "combined": Paradigm(
        "combined",
        ce=CrossEntropy(0.1),
        response=Response(support="top_k", k=8),
        feature=Feature(weight=0.5),
        relational=Relational(group_size=4, weight=0.5),
    ),
}
"""`spanning` has groups of two ranks' micro-batches; one process takes it with larger ones."""
ODD: dict[str, dict[str, Any]] = {"untied": {"tied": False}, "lora": {"lora": True}}


def nodes() -> tuple[tuple[int, ...], ...]:
    """Four ranks are two nodes of two."""
    return tuple((first, first + 1) for first in range(0, num_ranks(), 2))


class Pair:
    """Student, teacher and objective of a test, and what of a step is this rank's."""

    def __init__(
        self,
        name: str,
        *,
        parallel: str = "ddp",
        tied: bool = True,
        lora: bool = False,
        precision: str = "fp32",
    ) -> None:
        precision = "bf16" if lora else precision
        sharing = Sharing(parallel, precision, nodes())
        self.student = llama(0, vocabulary=71, width=16, num_layers=2, tied=tied)
        if lora:
            self.student.to(torch.bfloat16)
            add_adapters(self.student, Lora(rank=2), seed=0)
        self.teacher = llama(1, vocabulary=64, width=24, num_layers=3, tied=False)
        self.objective = make_objective(PARADIGMS[name], self.teacher)
        # Frozen weights are kept in the dtype of the arithmetic.
        self.teacher.to(torch.bfloat16 if precision == "bf16" else torch.float32)
        place(self.student, CPU, sharing)
        place(self.teacher.requires_grad_(False), CPU, sharing)
        self.learner = make_learner(self.objective, self.student, self.teacher, precision=precision)

    def batches(self, micro_batch: int) -> list[Batch]:
        whole = make_batch(16)
        cuts = range(0, len(whole.rows), micro_batch)
        parts = [part_of(whole, slice(start, start + micro_batch)) for start in cuts]
        return parts[rank() :: num_ranks()]

    def gradients(self) -> dict[str, Tensor]:
        return {
            f"{prefix}.{name}": gathered(parameter.grad).clone()
            for prefix, module in self.learner.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }


def step(pair: Pair, micro_batch: int = 4) -> dict[str, Any]:
    """What the training loop makes of one step."""
    micro_batches = [MicroBatch(batch) for batch in pair.batches(micro_batch)]
    outcome = forward_backward(pair.learner, micro_batches, clip_norm=float("inf"))
    loss, *terms = summed([part.item() for part in (outcome.loss, *outcome.terms.values())])
    found: dict[str, Any] = {
        "figures": {"loss": loss, **dict(zip(outcome.terms, terms, strict=True))},
        "gradients": pair.gradients(),
        "norm": outcome.grad_norm,
    }
    clip_gradients(pair.learner.parameters, MAX_NORM)
    return {**found, "clipped": pair.gradients()}


def averaged_over_ranks(pair: Pair) -> dict[str, Any]:
    """The trap: a mean over the targets of each rank, and the mean of those over ranks."""
    size, loss = pair.objective.step_size(pair.batches(4)), 0.0
    for batch in pair.batches(4):
        share = share_of(pair.learner, MicroBatch(batch), size)
        share.loss.backward()
        loss += share.loss.item()
    sum_gradients(pair.learner.parameters)
    gradients = {name: grad / num_ranks() for name, grad in pair.gradients().items()}
    (total,) = summed([loss])
    return {"loss": total / num_ranks(), "gradients": gradients}


def divided_by_ranks(pair: Pair) -> dict[str, Any]:
    """The trap: FSDP2's own mean over ranks on top of the division by what the step counts."""
    for module in pair.student.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(num_ranks())
    return {"gradients": step(pair)["gradients"]}


def without_the_head_of_others(pair: Pair) -> dict[str, Any]:
    """The trap: a head gathered as torch does by default, whose gradient stays with its rank."""
    load.gathered_for_products = lambda weight: (
        weight.full_tensor() if is_sharded(weight) else weight
    )
    try:
        return {"gradients": step(pair)["gradients"]}
    finally:
        load.gathered_for_products = gathered_for_products


def read_on_held_out(pair: Pair) -> dict[str, float]:
    """Three batches: of two ranks the second has one fewer to read."""
    batches = [part_of(make_batch(12), slice(start, start + 4)) for start in (0, 4, 8)]
    return held_out_losses(pair.learner, HeldOut(batches, num_bytes=100))


def recomputed(pair: Pair) -> dict[str, Any]:
    pair.student.train()
    recompute_blocks(pair.student)
    return step(pair)


def optimizer_of(pair: Pair) -> torch.optim.AdamW:
    optimizer = make_optimizer(
        list(pair.learner.modules.values()), weight_decay=0.1, betas=(0.9, 0.95)
    )
    set_learning_rate(optimizer, 1e-3)
    return optimizer


def taken(pair: Pair, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    for _ in range(num_steps):
        step(pair)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def saved_after_a_step(folder: Path, *, parallel: str = "ddp") -> dict[str, Tensor]:
    """The weights after a step, at which a checkpoint was saved, and another one."""
    pair = Pair("combined", parallel=parallel)
    optimizer = optimizer_of(pair)
    taken(pair, optimizer, 1)
    checkpoint.save(folder, pair.learner.modules, optimizer, Progress(step=1))
    taken(pair, optimizer, 1)
    return weights(pair)


def gone_on(folder: Path, *, parallel: str = "ddp") -> dict[str, Tensor]:
    """The weights after a second step, the first one from the checkpoint of others."""
    pair = Pair("combined", parallel=parallel)
    optimizer = optimizer_of(pair)
    assert checkpoint.load_latest(folder, pair.learner.modules, optimizer).step == 1
    taken(pair, optimizer, 1)
    return weights(pair)


def weights(pair: Pair) -> dict[str, Tensor]:
    states = {prefix: whole_state(module) for prefix, module in pair.learner.modules.items()}
    return {f"{p}.{name}": value for p, state in states.items() for name, value in state.items()}


def of_two_ranks(folder: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = shared_steps("ddp") | shared_steps("fsdp")
    found["ddp", "averaged"] = averaged_over_ranks(Pair("sft"))
    found["divided"] = divided_by_ranks(Pair("sft", parallel="fsdp"))
    found["own head"] = without_the_head_of_others(Pair("sft", parallel="fsdp", tied=False))
    found["head"] = gathered(head_weight(Pair("sft", parallel="fsdp").student)).detach().clone()
    found["one", "fsdp"] = gone_on(folder / "one", parallel="fsdp")
    for parallel in ("ddp", "fsdp"):
        found["two", parallel] = saved_after_a_step(folder / f"two-{parallel}", parallel=parallel)
    return found


def of_two_nodes(folder: Path) -> dict[Any, Any]:
    """Two ranks have left checkpoints before."""
    found: dict[Any, Any] = shared_steps("hsdp")
    for saved, parallel in (("one", "hsdp"), ("two-fsdp", "hsdp"), ("two-fsdp", "ddp")):
        found[saved, parallel] = gone_on(folder / saved, parallel=parallel)
    found["four"] = saved_after_a_step(folder / "four", parallel="hsdp")
    found["four", "fsdp"] = gone_on(folder / "four", parallel="fsdp")
    return found


def shared_steps(parallel: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {
        (parallel, name): step(Pair(name, parallel=parallel)) for name in PARADIGMS
    }
    found[parallel, "held out"] = read_on_held_out(Pair("combined", parallel=parallel))
    if parallel != "ddp":
        found[parallel, "recomputed"] = recomputed(Pair("combined", parallel=parallel))
        for name, changes in ODD.items():
            found[parallel, name] = step(Pair("combined", parallel=parallel, **changes))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    saved_after_a_step(folder / "one")
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> dict[Any, Any]:
    """What two ranks found, and after them four on two nodes."""
    two, *_ = on_ranks(2, folder / "two", of_two_ranks, folder)
    four, *_ = on_ranks(4, folder / "nodes", of_two_nodes, folder)
    return two | four


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-5, atol=2e-6, msg=name)


def assert_same_step(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["figures"] == pytest.approx(expected["figures"], rel=1e-6)
    torch.testing.assert_close(found["norm"], expected["norm"], rtol=1e-5, atol=0)
    assert_same(found["gradients"], expected["gradients"])
    assert_same(found["clipped"], expected["clipped"])


@pytest.mark.parametrize("parallel", PARALLELS)
@pytest.mark.parametrize("name", PARADIGMS)
def test_ranks_find_the_loss_the_gradient_and_its_norm_of_one_process(
    name: str, parallel: str, ranks: dict[Any, Any]
):
    alone = step(Pair(name), 8 if name == "spanning" else 4)
    assert_same_step(ranks[parallel, name], alone)
    assert alone["norm"] > MAX_NORM and any(grad.any() for grad in alone["gradients"].values())


@pytest.mark.parametrize("parallel", ["fsdp", "hsdp"])
@pytest.mark.parametrize("name", [*ODD, "recomputed"])
def test_shards_hold_an_untied_head_recomputed_blocks_and_frozen_weights(
    name: str, parallel: str, ranks: dict[Any, Any]
):
    alone = step(Pair("combined", **ODD.get(name, {})))
    found = ranks[parallel, name]
    assert found["figures"] == pytest.approx(alone["figures"], rel=1e-5)
    assert found["gradients"].keys() == alone["gradients"].keys()
    for parameter, grad in alone["gradients"].items():
        error = (found["gradients"][parameter] - grad).norm() / grad.norm().clamp(min=1e-6)
        assert error < (2e-2 if name == "lora" else 1e-5), parameter


@pytest.mark.parametrize("parallel", PARALLELS)
def test_ranks_read_the_loss_on_held_out_rows_that_one_process_reads(
    parallel: str, ranks: dict[Any, Any]
):
    alone = read_on_held_out(Pair("combined"))
    assert ranks[parallel, "held out"] == pytest.approx(alone, rel=1e-6)


def test_a_mean_over_each_ranks_own_targets_is_another_loss_and_gradient(ranks: dict[Any, Any]):
    alone = step(Pair("sft"))
    assert abs(ranks["ddp", "averaged"]["loss"] - alone["figures"]["loss"]) > 1e-3
    with pytest.raises(AssertionError):
        assert_same(ranks["ddp", "averaged"]["gradients"], alone["gradients"])


def test_fsdp_would_halve_what_is_already_divided_by_the_whole_step(ranks: dict[Any, Any]):
    name = "student.model.layers.0.mlp.up_proj.weight"
    right, halved = (ranks[key]["gradients"][name] for key in (("fsdp", "sft"), "divided"))
    torch.testing.assert_close(halved, right / 2)
    assert right.abs().max() > 1e-3


def test_a_head_gathered_as_torch_does_learns_from_one_ranks_text_alone(ranks: dict[Any, Any]):
    alone = step(Pair("sft", tied=False))["gradients"]["student.lm_head.weight"]
    found = ranks["own head"]["gradients"]["student.lm_head.weight"]
    assert (found - alone).abs().max() > 0.1 * alone.abs().max()


def test_a_sharded_head_is_gathered_whole_though_its_rows_do_not_divide(ranks: dict[Any, Any]):
    assert torch.equal(ranks["head"], Pair("sft").student.lm_head.weight.detach())


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_checkpoint_of_two_ranks_is_resumed_by_one(
    parallel: str, folder: Path, ranks: dict[Any, Any]
):
    assert_same(gone_on(folder / f"two-{parallel}"), ranks["two", parallel])


def test_a_checkpoint_of_two_nodes_is_resumed_by_one_process_and_by_shards_over_all_ranks(
    folder: Path, ranks: dict[Any, Any]
):
    assert_same(gone_on(folder / "four"), ranks["four"])
    assert_same(ranks["four", "fsdp"], ranks["four"])


@pytest.mark.parametrize("parallel", ["fsdp", "hsdp"])
def test_a_checkpoint_of_one_process_is_resumed_by_ranks_in_shards(
    parallel: str, folder: Path, ranks: dict[Any, Any]
):
    assert_same(ranks["one", parallel], gone_on(folder / "one"))


@pytest.mark.parametrize("parallel", ["ddp", "hsdp"])
def test_a_checkpoint_of_two_ranks_in_shards_is_resumed_by_two_nodes(
    parallel: str, ranks: dict[Any, Any]
):
    assert_same(ranks["two-fsdp", parallel], ranks["two", "fsdp"])


def test_a_process_alone_asks_nobody():
    pair = Pair("sft", parallel="fsdp")
    assert not any(is_sharded(parameter) for parameter in pair.learner.parameters)
    assert (rank(), num_ranks(), summed([1.0, 2.0])) == (0, 1, [1.0, 2.0])
