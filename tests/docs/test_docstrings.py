"""Docstrings: every public name has one, and those on the API pages name shapes and units."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/reference/api").glob("*.md"))

ROOMS = {
    "kdwatts": (
        *("artifacts", "data", "evaluation", "losses", "memory", "metrics", "models", "planning"),
        *("records", "runtime", "serving", "stages", "teacher", "telemetry", "tools", "training"),
    ),
    "multirun_analysis": ("collect", "figures", "statistics", "values"),
}

SHAPE = re.compile(r"\[[A-Z][^\]]*\]|\[[a-z]\]|\[[a-z], ?[A-Z0-9]+\]|\[\.\.\., [A-Z]\]|scalar")
"""Such as [N, V], [B, T, D], [n], [n, 1] or [..., D]: the axes of a tensor, in brackets."""

TENSORS = ("Tensor", "NDArray")

UNITS = {
    "_j": r"\bJ\b|[Jj]oule",
    "_w": r"\bW\b|[Ww]att",
    "_s": r"\bs\b|[Ss]econd|[Dd]uration",
    "_gib": r"GiB",
    "_mhz": r"MHz",
    "_pct": r"%|[Pp]er cent",
    "_kg": r"\bkg\b|[Kk]ilogram",
    "_usd": r"USD|[Dd]ollar",
    "_l": r"\bl\b|[Ll]itre",
    "_bytes": r"[Bb]yte",
    "_j_per_token": r"J/token|joules per token",
    "_tflops": r"TFLOP",
    "_cpus": r"CPUs",
}
"""End of a function's name to what its docstring says of the unit."""

Defined = ast.FunctionDef | ast.ClassDef


def modules() -> list[Path]:
    folders = [ROOT / package / room for package, rooms in ROOMS.items() for room in rooms]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def public(path: Path) -> Iterator[tuple[str, Defined]]:
    """Dotted name and definition of each public function, class and method of a file."""

    def below(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Defined]]:
        for node in body:
            if isinstance(node, Defined) and not node.name.startswith("_"):
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    yield from below(node.body, f"{prefix}{node.name}.")

    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    yield from below(ast.parse(path.read_text("utf-8")).body, f"{module}.")


def shown() -> dict[str, Defined]:
    """What the API pages show, by its dotted name."""
    known = {name: node for path in modules() for name, node in public(path)}
    found: dict[str, Defined] = {}
    for page in PAGES:
        for block in page.read_text("utf-8").split("\n::: ")[1:]:
            root = block.partition("\n")[0].strip()
            members = re.search(r"members: \[([^\]]*)\]", block)
            starts = [root]
            if members:
                starts = [f"{root}.{name.strip()}" for name in members[1].split(",")]
            for start in starts:
                found |= {n: d for n, d in known.items() if n == start or n.startswith(f"{start}.")}
    return found


def says(node: Defined) -> str:
    return ast.get_docstring(node) or ""


def types_of(node: ast.FunctionDef) -> str:
    """The types of a function's arguments and of what it returns, as they are written."""
    return " ".join([ast.unparse(node.args), ast.unparse(node.returns) if node.returns else ""])


def returns_number(node: ast.FunctionDef) -> bool:
    returned = ast.unparse(node.returns) if node.returns else ""
    return returned in ("float", "float | None", "int", "int | None")


def test_every_public_module_class_and_function_has_a_docstring():
    without = [str(p.relative_to(ROOT)) for p in modules() if not _module_docstring(p)]
    without += [name for path in modules() for name, node in public(path) if not says(node)]
    assert without == []


def test_the_first_line_of_a_docstring_is_a_sentence_or_a_noun_phrase_with_a_full_stop():
    wrong = []
    for path in modules():
        for name, node in public(path):
            first = says(node).partition("\n")[0]
            if not first.endswith((".", ":")):
                wrong.append(name)
    assert wrong == []


def test_pages_show_what_exists():
    names = [*shown()]
    assert len(names) > 300
    for page in PAGES:
        for root in re.findall(
            r"^::: (kdwatts|multirun_analysis)\.([\w.]+)$", page.read_text(), re.M
        ):
            path = ROOT.joinpath(root[0], *root[1].split("."))
            defined = path.with_suffix(".py").is_file() or path.parent.with_suffix(".py").is_file()
            assert defined, f"{page.name}: {'.'.join(root)}"


def test_a_function_on_an_api_page_that_takes_or_returns_tensors_names_a_shape():
    without = [
        name
        for name, node in shown().items()
        if isinstance(node, ast.FunctionDef)
        and any(tensor in types_of(node) for tensor in TENSORS)
        and not SHAPE.search(says(node))
    ]
    assert without == []


def test_a_number_on_an_api_page_whose_name_ends_in_a_unit_says_so_in_words():
    without = []
    for name, node in shown().items():
        ends = [end for end in UNITS if node.name.endswith(end)]
        if not (ends and isinstance(node, ast.FunctionDef) and returns_number(node)):
            continue
        if not re.search(UNITS[max(ends, key=len)], says(node)):
            without.append(name)
    assert without == []


def test_a_function_on_an_api_page_that_raises_says_so():
    """Only what the function itself raises is looked at, and not what it passes on."""
    silent = [
        name
        for name, node in shown().items()
        if isinstance(node, ast.FunctionDef)
        and any(_raises(each) for each in ast.walk(node))
        and "raise" not in says(node).lower()
    ]
    assert silent == []


def _raises(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and ast.unparse(node.exc.func) in ("ValueError", "RuntimeError")
    )


def _module_docstring(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text("utf-8")))
