"""Runs cases on the pretended device: `python -m tests.pretend_cuda GUARD RESULTS`, cases on stdin.

A case is a function of some module and its arguments. One that raises leaves the others alone.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.pretend_cuda.install import install


def main() -> None:
    guard, results = map(Path, sys.argv[1:])
    cases = json.load(sys.stdin)
    install(guard)
    results.write_text(json.dumps({name: _run(**case) for name, case in cases.items()}))


def _run(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from tests.pretend_cuda import ledger
    from tests.pretend_cuda.tensor import Pretended

    module, _, name = function.partition(":")
    noted, value, error = ledger.fresh(), None, None
    try:
        with Pretended():
            value = getattr(importlib.import_module(module), name)(**arguments)
    except Exception:
        error = traceback.format_exc()
    return {"value": value, "error": error, **noted.as_json()}


if __name__ == "__main__":
    main()
