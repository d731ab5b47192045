"""Environments of their own: what an installed kdwatts has around it, and nothing else."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def environment(folder: Path, packages: Path) -> Path:
    """The interpreter of a new environment that finds what lies in `packages`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "around.pth").write_text(f"{packages}\n")
    return folder / "bin" / "python"


def here() -> Path:
    """Where the packages of the running interpreter lie, kdwatts itself not among them.

    A `.pth` file, such as that of an editable kdwatts, counts only in the environment's own folder.
    """
    return Path(importlib.metadata.distribution("pandas").locate_file("")).resolve()


def only(names: Iterable[str], folder: Path) -> Path:
    """A folder of links to these distributions and to what they need, as pip would choose it."""
    folder.mkdir()
    waiting, linked = list(names), set()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in linked:
            continue
        linked.add(name)
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            top = folder / file.parts[0]
            if file.parts[0] not in {"..", "__pycache__"} and not top.is_symlink():
                top.symlink_to(distribution.locate_file(file.parts[0]))
        for line in distribution.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return folder


def build(kind: str, out_dir: Path, source: Path = ROOT) -> Path:
    """The one file of that kind, `sdist` or `wheel`, that is built of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out_dir)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = (path for path in out_dir.iterdir() if path.suffix in {".whl", ".gz"})
    return built


def install(python: Path, wheel: Path) -> None:
    """What `pip install --no-deps` makes of a wheel."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    command = [*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)


def run(python: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a user of that environment sees who types this in `cwd`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments], cwd=cwd, env=kept, capture_output=True, text=True
    )
