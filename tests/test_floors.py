"""The house has floors: a room imports only rooms below it, its own, and what the floor allows."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

FLOORS = (
    (
        "paths",
        "chunks",
        "streams",
        "fingerprint",
        "grid",
        "records",
        "interrupt",
        "jobs",
        "launch",
        "store",
        "code",
    ),
    ("schema",),
    ("config", "metrics"),
    ("telemetry",),
    ("artifact", "hardware", "manifest", "losses", "data", "models"),
    ("teacher",),
    ("training", "evaluation"),
    ("stages",),
    ("nodes", "pipeline"),
    ("planning",),
    (
        *("prefetch", "guards", "overrides", "effects", "preflight", "refusal", "folders"),
        *("sweep", "sbatch", "ledger", "submit", "cli", "__main__"),
    ),
)
"""Lowest first. A package is a room of its own; the modules of one floor share a room."""

STAND_ALONE = "tiny"
"""A tool that rebuilds the shipped world; it reads only where that lies."""

HEAVY = ("torch", "transformers", "lm_eval", "safetensors.torch", "accelerate", "peft", "datasets")
"""Libraries that cost seconds to import: not at the top of a file outside these rooms."""
MAY_LOAD_TORCH = {"losses", "data", "models", "teacher", "training", "evaluation", "stages"}

OPEN_ROOMS = (
    "paths",
    "streams",
    "grid",
    "records",
    "metrics",
    "telemetry.energy",
    "telemetry.parts",
    "telemetry.recover",
)
"""What the analysis may import of kdwatts: records, and the formulas over them, so that one
integration makes the energies of live and of imported runs."""

FILES = sorted((REPOSITORY / "kdwatts").rglob("*.py"))
ANALYSIS = sorted((REPOSITORY / "multirun_analysis").rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _room(path: Path) -> str:
    return path.relative_to(REPOSITORY / "kdwatts").parts[0].removesuffix(".py")


def _imports(path: Path, *, at_top_only: bool = False) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, also those inside functions."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body if at_top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}:{node.lineno} imports relatively"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def _rooms_imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of kdwatts; its own names, such as __version__, are no room."""
    for line, name in _imports(path):
        package, _, rest = name.partition(".")
        if package == "kdwatts" and rest != "__version__":
            yield line, rest.partition(".")[0]


def _is_heavy(name: str) -> bool:
    return f"{name}.".startswith(tuple(f"{heavy}." for heavy in HEAVY))


def _floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_of_the_package_is_on_a_floor():
    rooms = {_room(path) for path in FILES} - {"__init__", STAND_ALONE}
    assert rooms == {room for rooms in FLOORS for room in rooms}


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_imports_only_its_own_room_and_rooms_below(path: Path):
    room = _room(path)
    for line, imported in _rooms_imported(path):
        where = f"{_name(path)}:{line} imports kdwatts.{imported}"
        if room == STAND_ALONE:
            assert imported == "paths", f"{where}, the tool may import kdwatts.runtime.paths alone"
            continue
        here, there = _floor(room), _floor(imported)
        assert there <= here, f"{where} from floor {here}, that is floor {there}"
        packages = (
            (REPOSITORY / "kdwatts" / room).is_dir(),
            (REPOSITORY / "kdwatts" / imported).is_dir(),
        )
        shares_room = room == imported or not any(packages)
        assert there < here or shares_room, f"{where}, another room on floor {here}"


def test_modules_that_share_a_floor_do_not_import_each_other_in_a_circle():
    below: dict[str, set[str]] = {}
    for path in FILES:
        below.setdefault(_room(path), set()).update(room for _, room in _rooms_imported(path))
    done: set[str] = set()
    while ready := {room for room in below if room not in done and below[room] <= done | {room}}:
        done |= ready
    assert done == set(below), f"in a circle: {sorted(set(below) - done)}"


@pytest.mark.parametrize("room", FLOORS[0])
def test_the_ground_floor_stands_on_the_standard_library_alone(room: str):
    path = REPOSITORY / "kdwatts" / f"{room}.py"
    for line, name in _imports(path):
        package = name.partition(".")[0]
        known = package in sys.stdlib_module_names or package == "kdwatts"
        assert known, f"{_name(path)}:{line} imports {name}, which is not the standard library's"


@pytest.mark.parametrize(
    "path", [path for path in FILES if _room(path) not in MAY_LOAD_TORCH], ids=_name
)
def test_no_file_outside_the_model_rooms_imports_torch_when_it_is_imported(path: Path):
    for line, name in _imports(path, at_top_only=True):
        assert not _is_heavy(name), f"{_name(path)}:{line} imports {name} at its top"


@pytest.mark.parametrize("path", [p for p in FILES if _room(p) == "telemetry"], ids=_name)
def test_telemetry_never_imports_torch_not_even_inside_a_function(path: Path):
    for line, name in _imports(path):
        assert not _is_heavy(name), f"{_name(path)}:{line} imports {name}"


@pytest.mark.parametrize("path", ANALYSIS, ids=_name)
def test_the_analysis_imports_of_kdwatts_only_records_and_formulas_and_no_torch(path: Path):
    for line, name in _imports(path):
        where = f"{_name(path)}:{line} imports {name}"
        assert not _is_heavy(name), where
        if name.startswith("kdwatts"):
            assert f"{name}.".startswith(tuple(f"kdwatts.{room}." for room in OPEN_ROOMS)), where


def test_the_formulas_that_the_analysis_imports_load_no_driver_and_no_probe():
    script = (
        "import sys, kdwatts.telemetry.recover, kdwatts.telemetry.parts; "
        "print(sorted(name for name in sys.modules if name.startswith('kdwatts.telemetry.')), "
        "[name for name in ('pynvml', 'psutil', 'numpy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    rooms = [f"kdwatts.telemetry.{room}" for room in ("energy", "parts", "recover")]
    assert printed.stdout.strip() == f"{rooms} []"


def test_importing_the_package_imports_nothing_else():
    script = (
        "import sys; before = set(sys.modules); import kdwatts; print(set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "{'kdwatts'}"


@pytest.mark.parametrize("path", [*FILES, *ANALYSIS], ids=_name)
def test_no_file_is_much_longer_than_350_lines(path: Path):
    assert len(path.read_text("utf-8").splitlines()) <= 400
