"""The fast tests with the oldest torch and transformers, where `make oldest` has installed them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PINS = REPOSITORY / "tests" / "oldest.txt"
TESTED = ("losses", "models", "teacher", "training", "evaluation", "gpu")


def python() -> str:
    """The interpreter that KDWATTS_OLDEST_PYTHON names, or that of build/oldest."""
    named = os.environ.get("KDWATTS_OLDEST_PYTHON")
    found = Path(named) if named else REPOSITORY / "build" / "oldest" / "bin" / "python"
    if not named and not found.is_file():
        pytest.skip("the oldest versions are not installed; `make oldest` installs them")
    return str(found.absolute())


def pinned(package: str) -> str:
    lines = PINS.read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


@pytest.mark.slow
def test_losses_models_teacher_and_training_work_with_the_oldest_versions():
    oldest, asked = python(), ("torch", "transformers")
    code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    told = subprocess.run(
        [oldest, "-c", code, *asked], capture_output=True, text=True, check=True
    ).stdout
    found = [version.partition("+")[0] for version in told.split()]
    assert found == [pinned(package) for package in asked]
    folders = [f"tests/{name}" for name in TESTED]
    done = subprocess.run(
        [oldest, "-m", "pytest", "-m", "not slow and not gpu", "-p", "no:cacheprovider", *folders],
        cwd=REPOSITORY,
    )
    assert done.returncode == 0


def test_the_oldest_versions_are_the_bounds_of_the_package():
    text = (REPOSITORY / "pyproject.toml").read_text()
    for package in ("torch", "transformers", "triton"):
        release = ".".join(pinned(package).split(".")[:2])
        assert re.search(rf'"{package}>={re.escape(release)}[";]', text)
