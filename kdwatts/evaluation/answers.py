"""Refuse logits and scores that are not finite: a harness turns NaN into an ordinary score."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


class NotFinite(RuntimeError):
    """A model whose logits are not finite: no answer of it means anything."""


def refuse_not_finite(served: Any, *, subject: str) -> None:
    """Make an HFLM raise NotFinite, which names the subject, when a logit of an answer is NaN.

    With NaN the likeliest choice is the first one, and the likeliest token has the first id. The
    scores would look like guessing, with a standard error.
    """
    read, write = served._loglikelihood_tokens, served._model_generate

    def checked_read(*arguments: Any, **options: Any) -> Any:
        answers = read(*arguments, **options)
        if not all(math.isfinite(nats) for nats, _ in answers):
            raise NotFinite(_refusal(subject))
        return answers

    def checked_write(*arguments: Any, **options: Any) -> Any:
        with finite_logits(served.model, subject):
            return write(*arguments, **options)

    served._loglikelihood_tokens, served._model_generate = checked_read, checked_write


@contextmanager
def finite_logits(model: nn.Module, subject: str) -> Iterator[None]:
    """A context that raises NotFinite at its end if a token came from logits that are not finite.

    The device is waited for once, at the end.
    """
    finite: list[Tensor] = []
    hook = model.register_forward_hook(
        lambda module, inputs, said: finite.append(said.logits[:, -1].amax(-1).isfinite().all())
    )
    try:
        yield
    finally:
        hook.remove()
    if finite and not torch.stack(finite).all():
        raise NotFinite(_refusal(subject))


def _refusal(subject: str) -> str:
    return (
        f"the {subject}'s logits are not finite (NaN or infinite), so it cannot be scored; its "
        f"weights may be damaged: check the {subject}'s files"
    )


def finite_or_none(value: float, *, subject: str, task: str, metric: str) -> float | None:
    """The value as a score. None where it is no number, which is logged; other scores are kept."""
    if math.isfinite(value):
        return float(value)
    log.warning(
        "evaluate: %s of %s is %s for the %s, which is not a score; it is left empty",
        metric,
        task,
        value,
        subject,
    )
    return None


def finite_error(stderr: Any) -> float | None:
    """A standard error. None where the harness has none, for which it has several words."""
    known = isinstance(stderr, int | float) and math.isfinite(stderr)
    return float(stderr) if known else None
