"""An interpreter in whose environment vLLM is a small server with faults on demand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

STAND_IN = Path(__file__).with_name("stand_in")


@pytest.fixture(autouse=True)
def no_settings_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variables are in the records, and those of the tests' own machine decide nothing."""
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def stand_in_python(tmp_path: Path) -> str:
    """Path of the interpreter."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{STAND_IN}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def serve(stand_in_python: str, tmp_path: Path) -> Callable[..., AbstractContextManager[Any]]:
    """Runs the stand-in with the given flags; keywords change the settings."""
    from kdwatts.config.serving import Serving, Vllm
    from kdwatts.serving.engines.served_model import ServedModel
    from kdwatts.serving.engines.starting import running

    def run(*flags: str, **changes: Any) -> AbstractContextManager[Any]:
        settings = Serving(
            engine="vllm", vllm=Vllm(python=stand_in_python, flags=list(flags)), **changes
        )
        model = ServedModel("somebody/model", "student", "float32", None, 512)
        return running(settings, model, log_path=tmp_path / "server.log")

    return run
