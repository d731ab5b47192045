"""Cases on the pretended device, run in one process of their own, and what was noted of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pretend_cuda.guard import guard_library

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Trace:
    """What one case returned, and what was noted of it inside `ledger.counted()`."""

    value: Any
    """What the case's function returned, as JSON."""
    synchronisations: dict[tuple[str, str], int]
    """Count by kind and place."""
    float64: dict[tuple[str, str, str], int]
    """Count of float64 tensors by operation, shape and place."""
    attention: list[dict[str, Any]]
    """How attention was called, with the count of such calls."""
    operations: dict[str, int]

    @property
    def num_synchronisations(self) -> int:
        return sum(self.synchronisations.values())


def traces(cases: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, Trace | str]:
    """The trace of every case, or the traceback of one that raised.

    A case is "module:function" with the function's arguments, which are JSON, as is what it
    returns. Inside the function `torch.device("cuda")` works. A process takes seconds to import
    torch and transformers, so give many cases at once. The test is skipped where there is no g++.
    """
    known = {
        name: {"function": function, "arguments": dict(arguments)}
        for name, (function, arguments) in cases.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.json")
        command = [sys.executable, "-m", "tests.pretend_cuda", str(guard_library()), str(results)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            input=json.dumps(known),
            text=True,
            capture_output=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        rows = json.loads(results.read_text())
    return {name: row["error"] or _trace(row) for name, row in rows.items()}


def trace(function: str, **arguments: Any) -> Trace:
    """The trace of one case."""
    (found,) = traces({"case": (function, arguments)}).values()
    assert isinstance(found, Trace), found
    return found


def _trace(row: dict[str, Any]) -> Trace:
    return Trace(
        value=row["value"],
        synchronisations={(kind, place): n for kind, place, n in row["synchronisations"]},
        float64={(name, shape, place): n for name, shape, place, n in row["float64"]},
        attention=row["attention"],
        operations=row["operations"],
    )
