"""The replaying NVML library, and a store whose rename is not atomic."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.telemetry.conftest import start_script  # noqa: F401


@pytest.fixture(scope="session")
def bad_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for LD_PRELOAD of bad_store.c."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing: the library of a bad store cannot be built")
    library = tmp_path_factory.mktemp("bad") / "bad_store.so"
    source = Path(__file__).with_name("bad_store.c")
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(source), "-ldl"], check=True)
    return library
