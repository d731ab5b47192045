"""The house has floors: a room imports only rooms below it, its own, and what the floor allows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

FLOORS = {
    "kdwatts": (
        ("runtime", "metrics"),
        ("records", "traffic"),
        ("config",),
        ("telemetry",),
        ("artifacts", "losses", "data", "models"),
        ("memory", "teacher"),
        ("training", "evaluation", "serving"),
        ("stages",),
        ("pipeline",),
        ("planning",),
        ("cli", "tools"),
        ("doctor",),
        ("__main__",),
    ),
    "multirun_analysis": (
        ("values",),
        ("statistics", "importer"),
        ("collect",),
        ("figures",),
        ("narrative",),
        ("report",),
        ("commands",),
        ("__main__",),
    ),
}
"""Lowest first. A room is a folder, or one of the few files that lie loose."""

HEAVY = ("torch", "transformers", "lm_eval", "safetensors.torch", "accelerate", "peft", "datasets")
"""Libraries that cost seconds to import: not at the top of a file outside these rooms."""
MAY_LOAD_TORCH = {
    "losses",
    "data",
    "models",
    "teacher",
    "training",
    "evaluation",
    "serving",
    "stages",
    "doctor",
}

OPEN_ROOMS = (
    "runtime.paths",
    "runtime.slurm_jobs",
    "runtime.streams",
    "records",
    "metrics",
    "traffic",
    "telemetry.readings",
    "telemetry.integration",
    "telemetry.energy",
    "telemetry.parts",
    "telemetry.recover",
)
"""What the analysis may import of kdwatts: records, and the formulas over them, so that one
integration makes the energies of live and of imported runs."""

BELOW_STAGES = ("telemetry", "losses", "data", "models", "memory", "teacher")
BELOW_STAGES += ("training", "evaluation", "serving")
"""Rooms that take the group of settings which they need, never the whole experiment."""

FILES = sorted((REPOSITORY / "kdwatts").rglob("*.py"))
ANALYSIS = sorted((REPOSITORY / "multirun_analysis").rglob("*.py"))
BOTH = [*FILES, *ANALYSIS]


def _name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _room(path: Path) -> str:
    """The folder of a file below its package, or the file that lies loose there."""
    return path.relative_to(REPOSITORY).parts[1].removesuffix(".py")


def _package(path: Path) -> str:
    return path.relative_to(REPOSITORY).parts[0]


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


def _lines_for_types(path: Path) -> set[int]:
    """The lines below `if TYPE_CHECKING:`, which no program runs."""
    below = [
        statement.lineno
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
    ]
    return set(below)


def _imports_of(paths: Iterable[Path], *, at_top_only: bool = False) -> Iterator[tuple[str, str]]:
    """Where each import of the files stands, as `file:line`, and what it names."""
    for path in paths:
        for line, name in _imports(path, at_top_only=at_top_only):
            yield f"{_name(path)}:{line}", name


def _rooms_imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of the file's own package; `__version__` is no room."""
    for line, name in _imports(path):
        package, _, rest = name.partition(".")
        if package == _package(path) and rest != "__version__":
            yield line, rest.partition(".")[0]


def _is_heavy(name: str) -> bool:
    return f"{name}.".startswith(tuple(f"{heavy}." for heavy in HEAVY))


def _floor(package: str, room: str) -> int:
    floors = FLOORS[package]
    return next(number for number, rooms in enumerate(floors) if room in rooms)


def test_every_room_of_a_package_is_on_a_floor():
    rooms = {(_package(path), _room(path)) for path in BOTH if _room(path) != "__init__"}
    assert rooms == {
        (package, room) for package, floors in FLOORS.items() for rooms in floors for room in rooms
    }


def test_a_file_imports_only_its_own_room_and_rooms_below():
    upward = [
        f"{_name(path)}:{line} imports {imported}"
        for path in BOTH
        for line, imported in _rooms_imported(path)
        if imported != _room(path)
        and _floor(_package(path), imported) >= _floor(_package(path), _room(path))
    ]
    assert upward == []


def test_only_the_pipeline_and_the_beginning_lie_loose():
    loose = [_name(path) for path in BOTH if len(path.relative_to(REPOSITORY).parts) == 2]
    assert loose == [
        *("kdwatts/__init__.py", "kdwatts/__main__.py", "kdwatts/pipeline.py"),
        *("multirun_analysis/__init__.py", "multirun_analysis/__main__.py"),
    ]


