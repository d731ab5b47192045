"""Numbers that are not finite are told at their first step, with what helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdwatts.config.paradigm import CrossEntropy, Paradigm, Relational, Response
from kdwatts.teacher.signals import Signals, compute_signals, signal_plan, sparse_logits, worst
from kdwatts.training.finite import TEACHER, FirstNotFinite, check_weights, not_finite
from kdwatts.training.train_log import step_figures
from tests.training.pair import VOCABULARY, llama, make_batch


@pytest.fixture
def settings(configure: Callable[..., Any]) -> Any:
    return configure("training=smoke", "training.learning_rate=0.5").training


def numbers(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_the_first_step_and_there_the_first_number_is_told_however_late_one_asks(settings: Any):
    firsts = FirstNotFinite()
    assert firsts.earliest() is None
    firsts.look(1, numbers(term=1.0, loss=2.0, norm=3.0))
    firsts.refuse(settings)
    firsts.look(2, numbers(term=1.0, loss=float("inf"), norm=float("nan")))
    firsts.look(3, numbers(term=float("nan"), loss=float("nan"), norm=float("nan")))
    assert firsts.earliest() == ("loss", 2)
    with pytest.raises(RuntimeError, match=r"loss is not finite .* at step 2: .*_rate=0\.5$"):
        firsts.refuse(settings)


def test_the_learning_rate_is_no_remedy_for_what_was_not_finite_before_the_first_step(
    settings: Any, configure: Callable[..., Any]
):
    half = configure("training=smoke", "training.precision=bf16").training
    diverged, at_first, taught = (
        lambda s, name=name, moved=moved: not_finite(name, 1, s, has_moved=moved)
        for name, moved in (("the loss", True), ("the loss", False), (TEACHER, True))
    )
    assert "lower training.learning_rate=0.5" in diverged(settings)
    assert all("learning_rate" not in tell(settings) for tell in (at_first, taught))
    assert "check the files of model.teacher" in taught(settings)
    assert all("precision" not in tell(settings) for tell in (diverged, at_first, taught))
    assert diverged(half).endswith(" or use training.precision=fp32")


def test_weights_that_a_step_made_infinite_are_refused(settings: Any):
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    check_weights([layer, other], 7, settings)
    with torch.no_grad():
        other.weight[1, 0] = torch.inf
    with pytest.raises(
        RuntimeError, match=r"a trained weight is not finite .* at step 7: the trai"
    ):
        check_weights([layer, other], 7, settings)


PARADIGMS = {
    "top_k": Paradigm("x", response=Response(k=4)),
    "sampled": Paradigm("x", response=Response(support="sampled", num_samples=4)),
    "dense": Paradigm("x", teacher="online", response=Response(support="dense")),
    "sequence": Paradigm("x", ce=CrossEntropy(), relational=Relational(group_size=4)),
    "token": Paradigm("x", ce=CrossEntropy(), relational=Relational(level="token", tokens=3)),
    "attention": Paradigm(
        "x", teacher="online", ce=CrossEntropy(), relational=Relational(level="attention")
    ),
}


@pytest.mark.parametrize("name", PARADIGMS)
def test_a_teacher_that_says_nan_is_told_by_every_kind_of_signal(name: str):
    """One weight of the last block's first layer, NaN as in a damaged file."""
    teacher, batch = (
        llama(1, vocabulary=VOCABULARY, width=24, num_layers=3, tied=False),
        make_batch(),
    )
    plan = signal_plan(PARADIGMS[name], [], VOCABULARY)
    for damage, is_damaged in ((0.0, False), (float("nan"), True)):
        with torch.no_grad():
            teacher.model.layers[1].mlp.down_proj.weight[0, 0] = damage
        signals = compute_signals(teacher.eval(), batch.input_BT, plan, rows=batch.rows)
        assert bool(worst(signals).isnan()) is is_damaged


def test_a_log_probability_of_no_mass_is_no_damage():
    """Logits of minus infinity forbid tokens; their tail is empty."""
    logits = torch.full((2, 8), -torch.inf)
    logits[:, :4] = 0.0
    sparse = sparse_logits(logits, k=4, temperatures=(1.0,))
    assert sparse.log_tail_NM.isneginf().all()
    assert worst(Signals(sparse=sparse)) == 0


@pytest.mark.parametrize("tokens", [0, 100])
def test_the_line_of_steps_that_bear_no_target_leaves_out_joules_a_token(tokens: int):
    line = step_figures(0.0, tokens, elapsed_s=2.0, energy_j=5.0, power_w=None)
    assert line.startswith(f"loss 0.000, {tokens // 2} tokens/s")
    assert ("50 mJ/token" in line) is bool(tokens)
