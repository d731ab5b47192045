"""The model that a server serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServedModel:
    """A model, what it is called, and what it is served on."""

    place: str
    """Folder or hub id. Of a server that runs already it says nothing."""
    subject: str
    """student, teacher or model."""
    dtype: str
    """Numbers of the weights, such as bfloat16."""
    device_indices: tuple[int, ...] | None
    """Which of the visible GPUs serve it together, counted from 0; None for the CPU, and for a
    server that runs already."""
    max_positions: int | None
    """Tokens of the longest prompt and answer together; None where it is not known."""
