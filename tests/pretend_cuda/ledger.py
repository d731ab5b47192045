"""What the pretended device notes of the code that uses it, and at which line."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OWN = str(Path(__file__).resolve().parents[2] / "kdwatts") + "/"
LIBRARIES = ("/transformers/", "/peft/", "/torch/optim/", "/torch/nn/utils/")
"""Their lines are named beside the line of ours that called them."""


@dataclass
class Ledger:
    """Counts by what was done and where, while something is counted."""

    synchronisations: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kind and place. The host waits there until the device has done all its work."""
    float64: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Operation, shape and place of tensors that were computed in float64 on the device."""
    attention: Counter[tuple[tuple[str, Any], ...]] = field(default_factory=Counter)
    """How scaled_dot_product_attention was called, as pairs of name and value."""
    operations: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            "synchronisations": [[*key, count] for key, count in self.synchronisations.items()],
            "float64": [[*key, count] for key, count in self.float64.items()],
            "attention": [{**dict(key), "count": n} for key, n in self.attention.items()],
            "operations": dict(self.operations),
        }


_open: list[Ledger] = []
_current = Ledger()


def fresh() -> Ledger:
    """A new ledger, into which `counted` counts from now on."""
    global _current
    _current = Ledger()
    return _current


@contextmanager
def counted() -> Iterator[Ledger]:
    """Count what is done inside. What is done outside, such as a step before, is not counted."""
    _open.append(_current)
    try:
        yield _current
    finally:
        _open.pop()


def note(kind: str, key: Any) -> None:
    """Add one to the counter `kind` of the ledger, if anything is counted now."""
    if _open:
        getattr(_open[-1], kind)[key] += 1


def is_counting() -> bool:
    return bool(_open)


def synchronised(kind: str) -> None:
    if _open:
        note("synchronisations", (kind, place()))


def place() -> str:
    """The innermost line of kdwatts that is running, after the line of a library that it called.

    `backward` stands for what autograd runs by itself, `test` for what no line of kdwatts began.
    """
    library, frame = "", sys._getframe(1)
    while frame is not None:
        name, line = frame.f_code.co_filename, frame.f_lineno
        if name.startswith(OWN):
            return library + f"kdwatts/{name.removeprefix(OWN)}:{line}"
        if not library and any(part in name for part in LIBRARIES):
            library = f"{name.rpartition('site-packages/')[2]}:{line} < "
        frame = frame.f_back
    # Autograd computes for a CUDA device in a thread of its own.
    is_main = threading.current_thread() is threading.main_thread()
    return library + ("test" if is_main else "backward")
