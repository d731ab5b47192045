"""A term of hidden states reaches the student, or is refused by name."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdwatts.config.paradigm import CrossEntropy, Feature, Paradigm, Relational
from kdwatts.losses.feature import DISTANCES
from kdwatts.training.projectors import PROJECTORS
from kdwatts.training.terms import attention_term, relational_term
from tests.training.pair import make_batch, make_objective, share

CE = CrossEntropy(0.3)
FEATURE = Paradigm("feature", ce=CE, feature=Feature(0.6))


class Detached(nn.Module):
    """A projector that is trained and tells the student nothing."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(student_width, teacher_width)

    def forward(self, state: Tensor) -> Tensor:
        return self.linear(state.detach())


def lost(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    return (student_ND.detach() - teacher_ND).square().mean(-1)


def test_a_distance_that_detaches_the_student_is_refused(
    student: Any, teacher: Any, monkeypatch: pytest.MonkeyPatch
):
    objective = make_objective(FEATURE, teacher)
    monkeypatch.setitem(DISTANCES, "normalized_mse", lost)
    with pytest.raises(ValueError, match=r"^feature gives a gradient to 0 of the 2 states of the"):
        share(objective, student, teacher, make_batch())


def test_a_projector_that_learns_alone_is_refused(
    student: Any, teacher: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(PROJECTORS, "linear", Detached)
    with pytest.raises(ValueError, match=r"^feature gives a gradient to 0 of the 2 states of the"):
        share(make_objective(FEATURE, teacher), student, teacher, make_batch())


def test_a_pair_that_is_lost_is_refused_though_it_lies_below_one_that_is_not(
    student: Any, teacher: Any, monkeypatch: pytest.MonkeyPatch
):
    objective = make_objective(FEATURE, teacher)
    objective.projectors[0] = Detached(16, 24)
    with pytest.raises(ValueError, match=r"^feature gives a gradient to 1 of the 2 states of the"):
        share(objective, student, teacher, make_batch())


def test_a_distance_that_is_not_one_number_a_position_is_refused(
    student: Any, teacher: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(DISTANCES, "normalized_mse", lambda one, other: (one - other).square())
    message = r"feature.distance=normalized_mse returns \(40, 24\) for 40 positions; return one"
    with pytest.raises(ValueError, match=message):
        share(make_objective(FEATURE, teacher), student, teacher, make_batch())


@pytest.mark.parametrize(
    ("relational", "module", "function", "name"),
    [
        (Relational(group_size=4), relational_term, "relational_loss", "relational"),
        (Relational(level="token", tokens=4), relational_term, "group_loss", "relational"),
        (
            Relational(level="attention", relation_heads=2),
            attention_term,
            "attention_loss",
            "attention_nats",
        ),
    ],
)
def test_a_relational_term_that_detaches_the_student_is_refused(
    relational: Relational,
    module: ModuleType,
    function: str,
    name: str,
    student: Any,
    teacher: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    objective = make_objective(Paradigm("relational", ce=CE, relational=relational), teacher)
    shipped = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *args, **kw: shipped(*args, **kw).detach())
    with pytest.raises(ValueError, match=f"^{name} gives a gradient to 0 of the "):
        share(objective, student, teacher, make_batch())


def test_a_student_of_which_nothing_is_trained_is_refused_by_its_feature_term(
    student: Any, teacher: Any
):
    objective = make_objective(FEATURE, teacher)
    student.requires_grad_(False)
    with pytest.raises(ValueError, match=r"^feature gives a gradient to 0 of the 2 states of the"):
        share(objective, student, teacher, make_batch())


def test_held_out_losses_of_such_a_term_are_read(
    student: Any, teacher: Any, monkeypatch: pytest.MonkeyPatch
):
    objective = make_objective(FEATURE, teacher)
    monkeypatch.setitem(DISTANCES, "normalized_mse", lost)
    with torch.no_grad():
        _, parts = share(objective, student, teacher, make_batch())
    assert parts["feature"] > 0
