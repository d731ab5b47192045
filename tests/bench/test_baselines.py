"""Baselines of a refactor: two of one tree are equal, and whatever changes is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench.baselines import analysis, keys, runs
from tests.bench.baselines.__main__ import main
from tests.bench.baselines.compare import compare
from tests.bench.baselines.pages import write_page
from tests.bench.baselines.places import fresh, masked
from tests.bench.baselines.runs import without_measured


@pytest.fixture
def differences(tmp_path: Path) -> Callable[..., list[str]]:
    """What is said of a file that holds these two texts, one before and one after."""

    def found(name: str, before: str, after: str, **how: float) -> list[str]:
        for side, text in (("before", before), ("after", after)):
            (fresh(tmp_path / side) / name).write_text(text)
        return compare(tmp_path / "before", tmp_path / "after", **how).differences

    return found


def test_a_changed_number_is_named_by_file_and_key(differences: Callable[..., list[str]]):
    before, after = '{"a": {"b": [1, 2.5]}}', '{"a": {"b": [1, 2.5000001]}}'
    assert differences("x.json", before, after) == ["x.json, a, b[1]: from 2.5 to 2.5000001"]
    assert differences("x.json", before, after, within=1e-6) == []
    assert differences("x.json", before, after, within=1e-9) != []


def test_an_integer_that_becomes_a_float_is_a_difference(differences: Callable[..., list[str]]):
    assert differences("x.json", '{"a": 1}', '{"a": 1.0}') == ["x.json, a: from 1 to 1.0"]


def test_a_row_is_told_by_what_it_is_of_and_else_by_its_number(
    differences: Callable[..., list[str]],
):
    rows = [{"of": "one", "key": "a"}, {"of": "two", "key": "b"}]
    before, after = (
        "\n".join(map(json.dumps, r)) for r in (rows, [rows[1], {**rows[0], "key": "c"}])
    )
    assert differences("x.jsonl", before, after) == ["x.jsonl, one, key: from a to c"]
    before, after = "a,b\n1,2.0\n3,4.0\n", "a,b\n1,2.0\n3,5.0\n"
    assert differences("x.csv", before, after) == ["x.csv, row 2, b: from 4.0 to 5.0"]


def test_a_key_that_is_gone_and_values_in_another_order_are_named(
    differences: Callable[..., list[str]],
):
    assert differences("x.json", '{"a": 1}', '{"b": 1}') == [
        "x.json, a: from 1 to (nothing)",
        "x.json, b: from (nothing) to 1",
    ]
    assert differences("x.json", '{"a": 1, "b": 2}', '{"b": 2, "a": 1}') == [
        "x.json: the same values in another order or form"
    ]


def test_a_changed_sentence_is_named_by_its_line_and_where_it_begins_to_differ(
    differences: Callable[..., list[str]],
):
    long = "word " * 100
    (found,) = differences("x.txt", f"first\n{long}saves.\nlast", f"first\n{long}costs.\nlast")
    assert found.startswith("x.txt, line 2: from ...")
    assert "saves." in found and "costs." in found
    assert differences("x.txt", "one\ntwo", "one") == ["x.txt, line 2: from two to (nothing)"]


def test_a_page_is_told_by_its_words_and_by_the_numbers_of_its_figures(tmp_path: Path):
    bdata = '{"y": {"dtype": "f8", "bdata": "AAAAAAAA8D8AAAAAAAAAQA=="}}'
    page = (
        f'<p>It <b>saves</b>&nbsp;energy.</p><script type="application/json">{bdata}</script>'
        '<style>p {}</style><a href="#x">more</a>'
    )
    write_page(tmp_path, "page", page)
    words = (tmp_path / "page.txt").read_text().splitlines()
    assert words == ["It", "saves", "energy.", "<a href=#x>", "more"]
    assert json.loads((tmp_path / "page figures" / "00.json").read_text()) == {"y": [1.0, 2.0]}


def test_numbers_of_a_sentence_are_masked_and_its_keys_are_not():
    said = "teacher: reused 6f1c09ab12345678 (3.1 MJ of 1,200 s, run 0-response-tiny)."
    assert masked(said) == "teacher: reused 6f1c09ab12345678 (# MJ of # s, run 0-response-tiny)."


def test_what_a_clock_tells_is_left_out_and_what_is_missing_stays():
    row = {"loss": 2.5, "seconds": 0.1, "energy_j": {"gpu": None, "cpu": 1.5}, "steps": 8}
    assert without_measured(row) == {
        "loss": 2.5,
        "seconds": "measured",
        "energy_j": {"gpu": None, "cpu": "measured"},
        "steps": 8,
    }


def _make(folder: Path) -> None:
    keys.make(folder / "keys", ["tiny", "tiny_teacher"])
    runs.make(folder / "runs", folder / "work" / "runs", ["feature"])
    analysis.make(folder / "analysis", folder / "work" / "analysis", None)


@pytest.mark.slow
def test_two_of_one_tree_are_equal_and_what_is_changed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before, after = tmp_path / "before", tmp_path / "longer" / "after"
    _make(before)
    _make(after)
    pages = before / "analysis" / "h100" / "pages"
    told = {name: (pages / f"{name}.txt").read_text() for name in ("research", "provider", "esg")}
    assert len(set(told.values())) == 3  # Each profile's own page, none of them another's.
    assert main(["compare", str(before), str(after)]) == 0, capsys.readouterr().out
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in told if not line.startswith("  ")] == [
        "keys: equal",
        "job: in neither",
        "runs: equal",
        "meter: in neither",
        "analysis: equal",
    ]

    log = after / "runs" / "one" / "0-feature-tiny" / "train.jsonl"
    first, *others = map(json.loads, log.read_text().splitlines())
    loss = first["loss"]
    changed = [first | {"loss": loss * (1 + 1e-13)}, *others]
    log.write_text("".join(f"{json.dumps(row)}\n" for row in changed))
    (after / "analysis" / "h100" / "tables of research" / "energy_by_stage.csv").unlink()
    page = after / "analysis" / "h100" / "pages" / "research.txt"
    page.write_text(page.read_text().replace("Where the energy went", "Where energy went"))
    assert main(["compare", str(before), str(after)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert "keys: equal" in told[0]
    named = [line.strip() for line in told if line.startswith("  ")]
    assert [line.partition(",")[0].partition(":")[0] for line in named] == [
        "one/0-feature-tiny/train.jsonl",
        "h100/pages/research.txt",
        "h100/tables of research/energy_by_stage.csv",
    ]
    assert named[0] == (
        f"one/0-feature-tiny/train.jsonl, row 1, loss: from {loss} to {changed[0]['loss']}"
    )
    assert named[1].endswith(": from Where the energy went to Where energy went")
    assert named[2].endswith("energy_by_stage.csv: the file is missing")

    assert main(["compare", str(before), str(after), "--parts", "runs", "--within", "1e-12"]) == 0
    assert ", 1 within 1e-12" in capsys.readouterr().out
