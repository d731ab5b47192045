"""What a term on hidden states is, and a check that its gradient reaches the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from kdwatts.config.paradigm import Feature, Relational
from kdwatts.data.packing import Batch
from kdwatts.training.micro_batch import MicroBatch

FINAL = "final"
"""The state after the final norm. A term that captures nothing compares it."""

States = Mapping[Any, Tensor]
"""What a term compares of the student, by the term's own keys."""


class StateTerm(Protocol):
    """A term: its settings and three functions."""

    name: ClassVar[str]
    """The name of the loss in train.jsonl."""

    @property
    def settings(self) -> Feature | Relational:
        """The term's group of the paradigm, with the weight of its loss."""
        ...

    def captured(self, student: nn.Module) -> AbstractContextManager[States]:
        """A context whose dictionary gets the states to compare while the student runs."""
        ...

    def count(self, batch: Batch) -> int:
        """What this batch adds to the count of the whole step, by which the loss is divided."""
        ...

    def loss(self, states: States, micro_batch: MicroBatch, count: int) -> Tensor:
        """The micro-batch's share of the step's loss, a scalar, without the term's weight."""
        ...


def captures_nothing(student: nn.Module) -> AbstractContextManager[States]:
    """`captured` of a term that compares the state after the final norm."""
    return nullcontext({})


def check_gradient_reaches(states: Sequence[Tensor], loss: Tensor, *, name: str) -> None:
    """Raise ValueError unless a gradient of the loss, a scalar, reaches each state it compares.

    Otherwise the student would learn from the other terms alone, while the log shows this one.
    """
    trained = [state for state in states if state.requires_grad]
    num_reached = _num_reached(trained, loss)
    if not trained or num_reached < len(trained):
        raise ValueError(
            f"{name} gives a gradient to {num_reached} of the {len(states)} states of the student "
            "that it compares, so the others would learn nothing from it; do not detach the "
            "student's states in its functions"
        )


def _num_reached(states: Sequence[Tensor], loss: Tensor) -> int:
    """How many of the states a gradient of `loss` arrives at; nothing is computed for it.

    One that comes to a state through another one does not count.
    """
    goals = [state.grad_fn for state in states]
    ahead, seen = [loss.grad_fn], set[Any]()
    while ahead:
        step = ahead.pop()
        if step is not None and step not in seen:
            seen.add(step)
            if step not in goals:
                ahead.extend(before for before, _ in step.next_functions)
    return sum(goal in seen for goal in goals)