def test_the_name_of_a_file_says_what_is_in_it_without_its_folder():
    """Of a stage and the room that does its work one file each may bear the name of both."""
    outside = [path for path in BOTH if _room(path) != "stages" and not path.stem.startswith("__")]
    names = Counter(path.stem for path in outside)
    assert [name for name, count in names.items() if count > 1] == []


def test_the_pages_about_the_code_name_only_files_that_exist():
    docs = REPOSITORY / "docs"
    pages = [docs / "architecture.md", *docs.glob("explanation/*.md")]
    named = [
        name for page in pages for name in re.findall(r"`([\w/]+\.py)`", page.read_text("utf-8"))
    ]
    files = [f"/{_name(path)}" for path in (*BOTH, *REPOSITORY.glob("*/*.py"))]
    assert len(named) > 20
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []


def test_nothing_below_the_stages_takes_the_whole_experiment():
    whole = ("kdwatts.config.experiment", "kdwatts.config.checks")
    below = [path for path in FILES if _room(path) in BELOW_STAGES]
    found = [f"{where} {name}" for where, name in _imports_of(below) if name.startswith(whole)]
    assert found == []


def test_the_ground_floor_stands_on_the_standard_library_alone():
    ground = [path for path in FILES if _room(path) in ("runtime", "records")]
    known = {*sys.stdlib_module_names, "kdwatts"}
    found = [
        f"{_name(path)}:{line} {name}"
        for path in ground
        for line, name in _imports(path)
        if name.partition(".")[0] not in known and line not in _lines_for_types(path)
    ]
    assert found == []


def test_fewer_than_40_arrows_join_the_rooms_of_the_analysis():
    arrows = {(_room(path), room) for path in ANALYSIS for _, room in _rooms_imported(path)}
    assert len({(here, there) for here, there in arrows if here != there}) < 40


def test_no_file_outside_the_model_rooms_imports_torch_when_it_is_imported():
    light = [path for path in FILES if _room(path) not in MAY_LOAD_TORCH]
    imports = _imports_of(light, at_top_only=True)
    assert [f"{where} {name}" for where, name in imports if _is_heavy(name)] == []


def test_telemetry_never_imports_torch_not_even_inside_a_function():
    telemetry = [path for path in FILES if _room(path) == "telemetry"]
    found = [f"{where} {name}" for where, name in _imports_of(telemetry) if _is_heavy(name)]
    assert found == []


def test_the_analysis_imports_no_torch():
    found = [f"{where} {name}" for where, name in _imports_of(ANALYSIS) if _is_heavy(name)]
    assert found == []


def test_the_analysis_imports_of_kdwatts_only_records_and_formulas():
    is_open = tuple(f"kdwatts.{room}." for room in OPEN_ROOMS)
    found = [
        f"{where} {name}"
        for where, name in _imports_of(ANALYSIS)
        if name.startswith("kdwatts") and not f"{name}.".startswith(is_open)
    ]
    assert found == []


def test_the_formulas_that_the_analysis_imports_load_no_driver_and_no_probe():
    script = (
        "import sys, kdwatts.telemetry.recover, kdwatts.telemetry.parts; "
        "print(sorted(name for name in sys.modules if name.startswith('kdwatts.telemetry.')), "
        "[name for name in ('pynvml', 'psutil', 'numpy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    names = ("energy", "integration", "parts", "readings", "recover", "uncertainty")
    rooms = [f"kdwatts.telemetry.{name}" for name in names]
    assert printed.stdout.strip() == f"{rooms} []"


def test_quantiles_turn_errors_into_intervals_in_one_file_alone():
    words = ("1.96", "1.959", "NORMAL_975", "t_quantile", "stdtrit", "ndtri")
    uses = [_name(path) for path in BOTH if any(word in path.read_text("utf-8") for word in words)]
    assert uses == ["kdwatts/metrics/student_t.py"]


def test_importing_the_package_imports_nothing_else():
    script = (
        "import sys; before = set(sys.modules); import kdwatts; print(set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "{'kdwatts'}"


def test_no_file_is_much_longer_than_350_lines():
    lengths = {_name(path): len(path.read_text("utf-8").splitlines()) for path in BOTH}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
