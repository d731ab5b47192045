"""A package as pip leaves it in a folder of `sys.path`: modules beside the metadata of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

Groups = Mapping[str, Mapping[str, str]]
"""Group of entry points to name to what it stands for, as `module:function`."""


def install(folder: Path, package: str, groups: Groups, modules: Mapping[str, str]) -> None:
    """Write a package's modules, name to source, and its metadata into the folder."""
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    metadata = folder / f"{package.replace('-', '_')}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
