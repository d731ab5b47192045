"""Your own tasks: every file they name must be in the folder whose bytes are the key.

A file that a task's Python function opens by itself is not seen here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_HARNESS = "lm_eval"
"""Its files follow from its version, which is part of the key."""

READERS = ("arrow", "csv", "json", "parquet", "text", "xml")
"""Names in the place of a data set by which the library `datasets` reads files."""


class _Loader(yaml.SafeLoader):
    """Reads `!function module.name` as what is written and imports nothing."""


_Loader.add_constructor("!function", lambda loader, node: _Function(node.value))


class _Function(str):
    """A function that a task names."""


def check_own_tasks(folder: Path) -> None:
    """Raise ValueError for a task whose data, include or function lies outside of the folder.

    Otherwise its scores would be reused after that file had changed.
    """
    for path in sorted(folder.rglob("*.yaml")):
        for place, definition in _definitions(path, folder, path):
            kwargs = definition.get("dataset_kwargs")
            kwargs = kwargs if isinstance(kwargs, dict) else {}
            for name in ("data_files", "data_dir"):
                inside(folder, kwargs.get(name), place)
            dataset = definition.get("dataset_path")
            if isinstance(dataset, str) and dataset.startswith(("/", ".", "~")):
                inside(folder, dataset, place)
            for function in _functions(definition):
                _check_function(folder, place, function)


def inside(folder: Path, files: Any, place: Path | str) -> Any:
    """Data files of a task as paths below its folder. Addresses of a network stay as they are.

    Raises ValueError, with the `place` that names it, for a file that is not part of the key.
    """
    if isinstance(files, dict):
        return {split: inside(folder, names, place) for split, names in files.items()}
    if isinstance(files, list):
        return [inside(folder, name, place) for name in files]
    if not isinstance(files, str) or "://" in files:
        return files
    path = _normal(folder / Path(files).expanduser())
    _check_inside(folder, path, place, files)
    return str(path)


def check_data_files(folder: Path, task: str, definition: dict[str, Any]) -> None:
    """Raise ValueError for a data file that a task of the folder names and that is not there.

    `definition` is what its YAML file says, with what that includes. Patterns, addresses of a
    network and files of a data set on a hub are left to the harness.
    """
    kwargs = definition.get("dataset_kwargs")
    if definition.get("dataset_path") not in READERS or not isinstance(kwargs, dict):
        return
    for name in _names(kwargs.get("data_files")):
        if "://" in name or any(sign in name for sign in "*?["):
            continue
        path = inside(folder, name, task)
        if not Path(path).is_file():
            raise ValueError(
                f"eval.tasks_dir={folder}: {task} names the data file {name}, and there is no "
                f"{path}; a name begins in eval.tasks_dir"
            )


def _names(files: Any) -> Iterator[str]:
    if isinstance(files, str):
        yield files
    elif isinstance(files, dict | list):
        for part in files.values() if isinstance(files, dict) else files:
            yield from _names(part)


def _definitions(
    path: Path, folder: Path, place: Path, above: tuple[Path, ...] = ()
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What a YAML file says, and each file that it includes, with the file that says it.

    `above` are the files that led here: two may include each other.
    """
    try:
        definition = yaml.load(path.read_bytes(), Loader=_Loader)
    except (OSError, yaml.YAMLError):
        return  # The harness passes over it, and reports its task as unknown.
    if not isinstance(definition, dict):
        return
    yield place, definition
    included = definition.get("include") or []
    for name in included if isinstance(included, list) else [included]:
        found = _normal(path.parent / str(name))
        if _is_of_harness(found):
            continue
        _check_inside(folder, found, place, str(name))
        led = (*above, _normal(path))
        if found not in led:
            yield from _definitions(found, folder, found, led)


def _functions(value: Any) -> Iterator[str]:
    if isinstance(value, _Function):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _functions(part)


def _check_function(folder: Path, place: Path, function: str) -> None:
    """Raise ValueError unless the function is of a file of the folder, or of the harness."""
    module = function.rpartition(".")[0]
    if module.split(".")[0] == _HARNESS:
        return
    path = _normal(place.parent / f"{module.replace('.', os.sep)}.py")
    if not path.is_file():
        raise ValueError(
            f"eval.tasks_dir={folder}: {place} names the function {function} of a module that is "
            "not beside it, so a change in its code would not change the key; put the module "
            "beside it"
        )
    _check_inside(folder, path, place, function)


def _check_inside(folder: Path, path: Path, place: Path | str, name: str) -> None:
    within = _normal(folder)
    parts = path.relative_to(within).parts if path.is_relative_to(within) else (os.pardir,)
    if any(part.startswith((".", "__pycache__")) for part in parts):
        raise ValueError(
            f"eval.tasks_dir={folder}: {place} names {name}, which lies outside of that folder or "
            "is hidden in it, so a change in it would not change the key; put it into the folder"
        )


def _normal(path: Path) -> Path:
    """An absolute path without `..`; links stay, for what they lead to is hashed in their place."""
    return Path(os.path.abspath(path))


def _is_of_harness(path: Path) -> bool:
    from importlib.util import find_spec

    found = find_spec(_HARNESS)
    folders = (found.submodule_search_locations or []) if found else []
    return any(path.is_relative_to(_normal(Path(folder))) for folder in folders)
