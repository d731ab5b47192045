"""Gathering over ranks: two processes on gloo find the loss and gradients of one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from kdwatts.config.paradigm import Paradigm, Relational
from kdwatts.data.packing import Batch
from kdwatts.losses.relational import relational_loss
from kdwatts.teacher.signals import Signals, signal_plan
from kdwatts.training.micro_batch import MicroBatch
from kdwatts.training.objective import PairSizes, objective_of
from kdwatts.training.parallel import gather_with_gradient, num_ranks

RANKS, PER_RANK = 2, 3
WEIGHTS: dict[str, Any] = {"group_size": 6, "distance_weight": 1.0, "angle_weight": 2.0}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Student states, a weight that makes embeddings of them, teacher embeddings."""
    generator = torch.Generator().manual_seed(0)
    rows = RANKS * PER_RANK
    return (
        torch.randn(rows, 4, generator=generator),
        torch.randn(4, 5, generator=generator),
        torch.randn(rows, 7, generator=generator),
    )


def share(rows: slice, gather: Any) -> tuple[Tensor, Tensor, Tensor]:
    """A rank's share of the loss, the gradient of its rows and its share of the weight's."""
    state_BD, weight, teacher_BD = inputs()
    state_BD, weight = state_BD[rows].requires_grad_(), weight.requires_grad_()
    student_BD, teacher_BD = gather(state_BD @ weight), gather(teacher_BD[rows])
    loss = relational_loss(student_BD, teacher_BD, **WEIGHTS) / num_ranks()
    state_grad, weight_grad = torch.autograd.grad(loss, (state_BD, weight))
    return loss.detach(), state_grad, weight_grad


def plain_gather(embedding_BD: Tensor) -> Tensor:
    """The trap: torch's all_gather hands out copies that lead back to nobody."""
    parts = [torch.empty_like(embedding_BD) for _ in range(RANKS)]
    distributed.all_gather(parts, embedding_BD.detach())
    parts[distributed.get_rank()] = embedding_BD
    return torch.cat(parts)


class Body(nn.Module):
    """The least that a student's body is; a Llama would cost each rank seconds of imports."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(64, 5), nn.ModuleList()

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.embed(input_ids).tanh())


def objective_share(rows: slice) -> tuple[Tensor, Tensor]:
    """A rank's share of a step that is one group of all ranks' rows, and of its gradient."""
    generator = torch.manual_seed(0)
    student = nn.Module()
    student.model = Body()
    paradigm = Paradigm("relational", relational=Relational(group_size=8))
    objective = objective_of(
        paradigm,
        [],
        signal_plan(paradigm, [], 64),
        sizes=PairSizes(64, student_width=5, teacher_width=7),
        chunk_rows=8,
        teacher_head=None,
        seed=0,
    )
    tokens = torch.randint(64, (8, 7), generator=generator)
    pooled_BD = torch.randn(8, 7, generator=generator)
    step = Batch(np.arange(8), tokens[:, :-1], tokens[:, 1:])
    mine = Batch(step.rows[rows], step.input_BT[rows], step.target_BT[rows])
    size = objective.step_size([step])
    micro_batch = MicroBatch(mine, Signals(pooled_BD=pooled_BD[rows]))
    loss, _ = objective.micro_batch_loss(student, micro_batch, size)
    (embedding_grad,) = torch.autograd.grad(loss, list(student.parameters()))
    return loss.detach(), embedding_grad


def work(rank: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS
    )
    rows = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
    found = {
        "right": share(rows, gather_with_gradient),
        "wrong": share(rows, plain_gather),
        "objective": objective_share(slice(4 * rank, 4 * rank + 4)),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, ...]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(  # pyright: ignore[reportPrivateImportUsage]
        work, (str(folder),), nprocs=RANKS
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def test_shares_of_two_ranks_add_up_to_the_loss_and_gradients_of_one_process(ranks: Any):
    loss, state_grad, weight_grad = share(slice(None), gather_with_gradient)
    found = [rank["right"] for rank in ranks]
    torch.testing.assert_close(sum(part[0] for part in found), loss)
    torch.testing.assert_close(torch.cat([part[1] for part in found]), state_grad)
    torch.testing.assert_close(sum(part[2] for part in found), weight_grad)


def test_a_gather_without_gradient_has_the_loss_and_half_of_what_the_rows_should_learn(ranks: Any):
    loss, state_grad, weight_grad = share(slice(None), gather_with_gradient)
    found = [rank["wrong"] for rank in ranks]
    torch.testing.assert_close(sum(part[0] for part in found), loss)
    torch.testing.assert_close(torch.cat([part[1] for part in found]), state_grad / RANKS)
    assert not torch.allclose(found[0][2] + found[1][2], weight_grad)


def test_a_group_that_spans_ranks_gives_the_step_s_loss_and_gradient_in_the_objective(ranks: Any):
    expected = objective_share(slice(0, 8))
    for place, whole in enumerate(expected):
        total = sum(rank["objective"][place] for rank in ranks)
        torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-7)
    assert expected[0] > 0 and expected[1].any()


def test_alone_a_process_gathers_the_very_tensor_it_has():
    embedding_BD = torch.ones(2, 3)
    assert gather_with_gradient(embedding_BD) is embedding_BD and num_ranks() == 1
