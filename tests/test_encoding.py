"""Files are the same text in every locale, and printing ends no command."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdwatts.records.files import read_json, write_json

REPOSITORY = Path(__file__).parents[1]
FILES = [
    path
    for folder in ("kdwatts", "multirun_analysis", "hydra_plugins")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
OPENED_OTHERWISE = ("os", "lzma", "tarfile", "zipfile", "archive")
"""What has an `open` of its own, of bytes."""


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def calls(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            yield node.lineno, name, node


def mode(call: ast.Call) -> str:
    """How a file is opened; `w+b` where it is not said in a word."""
    places = call.args if isinstance(call.func, ast.Attribute) else call.args[1:]
    words = [*places[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    if not words:
        return "r"
    return str(words[0].value) if isinstance(words[0], ast.Constant) else "w+b"


def is_said(name: str, call: ast.Call) -> bool:
    """Whether a call that may open text says in which encoding."""
    options = {keyword.arg for keyword in call.keywords}
    if "encoding" in options:
        return True
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    is_foreign = isinstance(owner, ast.Name) and owner.id in OPENED_OTHERWISE
    if name == "open":
        return is_foreign or "b" in mode(call)
    if name == "fdopen":
        return "b" in str(getattr(call.args[1], "value", ""))
    if name in ("read_text", "write_text"):
        return len(call.args) > (name == "write_text") or isinstance(call.func, ast.Name)
    if name in ("run", "Popen", "check_output"):
        return not options & {"text", "universal_newlines"}
    return True


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale():
    unsaid = [
        f"{named(path)}:{line} {name}"
        for path in FILES
        for line, name, call in calls(path)
        if not is_said(name, call)
    ]
    assert unsaid == [], "give encoding="


def test_no_text_is_cut_where_unicode_ends_lines():
    """A line of JSON may hold U+2028, U+0085 and others, of which splitlines makes two."""
    cut = [
        f"{named(path)}:{line}"
        for path in FILES
        for line, name, _ in calls(path)
        if name == "splitlines"
    ]
    assert cut == [], r"split at \n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("path.open()", False),
        ("path.open('w')", False),
        ("open(path, 'rb')", True),
        ("path.read_text(errors='replace')", False),
        ("path.read_text('utf-8')", True),
        ("path.write_text(words)", False),
        ("subprocess.run(words, text=True)", False),
        ("os.fdopen(number, 'w')", False),
    ],
)
def test_a_call_that_leaves_the_encoding_to_the_locale_is_found(source: str, said: bool):
    call = ast.parse(source).body[0]
    assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call)
    func = call.value.func
    name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
    assert is_said(name, call.value) is said


def test_a_record_is_utf_8_whatever_wrote_it(tmp_path: Path):
    path = tmp_path / "record.json"
    write_json(path, {"schema": 1, "run": "Süd"})
    assert read_json(path)["run"] == "Süd"
    path.write_bytes('{"schema": 1, "run": "Süd \u2028"}'.encode())
    assert read_json(path)["run"] == "Süd \u2028"
