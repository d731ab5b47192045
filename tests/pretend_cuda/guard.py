"""The library of `guard.cpp`, built once for each torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("guard.cpp")
CACHE_DIR = Path(__file__).resolve().parents[2] / "build" / "pretend_cuda"


def guard_library() -> Path:
    """The built library. The test is skipped where there is no g++, or where torch has CUDA."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is missing: the pretended CUDA device cannot be built")
    version, folder = importlib.metadata.version("torch"), _torch_dir()
    if (folder / "lib" / "libtorch_cuda.so").exists():
        pytest.skip("this torch has CUDA of its own: none can be pretended")
    known = f"{version} {folder} {SOURCE.read_text()}"
    path = CACHE_DIR / f"guard-{hashlib.sha256(known.encode()).hexdigest()[:16]}.so"
    if path.is_file():
        return path
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    # Other workers may build at the same time: a file gets its name when it is whole.
    with tempfile.TemporaryDirectory(dir=CACHE_DIR) as aside:
        built = Path(aside, path.name)
        include, lib = folder / "include", folder / "lib"
        subprocess.run(
            [
                *(compiler, "-O0", "-shared", "-fPIC", "-std=c++20", str(SOURCE), "-o", str(built)),
                *(f"-I{include}", f"-I{include}/torch/csrc/api/include"),
                *(f"-L{lib}", f"-Wl,-rpath,{lib}", "-ltorch_cpu", "-lc10"),
            ],
            check=True,
        )
        os.replace(built, path)
    return path


def _torch_dir() -> Path:
    """Where torch lies, which is not imported."""
    found = importlib.util.find_spec("torch")
    assert found and found.origin
    return Path(found.origin).parent
